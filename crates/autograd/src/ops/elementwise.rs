//! Rows of a frozen table, residual sum, gated activation.

use kernels::ops::Activation;
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

    /// `act(gate) * up`.
    pub fn gated(&mut self, act: Activation, gate: &Var<K>, up: &Var<K>) -> Result<Var<K>> {
        same_shape("gated", "up", gate, up)?;
        let kind = MemoryKind::Activations;
        let out = multiply(self.backend(), act, &gate.tensor, &up.tensor, kind)?;
        let operands = [gate, up].map(|x| self.operand(x));
        let value = self.remake(1, move |backend| {
            let [gate, up] = operands.each_ref().map(|x| x.get(backend));
            Ok(vec![multiply(backend, act, &gate?, &up?, MemoryKind::Recomputed)?])
        });
        let needs_grad = gate.requires_grad() || up.requires_grad();
        let saved = [gate, up].map(|x| self.save(x));
        let (gate, up) = (Slot::of(gate), Slot::of(up));
        Ok(self.push(out, value, needs_grad, move |pass, grad| {
            let [d_gate, d_up] = saved.map(|x| x.take(&pass.backend));
            let mut d_gate = pass.unshare(d_gate?.into_buffer())?;
            let mut d_up = pass.unshare(d_up?.into_buffer())?;
            pass.backend.gated_backward(act, &mut d_gate, &mut d_up, &grad)?;
            drop(grad);
            pass.give(&gate, d_gate.into())?;
            pass.give(&up, d_up.into())
        }))
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

/// `act(gate) * up`, like `gate`.
fn multiply<K: Backend>(
    backend: &K,
    act: Activation,
    gate: &Tensor<K>,
    up: &Tensor<K>,
    kind: MemoryKind,
) -> Result<Tensor<K>> {
    let mut out = backend.alloc(gate.dtype(), gate.len(), kind)?;
    backend.gated(act, gate.buffer(), up.buffer(), &mut out)?;
    Ok(Tensor::new(out, gate.shape()))
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
