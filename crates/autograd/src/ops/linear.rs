//! Frozen linear with its adapter.

use kernels::ops::{Dropout, Linear, LinearGrads};
use kernels::{Backend, DType};

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
        let dropout = dropout.filter(|_| self.is_training());
        let op = Linear {
            m,
            n,
            k,
            weight: linear.weight.operand(),
            bias: linear.bias.as_ref(),
            lora: adapter.map(|(lora, params)| lora.operand(params, dropout)),
        };
        let mut y = self.alloc(dtype, m * n)?;
        let mut xa = adapter.map(|(lora, _)| self.alloc(DType::F32, m * lora.r)).transpose()?;
        let input = x.tensor.clone();
        self.backend().linear(&op, input.buffer(), &mut y, xa.as_mut())?;

        let mut shape = x.tensor.shape().to_vec();
        *shape.last_mut().expect("x has columns") = n;
        let slot = Slot::of(x);
        let needs_grad = slot.wanted() || adapter.is_some();
        Ok(self.push(Tensor::new(y, &shape), needs_grad, move |pass, dy| {
            let mut dx = pass.take(&slot)?;
            let [da, db] = match adapter {
                Some((lora, _)) => pass.params.pair_mut(lora.a, lora.b).map(Some),
                None => [None, None],
            };
            let accumulate_dx = dx.as_ref().is_some_and(|(_, partial)| *partial);
            let dx_buffer = dx.as_mut().map(|(buffer, _)| buffer);
            let grads = LinearGrads { dx: dx_buffer, accumulate_dx, da, db };
            pass.backend.linear_backward(&op, input.buffer(), xa.as_ref(), &dy, grads)?;
            if let Some((dx, _)) = dx {
                pass.put(&slot, dx);
            }
            Ok(())
        }))
    }
}
