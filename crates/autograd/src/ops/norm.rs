//! RMS norm over the last dimension.

use kernels::ops::RmsNorm;
use kernels::{Backend, DType};

use super::elementwise::same_shape;
use crate::tape::Slot;
use crate::{Result, Tape, Tensor, Var};

impl<'m, K: Backend> Tape<'m, K> {
    /// `x / rms(x) * weight` over the last dimension; `weight` is frozen.
    pub fn rms_norm(&mut self, x: &Var<K>, weight: &'m K::Buffer, eps: f32) -> Result<Var<K>> {
        let (op, mut y, mut inv_rms) = self.norm_of(x, eps)?;
        self.backend().rms_norm(op, x.tensor.buffer(), weight, &mut y, &mut inv_rms)?;
        Ok(self.push_norm(op, x, weight, y, inv_rms))
    }

    /// [`add`](Self::add) of `x` and `y`, and [`rms_norm`](Self::rms_norm) of the sum.
    pub fn add_rms_norm(
        &mut self,
        x: &Var<K>,
        y: &Var<K>,
        weight: &'m K::Buffer,
        eps: f32,
    ) -> Result<(Var<K>, Var<K>)> {
        same_shape("add_rms_norm", "y", x, y)?;
        let mut sum = self.alloc(x.tensor.dtype(), x.tensor.len())?;
        let (op, mut normed, mut inv_rms) = self.norm_of(x, eps)?;
        let (a, b) = (x.tensor.buffer(), y.tensor.buffer());
        self.backend().add_rms_norm(op, a, b, weight, &mut sum, &mut normed, &mut inv_rms)?;
        let sum = self.push_sum(x, y, sum);
        let normed = self.push_norm(op, &sum, weight, normed, inv_rms);
        Ok((sum, normed))
    }

    /// The norm of rows like those of `x`, and buffers for its outputs.
    fn norm_of(&self, x: &Var<K>, eps: f32) -> Result<(RmsNorm, K::Buffer, K::Buffer)> {
        let op = RmsNorm { rows: x.tensor.rows(), cols: x.tensor.cols(), eps };
        let y = self.alloc(self.precision().activations, x.tensor.len())?;
        Ok((op, y, self.alloc(DType::F32, op.rows)?))
    }

    fn push_norm(
        &mut self,
        op: RmsNorm,
        x: &Var<K>,
        weight: &'m K::Buffer,
        y: K::Buffer,
        inv_rms: K::Buffer,
    ) -> Var<K> {
        let (input, slot) = (x.tensor.clone(), Slot::of(x));
        let y = Tensor::new(y, x.tensor.shape());
        self.push(y, x.requires_grad(), move |pass, dy| {
            pass.accumulate(&slot, |pass, dx, accumulate| {
                let k = &pass.backend;
                Ok(k.rms_norm_backward(op, input.buffer(), weight, &inv_rms, &dy, dx, accumulate)?)
            })
        })
    }
}
