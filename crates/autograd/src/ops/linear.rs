//! Frozen linear with its adapter.

use kernels::ops::{Dropout, Linear, LinearGrads};
use kernels::{Backend, DType, MemoryKind};

use crate::remake::{Made, Saved};
use crate::tape::Slot;
use crate::{Error, FrozenLinear, LoraLinear, Params, Result, Tape, Tensor, Var};

impl<'m, K: Backend> Tape<'m, K> {
    /// `x . W^T + bias`, plus the adapter's delta where there is one. Gradients flow to `x` and to
    /// the adapter. Dropout is drawn on training tapes only.
    pub fn linear(
        &mut self,
        x: &Var<K>,
        linear: &'m FrozenLinear<K>,
        adapter: Option<(LoraLinear, &'m Params<K>)>,
        dropout: Option<Dropout>,
    ) -> Result<Var<K>> {
        self.linear_as(self.precision().activations, x, linear, adapter, dropout)
    }

    /// As [`linear`](Self::linear), with an output of type `dtype`.
    pub fn linear_as(
        &mut self,
        dtype: DType,
        x: &Var<K>,
        linear: &'m FrozenLinear<K>,
        adapter: Option<(LoraLinear, &'m Params<K>)>,
        dropout: Option<Dropout>,
    ) -> Result<Var<K>> {
        let (m, n, k) = (x.tensor.rows(), linear.out_features, linear.in_features);
        if x.tensor.cols() != k {
            return Err(Error::Shape {
                op: "linear",
                operand: "x",
                actual: x.tensor.shape().to_vec(),
                expected: vec![m, k],
            });
        }
        let dropout = dropout.filter(|_| self.is_recording());
        let op = Linear {
            m,
            n,
            k,
            weight: linear.weight.operand(),
            bias: linear.bias.as_ref(),
            lora: adapter.map(|(lora, params)| lora.operand(params, dropout)),
        };
        let mut made = multiply(self.backend(), &op, &x.tensor, dtype, MemoryKind::Activations)?;
        let operand = self.source(x);
        let value = self.remake(made.len(), move |backend| {
            multiply(backend, &op, &operand.get(backend)?, dtype, MemoryKind::Recomputed)
        });
        let input = self.save(x);
        let xa = made.get(1).map(|xa| self.save_result(value, 1, xa));
        let slot = Slot::of(x);
        let needs_grad = slot.wanted() || adapter.is_some();
        Ok(self.push(made.swap_remove(0), value, needs_grad, move |pass, dy| {
            let x = input.get(&pass.backend)?;
            // Where it is not at hand the backward makes it: a small part of making `y` too.
            let xa = xa.as_ref().and_then(Saved::at_hand);
            let mut dx = pass.take(&slot)?;
            let [da, db] = match adapter {
                Some((lora, _)) => pass.params.pair_mut(lora.a, lora.b).map(Some),
                None => [None, None],
            };
            let accumulate_dx = dx.as_ref().is_some_and(|(_, partial)| *partial);
            let dx_buffer = dx.as_mut().map(|(buffer, _)| buffer);
            let grads = LinearGrads { dx: dx_buffer, accumulate_dx, da, db };
            let xa = xa.as_ref().map(Tensor::buffer);
            pass.backend.linear_backward(&op, x.buffer(), xa, &dy, grads)?;
            if let Some((dx, _)) = dx {
                pass.put(&slot, dx);
            }
            Ok(())
        }))
    }
}

/// The product, and with an adapter `dropout(x) . A^T`.
fn multiply<K: Backend>(
    backend: &K,
    op: &Linear<'_, K>,
    x: &Tensor<K>,
    dtype: DType,
    kind: MemoryKind,
) -> Result<Made<K>> {
    let (m, n) = (op.m, op.n);
    let mut y = backend.alloc(dtype, m * n, kind)?;
    let mut xa = op.lora.map(|lora| backend.alloc(DType::F32, m * lora.r, kind)).transpose()?;
    backend.linear(op, x.buffer(), &mut y, xa.as_mut())?;
    let mut shape = x.shape().to_vec();
    *shape.last_mut().expect("x has columns") = n;
    let mut made = vec![Tensor::new(y, &shape)];
    made.extend(op.lora.zip(xa).map(|(lora, xa)| Tensor::new(xa, &[m, lora.r])));
    Ok(made)
}
