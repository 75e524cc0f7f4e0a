//! Products of few rows, as in generation: bound by the bytes of the weight, which is read once.

use super::params::{
    MASK_NONE, MATVEC_1, MATVEC_4, MATVEC_ROWS, MATVEC_WARPS, MatmulParams, MatvecParams,
    NF4_MATVEC_16, NF4_MATVEC_32,
};
use super::{Cuda, tile_matmul};
use crate::Result;

/// Fewer outputs get a block for each.
const NARROW: usize = 512;
/// Depth of a warp's step.
const DEPTH: usize = 256;
const NF4_DEPTH: usize = 128;
/// Depth of which a block of `nf4_matvec_16` can hold the scales.
const NF4_DEEPEST: usize = 1 << 16;

/// Few rows by the transpose of a weight, without dropout or accumulation, whose rows begin at
/// multiples of 16 bytes.
pub(super) fn takes(product: &MatmulParams) -> bool {
    let &MatmulParams { a, b, extra_a, extra_b, m, n, k, extra_k, .. } = product;
    let transposed = (b.row, b.col) == (1, k) && (a.row, a.col) == (k, 1);
    let extra = extra_k == 0
        || (extra_a.row, extra_a.col) == (extra_k, 1) && (extra_b.row, extra_b.col) == (1, extra_k);
    (1..=u64::from(MATVEC_ROWS)).contains(&m)
        && transposed
        && extra
        && k % 8 == 0
        && n.max(k).max(extra_k) < 1 << 30
        && product.alpha == 1.0
        && product.masked == MASK_NONE
        && product.accumulate == 0
        && product.out_stride == n
        && (k <= NF4_DEEPEST as u64 || !tile_matmul::rounds_weight(product))
}

/// Runs `product` if it is one of few rows; says whether it was.
pub(super) fn run(cuda: &Cuda, product: &MatmulParams) -> Result<bool> {
    if !takes(product) {
        return Ok(false);
    }
    // As with more rows.
    let rounds = tile_matmul::rounds_weight(product);
    let params = MatvecParams {
        x: product.a.tensor,
        weight: product.b.tensor,
        out: product.out,
        bias: product.bias,
        extra_a: product.extra_a.tensor,
        extra_b: product.extra_b.tensor,
        scales: product.scales,
        m: product.m as u32,
        n: product.n as u32,
        k: product.k as u32,
        extra_k: product.extra_k as u32,
        extra_alpha: product.extra_alpha,
        reserved: 0,
    };
    let (n, k) = (product.n as usize, product.k as usize);
    let (kernel, rows, depth) = match rounds {
        true if n / 32 >= cuda.driver().multiprocessors() && k <= NF4_DEEPEST / 2 => {
            (&NF4_MATVEC_32, 32, NF4_DEPTH)
        }
        true => (&NF4_MATVEC_16, 16, NF4_DEPTH),
        false if n <= NARROW => (&MATVEC_1, 1, DEPTH),
        false => (&MATVEC_4, 4, DEPTH),
    };
    let shared = if rounds { scales((rows * k) >> product.scales.log2_block) } else { 0 };
    let warps = k.div_ceil(depth).clamp(1, MATVEC_WARPS as usize) as u32;
    cuda.driver().launch(kernel, &params, [n.div_ceil(rows), 1, 1], 32 * warps, shared)?;
    Ok(true)
}

/// Bytes of the scales of `blocks` blocks, and of those that rows before and after share. One in 33
/// stays unused.
fn scales(blocks: usize) -> usize {
    let blocks = blocks + 2;
    (blocks + blocks / 32) * size_of::<f32>()
}
