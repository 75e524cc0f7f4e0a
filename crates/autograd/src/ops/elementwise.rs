//! Rows of a frozen table, residual sum.

use kernels::{Backend, Buffer, MemoryKind};

use crate::tape::Slot;
use crate::{Error, Result, Tape, Tensor, Var};

impl<K: Backend> Tape<'_, K> {
    /// Rows `ids` (u32) of a frozen `[rows, cols]` table, in the residual stream's type.
    pub fn embed(&mut self, table: &K::Buffer, cols: usize, ids: &K::Buffer) -> Result<Var<K>> {
        let rows = ids.len();
        let mut out = self.alloc(self.precision().residual, rows * cols)?;
        self.backend().gather_rows(table, ids, cols, &mut out)?;
        Ok(Var::constant(Tensor::new(out, &[rows, cols])))
    }

    /// `x + y` in the type of `x`.
    pub fn add(&mut self, x: &Var<K>, y: &Var<K>) -> Result<Var<K>> {
        same_shape("add", "y", x, y)?;
        let out = sum(self.backend(), &x.tensor, &y.tensor, MemoryKind::Activations)?;
        Ok(self.push_sum(x, y, out))
    }

    /// The sum of `x` and `y`.
    pub(crate) fn push_sum(&mut self, x: &Var<K>, y: &Var<K>, out: Tensor<K>) -> Var<K> {
        let (left, right) = (self.operand(x), self.operand(y));
        let value = self.remake(1, move |backend| {
            let (x, y) = (left.get(backend)?, right.get(backend)?);
            Ok(vec![sum(backend, &x, &y, MemoryKind::Recomputed)?])
        });
        let needs_grad = x.requires_grad() || y.requires_grad();
        let (x, y) = (Slot::of(x), Slot::of(y));
        self.push(out, value, needs_grad, move |pass, grad| {
            pass.give(&x, grad.clone())?;
            pass.give(&y, grad)
        })
    }
}

/// `x + y`, like `x`.
fn sum<K: Backend>(
    backend: &K,
    x: &Tensor<K>,
    y: &Tensor<K>,
    kind: MemoryKind,
) -> Result<Tensor<K>> {
    let mut out = backend.alloc(x.dtype(), x.len(), kind)?;
    backend.add(x.buffer(), y.buffer(), &mut out)?;
    Ok(Tensor::new(out, x.shape()))
}

pub(super) fn same_shape<K: Backend>(
    op: &'static str,
    operand: &'static str,
    x: &Var<K>,
    y: &Var<K>,
) -> Result<()> {
    if x.tensor.shape() == y.tensor.shape() {
        return Ok(());
    }
    Err(Error::Shape {
        op,
        operand,
        actual: y.tensor.shape().to_vec(),
        expected: x.tensor.shape().to_vec(),
    })
}
