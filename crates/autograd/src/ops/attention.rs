//! Causal attention over sequences of any lengths.

use std::sync::Arc;

use kernels::ops::{Attention, AttentionGrads, Sequences};
use kernels::{Backend, DType, MemoryKind};

use crate::tape::Slot;
use crate::{Result, Tape, Tensor, Var};

impl<K: Backend> Tape<'_, K> {
    /// Attention of `q` `[tokens, heads * head_dim]` over `k` and `v`.
    pub fn attention(
        &mut self,
        op: Attention,
        sequences: &Arc<Sequences<K>>,
        q: &Var<K>,
        k: &Var<K>,
        v: &Var<K>,
    ) -> Result<Var<K>> {
        let kind = MemoryKind::Activations;
        let [qt, kt, vt] = [q, k, v].map(Var::tensor);
        let (o, lse) = attend(self.backend(), op, sequences, [qt, kt, vt], kind)?;
        let operands = [q, k, v].map(|x| self.operand(x));
        let value = {
            let sequences = Arc::clone(sequences);
            self.remake(2, move |backend| {
                let [q, k, v] = operands.each_ref().map(|x| x.get(backend));
                let operands = [&q?, &k?, &v?];
                let (o, lse) = attend(backend, op, &sequences, operands, MemoryKind::Recomputed)?;
                Ok(vec![o, lse])
            })
        };
        let inputs = [q, k, v].map(|x| self.save(x));
        let outputs = [(0, &o), (1, &lse)].map(|(i, x)| self.save_result(value, i, x));
        let needs_grad = q.requires_grad() || k.requires_grad() || v.requires_grad();
        let [q, k, v] = [q, k, v].map(Slot::of);
        let sequences = Arc::clone(sequences);
        Ok(self.push(o, value, needs_grad, move |pass, d_o| {
            let [o, lse] = outputs.each_ref().map(|x| x.get(&pass.backend));
            let [qt, kt, vt] = inputs.each_ref().map(|x| x.get(&pass.backend));
            let (qt, kt, vt, o, lse) = (qt?, kt?, vt?, o?, lse?);
            let (mut dq, mut dk, mut dv) = (pass.alloc(&q)?, pass.alloc(&k)?, pass.alloc(&v)?);
            let grads = AttentionGrads {
                q: qt.buffer(),
                k: kt.buffer(),
                v: vt.buffer(),
                o: o.buffer(),
                lse: lse.buffer(),
                d_o: d_o.as_ref(),
                dq: &mut dq,
                dk: &mut dk,
                dv: &mut dv,
            };
            pass.backend.attention_backward(op, &sequences, grads)?;
            pass.give(&q, dq.into())?;
            pass.give(&k, dk.into())?;
            pass.give(&v, dv.into())
        }))
    }
}

/// Output and log-sum-exp of attention.
fn attend<K: Backend>(
    backend: &K,
    op: Attention,
    sequences: &Sequences<K>,
    [q, k, v]: [&Tensor<K>; 3],
    kind: MemoryKind,
) -> Result<(Tensor<K>, Tensor<K>)> {
    let shape = [sequences.q_tokens, op.heads];
    let mut o = backend.alloc(q.dtype(), q.len(), kind)?;
    let mut lse = backend.alloc(DType::F32, shape.iter().product(), kind)?;
    let (q_rows, k, v) = (q.buffer(), k.buffer(), v.buffer());
    backend.attention(op, sequences, q_rows, k, v, &mut o, &mut lse)?;
    Ok((Tensor::new(o, q.shape()), Tensor::new(lse, &shape)))
}
