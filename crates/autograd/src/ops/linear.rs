//! Frozen linear with its adapter.

use kernels::ops::{Dropout, Linear, LinearBackward, LinearInto};
use kernels::{Backend, DType, MemoryKind};

use crate::remake::{Made, Saved};
use crate::tape::Slot;
use crate::tensor::ValueId;
use crate::{AdaptedLinear, Error, FrozenLinear, LoraLinear, Params, Result, Tape, Tensor, Var};

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
        let [y] = self.linears_as(dtype, x, [AdaptedLinear { linear, adapter, dropout }])?;
        Ok(y)
    }

    /// [`linear`](Self::linear) for several of one input, which a backend may do as one. They are kept, or made again,
    /// together.
    pub fn linears<const N: usize>(
        &mut self,
        x: &Var<K>,
        linears: [AdaptedLinear<'m, K>; N],
    ) -> Result<[Var<K>; N]> {
        self.linears_as(self.precision().activations, x, linears)
    }

    fn linears_as<const N: usize>(
        &mut self,
        dtype: DType,
        x: &Var<K>,
        linears: [AdaptedLinear<'m, K>; N],
    ) -> Result<[Var<K>; N]> {
        let ops = linears.map(|linear| self.op(x.tensor.rows(), linear));
        if let Some(linear) =
            linears.iter().find(|linear| linear.linear.in_features != x.tensor.cols())
        {
            return Err(Error::Shape {
                op: "linear",
                operand: "x",
                actual: x.tensor.shape().to_vec(),
                expected: vec![x.tensor.rows(), linear.linear.in_features],
            });
        }
        let made = multiply(self.backend(), &ops, &x.tensor, dtype, MemoryKind::Activations)?;
        let operand = self.operand(x);
        let value = self.remake(made.len(), move |backend| {
            multiply(backend, &ops, &operand.get(backend)?, dtype, MemoryKind::Recomputed)
        });
        let mut made = made.into_iter().enumerate();
        let results = ops.map(|op| {
            let mut next = || made.next().expect("results of each");
            let (which, y) = next();
            let xa = op.lora.map(|_| next()).map(|(which, xa)| self.save_result(value, which, &xa));
            ((y, value.map(|value| value.result(which))), xa)
        });
        let adapters = linears.map(|linear| linear.adapter.map(|(lora, _)| lora));
        Ok(self.push_linears(x, results, ops, adapters))
    }

    /// Of an input of `rows`, as the backend is given it.
    pub(super) fn op(&self, rows: usize, linear: AdaptedLinear<'m, K>) -> Linear<'m, K> {
        let AdaptedLinear { linear, adapter, dropout } = linear;
        let dropout = dropout.filter(|_| self.is_recording());
        Linear {
            m: rows,
            n: linear.out_features,
            k: linear.in_features,
            weight: linear.weight.operand(),
            bias: linear.bias.as_ref(),
            lora: adapter.map(|(lora, params)| lora.operand(params, dropout)),
        }
    }

    /// Results `y` and `xa` of linears, and their backward.
    fn push_linears<const N: usize>(
        &mut self,
        x: &Var<K>,
        results: [Product<'m, K>; N],
        ops: [Linear<'m, K>; N],
        adapters: [Option<LoraLinear>; N],
    ) -> [Var<K>; N] {
        let (input, slot) = (self.save(x), Slot::of(x));
        let mut adapted = adapters.iter();
        let mut xas = Vec::new();
        let results = results.map(|((y, value), xa)| {
            xas.push(xa);
            let adapted = adapted.next().is_some_and(Option::is_some);
            (y, value, slot.wanted() || adapted)
        });
        self.push_all(results, move |pass, dys| {
            let x = input.get(&pass.backend)?;
            // Where it is not at hand the backward makes it: a small part of making `y` too.
            let xas: Vec<_> = xas.iter().map(|xa| xa.as_ref().and_then(Saved::at_hand)).collect();
            let mut dx = pass.take(&slot)?;
            let accumulate_dx = dx.as_ref().is_some_and(|(_, partial)| *partial);
            let wanted = (0..N).filter(|&i| dys[i].is_some()).filter_map(|i| adapters[i]);
            let mut grads = pass.params.pairs_mut(wanted.map(|lora| [lora.a, lora.b])).into_iter();
            let mut linears = Vec::new();
            for (((op, dy), xa), adapter) in ops.into_iter().zip(&dys).zip(&xas).zip(adapters) {
                let Some(dy) = dy else { continue };
                let [da, db] = match adapter {
                    Some(_) => grads.next().expect("gradients of each adapter").map(Some),
                    None => [None, None],
                };
                let xa = xa.as_ref().map(Tensor::buffer);
                linears.push(LinearBackward { op, xa, dy, da, db });
            }
            let dx_buffer = dx.as_mut().map(|(buffer, _)| buffer);
            pass.backend.linears_backward(x.buffer(), &mut linears, dx_buffer, accumulate_dx)?;
            if let Some((dx, _)) = dx {
                pass.put(&slot, dx);
            }
            Ok(())
        })
    }
}

/// `y` with where its value comes from, and `xa` for the backward.
type Product<'m, K> = ((Tensor<K>, Option<ValueId>), Option<Saved<'m, K>>);

/// Of each linear the product, and with an adapter `dropout(x) . A^T`.
pub(super) fn multiply<K: Backend>(
    backend: &K,
    ops: &[Linear<'_, K>],
    x: &Tensor<K>,
    dtype: DType,
    kind: MemoryKind,
) -> Result<Made<K>> {
    let mut buffers = Vec::new();
    for &op in ops {
        let y = backend.alloc(dtype, op.m * op.n, kind)?;
        let xa = op.lora.map(|lora| backend.alloc(DType::F32, op.m * lora.r, kind)).transpose()?;
        buffers.push((op, y, xa));
    }
    let mut linears: Vec<_> =
        buffers.iter_mut().map(|(op, y, xa)| LinearInto { op: *op, y, xa: xa.as_mut() }).collect();
    backend.linears(x.buffer(), &mut linears)?;
    let mut made = Vec::new();
    for (op, y, xa) in buffers {
        let mut shape = x.shape().to_vec();
        *shape.last_mut().expect("x has columns") = op.n;
        made.push(Tensor::new(y, &shape));
        made.extend(op.lora.zip(xa).map(|(lora, xa)| Tensor::new(xa, &[op.m, lora.r])));
    }
    Ok(made)
}
