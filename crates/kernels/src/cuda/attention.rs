//! Attention by sequence.

use super::params::{
    ATTENTION_BACKWARD_KV, ATTENTION_BACKWARD_Q, ATTENTION_FORWARD, AttentionBackwardParams,
    AttentionParams, AttentionShape,
};
use super::{Cuda, CudaBuffer};
use crate::Result;
use crate::check::{Bounds, Op};
use crate::ops::{Attention, AttentionGrads, Sequences};

const THREADS: u32 = 128;

/// Checked shape, and the elements of q and of k.
struct Checked {
    shape: AttentionShape,
    q_len: usize,
    k_len: usize,
    lse_len: usize,
}

impl Checked {
    fn new(name: Op, op: Attention, sequences: &Sequences<Cuda>) -> Result<Self> {
        name.attention(op)?;
        let &Sequences { count, q_tokens, k_tokens, .. } = sequences;
        name.sequences(Bounds {
            q_start: &name.words("q_start", &sequences.q_start, count + 1)?,
            k_start: &name.words("k_start", &sequences.k_start, count)?,
            k_len: &name.words("k_len", &sequences.k_len, count)?,
            q_tokens,
            k_tokens,
        })?;
        let shape = AttentionShape {
            q_start: sequences.q_start.address(),
            k_start: sequences.k_start.address(),
            k_len: sequences.k_len.address(),
            count: count as u32,
            q_tokens: q_tokens as u32,
            k_tokens: k_tokens as u32,
            heads: op.heads as u32,
            kv_heads: op.kv_heads as u32,
            head_dim: op.head_dim as u32,
            // A window as long as every sequence hides nothing.
            window: op.window.filter(|&w| w < k_tokens).unwrap_or(0) as u32,
            scale: op.scale,
            softcap: op.softcap.unwrap_or(0.0),
            reserved: 0,
        };
        Ok(Self {
            shape,
            q_len: q_tokens * op.heads * op.head_dim,
            k_len: k_tokens * op.kv_heads * op.head_dim,
            lse_len: q_tokens * op.heads,
        })
    }

    fn query_grid(&self) -> [usize; 3] {
        [self.shape.q_tokens as usize, self.shape.heads as usize, 1]
    }

    /// Bytes of `rows` rows of one head in f32.
    fn shared(&self, rows: usize) -> usize {
        rows * self.shape.head_dim as usize * size_of::<f32>()
    }
}

/// Of `[q, k, v]`.
pub(super) fn forward(
    cuda: &Cuda,
    op: Attention,
    sequences: &Sequences<Cuda>,
    [q, k, v]: [&CudaBuffer; 3],
    o: &mut CudaBuffer,
    lse: &mut CudaBuffer,
) -> Result<()> {
    let name = Op("attention");
    let checked = Checked::new(name, op, sequences)?;
    let params = AttentionParams {
        shape: checked.shape,
        q: name.tensor("q", q, checked.q_len)?,
        k: name.tensor("k", k, checked.k_len)?,
        v: name.tensor("v", v, checked.k_len)?,
        o: name.tensor("o", o, checked.q_len)?,
        lse: name.single("lse", lse, checked.lse_len)?,
    };
    let (grid, shared) = (checked.query_grid(), checked.shared(2));
    cuda.driver().launch(&ATTENTION_FORWARD, &params, grid, THREADS, shared)
}

pub(super) fn backward(
    cuda: &Cuda,
    op: Attention,
    sequences: &Sequences<Cuda>,
    grads: &AttentionGrads<'_, Cuda>,
) -> Result<()> {
    let name = Op("attention_backward");
    let checked = Checked::new(name, op, sequences)?;
    let delta = cuda.scratch(checked.lse_len)?;
    let params = AttentionBackwardParams {
        shape: checked.shape,
        q: name.tensor("q", grads.q, checked.q_len)?,
        k: name.tensor("k", grads.k, checked.k_len)?,
        v: name.tensor("v", grads.v, checked.k_len)?,
        o: name.tensor("o", grads.o, checked.q_len)?,
        d_o: name.tensor("d_o", grads.d_o, checked.q_len)?,
        dq: name.tensor("dq", grads.dq, checked.q_len)?,
        dk: name.tensor("dk", grads.dk, checked.k_len)?,
        dv: name.tensor("dv", grads.dv, checked.k_len)?,
        lse: name.single("lse", grads.lse, checked.lse_len)?,
        delta: delta.address(),
    };
    let driver = cuda.driver();
    let shared = checked.shared(3);
    driver.launch(&ATTENTION_BACKWARD_Q, &params, checked.query_grid(), THREADS, shared)?;
    let keys = [checked.shape.k_tokens as usize, checked.shape.kv_heads as usize, 1];
    driver.launch(&ATTENTION_BACKWARD_KV, &params, keys, THREADS, checked.shared(4))
}
