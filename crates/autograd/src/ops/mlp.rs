//! The MLP of a decoder layer. What its gate lets through is never kept: the backward makes it again on its way.

use kernels::ops::{Activation, Linear, LinearBackward};
use kernels::{Backend, MemoryKind};

use super::linear::multiply;
use crate::remake::Made;
use crate::tape::{Slot, unshare};
use crate::{AdaptedLinear, Error, Result, Tape, Tensor, Var};

impl<'m, K: Backend> Tape<'m, K> {
    /// `down(act(gate(x)) * up(x))`. The outputs of `gate` and `up` are kept, or made again, together.
    pub fn mlp(
        &mut self,
        act: Activation,
        x: &Var<K>,
        gate_up: [AdaptedLinear<'m, K>; 2],
        down: AdaptedLinear<'m, K>,
    ) -> Result<Var<K>> {
        let (dtype, kind) = (self.precision().activations, MemoryKind::Activations);
        let [gate, up] = self.linears(x, gate_up)?;
        for (operand, x) in [("gate", &gate), ("up", &up)] {
            if x.tensor.cols() != down.linear.in_features {
                return Err(Error::Shape {
                    op: "mlp",
                    operand,
                    actual: x.tensor.shape().to_vec(),
                    expected: vec![x.tensor.rows(), down.linear.in_features],
                });
            }
        }
        let gated = gated(self.backend(), act, [&gate.tensor, &up.tensor], kind)?;
        let op = self.op(x.tensor.rows(), down);
        let made = multiply(self.backend(), &[op], &gated, dtype, kind)?;
        Ok(self.push_down(act, [&gate, &up], (op, down), made))
    }

    /// What `op` made of the gated product, and its backward.
    fn push_down(
        &mut self,
        act: Activation,
        gate_up: [&Var<K>; 2],
        (op, down): (Linear<'m, K>, AdaptedLinear<'m, K>),
        made: Made<K>,
    ) -> Var<K> {
        let dtype = made[0].dtype();
        let operands = gate_up.map(|x| self.operand(x));
        let value = self.remake(made.len(), move |backend| {
            let [gate, up] = operands.each_ref().map(|x| x.get(backend));
            let gated = gated(backend, act, [&gate?, &up?], MemoryKind::Recomputed)?;
            multiply(backend, &[op], &gated, dtype, MemoryKind::Recomputed)
        });
        let mut made = made.into_iter();
        let y = made.next().expect("a product");
        let xa = made.next().map(|xa| self.save_result(value, 1, &xa));
        let (saved, slots) = (gate_up.map(|x| self.save(x)), gate_up.map(Slot::of));
        let adapter = down.adapter.map(|(lora, _)| lora);
        let gates = slots.iter().any(Slot::wanted);
        self.push(y, value, gates || adapter.is_some(), move |pass, dy| {
            // What it would be made of is needed no more then.
            let xa = xa.and_then(|xa| xa.at_hand());
            let [gate, up] = saved.map(|x| x.take(&pass.backend));
            let (gate, up) = (gate?, up?);
            let grads = adapter.map(|lora| {
                let mut grads = pass.params.pairs_mut([[lora.a, lora.b]].into_iter());
                grads.pop().expect("gradients of an adapter")
            });
            let [da, db] = grads.map_or([None, None], |grads| grads.map(Some));
            let xa = xa.as_ref().map(Tensor::buffer);
            let linear = LinearBackward { op, xa, dy: &dy, da, db };
            let backend = &pass.backend;
            if !gates {
                let gated = gated(backend, act, [&gate, &up], MemoryKind::Recomputed)?;
                return Ok(backend.linears_backward(gated.buffer(), &mut [linear], None, false)?);
            }
            let mut gated = backend.alloc(gate.dtype(), gate.len(), MemoryKind::Recomputed)?;
            let own =
                |x: Tensor<K>| unshare(backend, x.into_buffer(), MemoryKind::ActivationGradients);
            let (mut d_gate, mut d_up) = (own(gate)?, own(up)?);
            backend.linear_of_gated_backward(act, &mut d_gate, &mut d_up, &mut gated, linear)?;
            drop((gated, dy));
            let [gate, up] = slots;
            pass.give(&gate, d_gate.into())?;
            pass.give(&up, d_up.into())
        })
    }
}

/// `act(gate) * up`.
fn gated<K: Backend>(
    backend: &K,
    act: Activation,
    [gate, up]: [&Tensor<K>; 2],
    kind: MemoryKind,
) -> Result<Tensor<K>> {
    let mut out = backend.alloc(gate.dtype(), gate.len(), kind)?;
    backend.gated(act, gate.buffer(), up.buffer(), &mut out)?;
    Ok(Tensor::new(out, gate.shape()))
}
