//! Attention by sequence: on tensor cores for bf16 and the usual head sizes, else one query at a time;
//! single queries by the kernels of `decode_attention`.

use super::params::{
    ATTENTION_BACKWARD_KV, ATTENTION_BACKWARD_Q, ATTENTION_FORWARD, AttentionBackwardParams,
    AttentionParams, AttentionShape, DTYPE_BF16, FLASH_ATTENTION_64, FLASH_ATTENTION_96,
    FLASH_ATTENTION_128, FLASH_ATTENTION_256, FLASH_ATTENTION_BACKWARD_KV_64,
    FLASH_ATTENTION_BACKWARD_KV_96, FLASH_ATTENTION_BACKWARD_KV_128,
    FLASH_ATTENTION_BACKWARD_KV_256, FLASH_ATTENTION_BACKWARD_Q_64, FLASH_ATTENTION_BACKWARD_Q_96,
    FLASH_ATTENTION_BACKWARD_Q_128, FLASH_ATTENTION_BACKWARD_Q_256, FLASH_ATTENTION_DELTA,
    FLASH_ROWS, Kernel, Tensor,
};
use super::{Cuda, CudaBuffer, decode_attention};
use crate::Result;
use crate::check::{Bounds, Op, Sequence, lengths};
use crate::ops::{Attention, AttentionGrads, Sequences};

const THREADS: u32 = 128;
/// Rows of one block of `flash_attention_delta`.
const DELTAS: usize = 4;

/// The tensor-core kernels for one head size.
struct Flash {
    forward: Kernel<AttentionParams>,
    /// Keys of one tile of the forward.
    forward_step: usize,
    backward_q: Kernel<AttentionBackwardParams>,
    backward_kv: Kernel<AttentionBackwardParams>,
    /// Keys, or queries, of one tile of the backward.
    backward_step: usize,
    backward_kv_threads: u32,
}

const FLASH_64: Flash = Flash {
    forward: FLASH_ATTENTION_64,
    forward_step: 64,
    backward_q: FLASH_ATTENTION_BACKWARD_Q_64,
    backward_kv: FLASH_ATTENTION_BACKWARD_KV_64,
    backward_step: 64,
    backward_kv_threads: 128,
};

const FLASH_96: Flash = Flash {
    forward: FLASH_ATTENTION_96,
    forward_step: 64,
    backward_q: FLASH_ATTENTION_BACKWARD_Q_96,
    backward_kv: FLASH_ATTENTION_BACKWARD_KV_96,
    backward_step: 64,
    backward_kv_threads: 128,
};

const FLASH_128: Flash = Flash {
    forward: FLASH_ATTENTION_128,
    forward_step: 64,
    backward_q: FLASH_ATTENTION_BACKWARD_Q_128,
    backward_kv: FLASH_ATTENTION_BACKWARD_KV_128,
    backward_step: 32,
    backward_kv_threads: 128,
};

const FLASH_256: Flash = Flash {
    forward: FLASH_ATTENTION_256,
    forward_step: 32,
    backward_q: FLASH_ATTENTION_BACKWARD_Q_256,
    backward_kv: FLASH_ATTENTION_BACKWARD_KV_256,
    backward_step: 32,
    backward_kv_threads: 256,
};

impl Flash {
    /// For this shape and these operands, if there are any.
    fn find(shape: &AttentionShape, operands: &[Tensor]) -> Option<&'static Self> {
        let bf16 = operands.iter().all(|x| x.dtype == DTYPE_BF16);
        // The largest product has the largest score only if the scale is positive.
        if !bf16 || shape.softcap != 0.0 || shape.scale <= 0.0 || shape.scale.is_nan() {
            return None;
        }
        match shape.head_dim {
            64 => Some(&FLASH_64),
            96 => Some(&FLASH_96),
            128 => Some(&FLASH_128),
            256 => Some(&FLASH_256),
            _ => None,
        }
    }
}

/// Blocks of the tensor-core kernels for pieces of `lens` rows.
fn tiles(lens: impl Iterator<Item = usize>) -> usize {
    lens.map(|len| len.div_ceil(FLASH_ROWS as usize)).sum()
}

/// Checked shape, and the elements of q and of k.
struct Checked {
    shape: AttentionShape,
    sequences: Vec<Sequence>,
    q_len: usize,
    k_len: usize,
    lse_len: usize,
}

impl Checked {
    fn new(name: Op, op: Attention, sequences: &Sequences<Cuda>) -> Result<Self> {
        name.attention(op)?;
        let &Sequences { count, q_tokens, k_tokens, .. } = sequences;
        let bounds = name.sequences(Bounds {
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
            sequences: bounds,
            q_len: q_tokens * op.heads * op.head_dim,
            k_len: k_tokens * op.kv_heads * op.head_dim,
            lse_len: q_tokens * op.heads,
        })
    }

    fn query_grid(&self) -> [usize; 3] {
        [self.shape.q_tokens as usize, self.shape.heads as usize, 1]
    }

    fn query_tiles(&self) -> [usize; 3] {
        [tiles(self.sequences.iter().map(|s| s.q.len())), self.shape.heads as usize, 1]
    }

    fn key_tiles(&self) -> [usize; 3] {
        [tiles(self.sequences.iter().map(|s| s.k.len())), self.shape.kv_heads as usize, 1]
    }

    /// How many rows of k the sequences use, if no two use the same.
    fn keys_used_once(&self) -> Option<usize> {
        let mut used: Vec<_> =
            self.sequences.iter().map(|s| &s.k).filter(|k| !k.is_empty()).collect();
        used.sort_by_key(|k| k.start);
        let apart = used.windows(2).all(|pair| pair[0].end <= pair[1].start);
        apart.then(|| used.iter().map(|k| k.len()).sum())
    }

    /// Bytes of `rows` rows of one head in bf16.
    fn shared_bf16(&self, rows: usize) -> usize {
        self.shared(rows) / 2
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
    cuda.count_flops(name.0, op.flops(2, lengths(&checked.sequences)));
    let params = AttentionParams {
        shape: checked.shape,
        q: name.tensor("q", q, checked.q_len)?,
        k: name.tensor("k", k, checked.k_len)?,
        v: name.tensor("v", v, checked.k_len)?,
        o: name.tensor("o", o, checked.q_len)?,
        lse: name.single("lse", lse, checked.lse_len)?,
    };
    if decode_attention::run(cuda, &params, &checked.sequences)? {
        return Ok(());
    }
    if let Some(flash) = Flash::find(&params.shape, &[params.q, params.k, params.v, params.o]) {
        let shared = checked.shared_bf16(FLASH_ROWS as usize + 2 * flash.forward_step);
        return cuda.driver().launch(
            &flash.forward,
            &params,
            checked.query_tiles(),
            THREADS,
            shared,
        );
    }
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
    cuda.count_flops(name.0, op.flops(5, lengths(&checked.sequences)));
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
    let AttentionBackwardParams { q, k, v, o, d_o, dq, dk, dv, .. } = params;
    if let Some(flash) = Flash::find(&params.shape, &[q, k, v, o, d_o, dq, dk, dv])
        && let Some(used) = checked.keys_used_once()
    {
        if used < checked.shape.k_tokens as usize {
            driver.zero(grads.dk.address(), grads.dk.size())?;
            driver.zero(grads.dv.address(), grads.dv.size())?;
        }
        let deltas = [checked.lse_len.div_ceil(DELTAS), 1, 1];
        driver.launch(&FLASH_ATTENTION_DELTA, &params, deltas, THREADS, 0)?;
        let step = flash.backward_step;
        let shared = checked.shared_bf16(2 * FLASH_ROWS as usize + 2 * step);
        driver.launch(&flash.backward_q, &params, checked.query_tiles(), THREADS, shared)?;
        let (threads, shared) = (flash.backward_kv_threads, shared + 2 * step * size_of::<f32>());
        return driver.launch(&flash.backward_kv, &params, checked.key_tiles(), threads, shared);
    }
    let shared = checked.shared(3);
    driver.launch(&ATTENTION_BACKWARD_Q, &params, checked.query_grid(), THREADS, shared)?;
    let keys = [checked.shape.k_tokens as usize, checked.shape.kv_heads as usize, 1];
    driver.launch(&ATTENTION_BACKWARD_KV, &params, keys, THREADS, checked.shared(4))
}
