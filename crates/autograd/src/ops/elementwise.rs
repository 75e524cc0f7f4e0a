//! Rows of a frozen table, residual sum, gated activation.

use kernels::ops::Activation;
use kernels::{Backend, Buffer};

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
        let mut out = self.alloc(x.tensor.dtype(), x.tensor.len())?;
        self.backend().add(x.tensor.buffer(), y.tensor.buffer(), &mut out)?;
        Ok(self.push_sum(x, y, out))
    }

    /// The sum of `x` and `y`.
    pub(crate) fn push_sum(&mut self, x: &Var<K>, y: &Var<K>, sum: K::Buffer) -> Var<K> {
        let sum = Tensor::new(sum, x.tensor.shape());
        let needs_grad = x.requires_grad() || y.requires_grad();
        let (x, y) = (Slot::of(x), Slot::of(y));
        self.push(sum, needs_grad, move |pass, grad| {
            pass.give(&x, grad.clone())?;
            pass.give(&y, grad)
        })
    }

    /// `act(gate) * up`.
    pub fn gated(&mut self, act: Activation, gate: &Var<K>, up: &Var<K>) -> Result<Var<K>> {
        same_shape("gated", "up", gate, up)?;
        let mut out = self.alloc(gate.tensor.dtype(), gate.tensor.len())?;
        let (g, u) = (gate.tensor.clone(), up.tensor.clone());
        self.backend().gated(act, g.buffer(), u.buffer(), &mut out)?;
        let out = Tensor::new(out, gate.tensor.shape());
        let needs_grad = gate.requires_grad() || up.requires_grad();
        let (gate, up) = (Slot::of(gate), Slot::of(up));
        Ok(self.push(out, needs_grad, move |pass, grad| {
            let (mut d_gate, mut d_up) = (pass.alloc(&gate)?, pass.alloc(&up)?);
            pass.backend.gated_backward(
                act,
                g.buffer(),
                u.buffer(),
                &grad,
                &mut d_gate,
                &mut d_up,
            )?;
            pass.give(&gate, d_gate.into())?;
            pass.give(&up, d_up.into())
        }))
    }
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
