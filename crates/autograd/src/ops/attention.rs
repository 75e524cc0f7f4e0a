//! Causal attention over sequences of any lengths.

use std::sync::Arc;

use kernels::ops::{Attention, AttentionGrads, Sequences};
use kernels::{Backend, DType};

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
        let mut o = self.alloc(q.tensor.dtype(), q.tensor.len())?;
        let mut lse = self.alloc(DType::F32, sequences.q_tokens * op.heads)?;
        let [qt, kt, vt] = [q, k, v].map(|x| x.tensor.clone());
        let (qb, kb, vb) = (qt.buffer(), kt.buffer(), vt.buffer());
        self.backend().attention(op, sequences, qb, kb, vb, &mut o, &mut lse)?;
        let o = Tensor::new(o, q.tensor.shape());
        let kept = o.clone();
        let needs_grad = q.requires_grad() || k.requires_grad() || v.requires_grad();
        let [q, k, v] = [q, k, v].map(Slot::of);
        let sequences = Arc::clone(sequences);
        Ok(self.push(o, needs_grad, move |pass, d_o| {
            let (mut dq, mut dk, mut dv) = (pass.alloc(&q)?, pass.alloc(&k)?, pass.alloc(&v)?);
            let grads = AttentionGrads {
                q: qt.buffer(),
                k: kt.buffer(),
                v: vt.buffer(),
                o: kept.buffer(),
                lse: &lse,
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
