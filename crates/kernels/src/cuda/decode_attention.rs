//! Attention of one query a sequence: the keys are cut into parts, so that few sequences fill the
//! device.

use super::Cuda;
use super::params::{
    AttentionParams, DECODE_ATTENTION_BF16_1, DECODE_ATTENTION_BF16_4, DECODE_ATTENTION_BF16_8,
    DECODE_ATTENTION_COMBINE, DECODE_ATTENTION_F32_1, DECODE_ATTENTION_F32_4,
    DECODE_ATTENTION_F32_8, DECODE_QUERIES, DECODE_THREADS, DTYPE_BF16, DecodeAttentionParams,
    Kernel,
};
use crate::Result;
use crate::check::Sequence;

/// Blocks that a multiprocessor should get.
const BLOCKS_EACH: usize = 2;
/// Fewest keys of a part, and what their number is a multiple of.
const KEYS: usize = 64;
const LARGEST_HEAD: u32 = 256;

/// Bf16, then f32 keys, by the queries that a block takes.
const KERNELS: [[Kernel<DecodeAttentionParams>; 3]; 2] = [
    [DECODE_ATTENTION_BF16_1, DECODE_ATTENTION_BF16_4, DECODE_ATTENTION_BF16_8],
    [DECODE_ATTENTION_F32_1, DECODE_ATTENTION_F32_4, DECODE_ATTENTION_F32_8],
];

/// One query at most a sequence, and rows of keys that begin at multiples of 16 bytes.
fn takes(params: &AttentionParams, sequences: &[Sequence]) -> bool {
    let &AttentionParams { shape, k, v, .. } = params;
    sequences.iter().all(|s| s.q.len() <= 1)
        && k.dtype == v.dtype
        && shape.head_dim % 8 == 0
        && shape.head_dim <= LARGEST_HEAD
}

/// Runs attention if it is one for these kernels; says whether it was.
pub(super) fn run(cuda: &Cuda, params: &AttentionParams, sequences: &[Sequence]) -> Result<bool> {
    if !takes(params, sequences) {
        return Ok(false);
    }
    let shape = params.shape;
    let (heads, head_dim) = (shape.heads as usize, shape.head_dim as usize);
    let group = shape.heads / shape.kv_heads;
    let (queries, kernel) = match group {
        1 => (1, 0),
        2..=4 => (4, 1),
        _ => (DECODE_QUERIES, 2),
    };
    let kernel = &KERNELS[usize::from(params.k.dtype != DTYPE_BF16)][kernel];
    let blocks = (shape.kv_heads * group.div_ceil(queries)) as usize;

    let window = if shape.window == 0 { usize::MAX } else { shape.window as usize };
    let active = sequences.iter().filter(|s| !s.q.is_empty());
    let keys = active.clone().map(|s| s.k.len().min(window)).max().unwrap_or(0);
    let wanted = BLOCKS_EACH * cuda.driver().multiprocessors();
    let wanted = wanted.div_ceil((blocks * active.count()).max(1));
    let split_keys = keys.div_ceil(wanted.max(1)).next_multiple_of(KEYS).max(KEYS);
    let splits = keys.div_ceil(split_keys);

    let parts = if splits > 1 { shape.q_tokens as usize * heads * splits } else { 0 };
    let (sums, totals) = (cuda.scratch(parts * head_dim)?, cuda.scratch(2 * parts)?);
    let params = DecodeAttentionParams {
        attention: *params,
        sums: sums.address(),
        totals: totals.address(),
        splits: splits as u32,
        split_keys: split_keys as u32,
    };
    let driver = cuda.driver();
    let warps = DECODE_THREADS as usize / 32;
    let shared = warps * queries as usize * (head_dim + 2) * size_of::<f32>();
    driver.launch(kernel, &params, [sequences.len(), blocks, splits], DECODE_THREADS, shared)?;
    if splits > 1 {
        let grid = [sequences.len(), heads, 1];
        driver.launch(&DECODE_ATTENTION_COMBINE, &params, grid, DECODE_THREADS, 0)?;
    }
    Ok(true)
}
