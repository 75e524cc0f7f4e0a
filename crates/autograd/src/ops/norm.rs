//! RMS norm over the last dimension.

use kernels::ops::RmsNorm;
use kernels::{Backend, DType};

use crate::tape::Slot;
use crate::{Result, Tape, Tensor, Var};

impl<'m, K: Backend> Tape<'m, K> {
    /// `x / rms(x) * weight` over the last dimension; `weight` is frozen.
    pub fn rms_norm(&mut self, x: &Var<K>, weight: &'m K::Buffer, eps: f32) -> Result<Var<K>> {
        let op = RmsNorm { rows: x.tensor.rows(), cols: x.tensor.cols(), eps };
        let mut y = self.alloc(self.precision().activations, x.tensor.len())?;
        let mut inv_rms = self.alloc(DType::F32, op.rows)?;
        let input = x.tensor.clone();
        self.backend().rms_norm(op, input.buffer(), weight, &mut y, &mut inv_rms)?;
        let y = Tensor::new(y, x.tensor.shape());
        let slot = Slot::of(x);
        Ok(self.push(y, x.requires_grad(), move |pass, dy| {
            pass.accumulate(&slot, |pass, dx, accumulate| {
                let k = &pass.backend;
                Ok(k.rms_norm_backward(op, input.buffer(), weight, &inv_rms, &dy, dx, accumulate)?)
            })
        }))
    }
}
