//! RMS norm over the last dimension.

use kernels::ops::RmsNorm;
use kernels::{Backend, DType, MemoryKind};

use super::elementwise::same_shape;
use crate::tape::Slot;
use crate::{Result, Tape, Tensor, Var};

impl<'m, K: Backend> Tape<'m, K> {
    /// `x / rms(x) * weight` over the last dimension; `weight` is frozen.
    pub fn rms_norm(&mut self, x: &Var<K>, weight: &'m K::Buffer, eps: f32) -> Result<Var<K>> {
        let norm = self.norm_of(x, weight, eps);
        let (y, inv_rms) = norm.run(self.backend(), &x.tensor, MemoryKind::Activations)?;
        Ok(self.push_norm(norm, x, y, inv_rms))
    }

    /// [`add`](Self::add) of `x` and `y`, and [`rms_norm`](Self::rms_norm) of the sum, of which `keep_sum` and
    /// `keep_norm` say whether they are [kept](Self::keep).
    pub fn add_rms_norm(
        &mut self,
        x: &Var<K>,
        y: &Var<K>,
        weight: &'m K::Buffer,
        eps: f32,
        [keep_sum, keep_norm]: [bool; 2],
    ) -> Result<(Var<K>, Var<K>)> {
        same_shape("add_rms_norm", "y", x, y)?;
        let mut sum = self.alloc(x.tensor.dtype(), x.tensor.len())?;
        let norm = self.norm_of(x, weight, eps);
        let kind = MemoryKind::Activations;
        let (mut normed, mut inv_rms) = norm.outputs(self.backend(), kind)?;
        let (a, b) = (x.tensor.buffer(), y.tensor.buffer());
        let op = norm.op;
        self.backend().add_rms_norm(op, a, b, weight, &mut sum, &mut normed, &mut inv_rms)?;
        self.keep(keep_sum);
        let sum = self.push_sum(x, y, Tensor::new(sum, x.tensor.shape()));
        self.keep(keep_norm);
        let normed = Tensor::new(normed, x.tensor.shape());
        let normed = self.push_norm(norm, &sum, normed, inv_rms);
        Ok((sum, normed))
    }

    /// The norm of rows like those of `x`.
    fn norm_of(&self, x: &Var<K>, weight: &'m K::Buffer, eps: f32) -> Norm<'m, K> {
        let op = RmsNorm { rows: x.tensor.rows(), cols: x.tensor.cols(), eps };
        Norm { op, weight, dtype: self.precision().activations }
    }

    fn push_norm(
        &mut self,
        norm: Norm<'m, K>,
        x: &Var<K>,
        y: Tensor<K>,
        inv_rms: K::Buffer,
    ) -> Var<K> {
        let Norm { op, weight, .. } = norm;
        let operand = self.operand(x);
        let value = self.remake(1, move |backend| {
            let (y, _) = norm.run(backend, &operand.get(backend)?, MemoryKind::Recomputed)?;
            Ok(vec![y])
        });
        let (input, slot) = (self.save(x), Slot::of(x));
        self.push(y, value, x.requires_grad(), move |pass, dy| {
            let x = input.get(&pass.backend)?;
            pass.accumulate(&slot, |pass, dx, accumulate| {
                let k = &pass.backend;
                Ok(k.rms_norm_backward(op, x.buffer(), weight, &inv_rms, &dy, dx, accumulate)?)
            })
        })
    }
}

/// A norm and the type of its output.
struct Norm<'m, K: Backend> {
    op: RmsNorm,
    weight: &'m K::Buffer,
    dtype: DType,
}

impl<K: Backend> Norm<'_, K> {
    /// Buffers for the output and for one over the root mean square of each row.
    fn outputs(&self, backend: &K, kind: MemoryKind) -> Result<(K::Buffer, K::Buffer)> {
        let RmsNorm { rows, cols, .. } = self.op;
        let y = backend.alloc(self.dtype, rows * cols, kind)?;
        Ok((y, backend.alloc(DType::F32, rows, kind)?))
    }

    fn run(&self, backend: &K, x: &Tensor<K>, kind: MemoryKind) -> Result<(Tensor<K>, K::Buffer)> {
        let (mut y, mut inv_rms) = self.outputs(backend, kind)?;
        backend.rms_norm(self.op, x.buffer(), self.weight, &mut y, &mut inv_rms)?;
        Ok((Tensor::new(y, x.shape()), inv_rms))
    }
}
