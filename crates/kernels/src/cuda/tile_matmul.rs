//! Products of bf16 activations with 4-bit weights on tensor cores.

use super::params::{
    DTYPE_4BIT, DTYPE_BF16, Factor, MASK_EXTRA, MASK_NONE, MatmulParams, NF4_MATMUL_64,
    NF4_MATMUL_128, NF4_MATMUL_BACKWARD_64, NF4_MATMUL_BACKWARD_128, NF4_MATMUL_COLS,
    NF4_MATMUL_SHARED_64, NF4_MATMUL_SHARED_128, Nf4MatmulParams, SPLIT, SplitFactor, SplitParams,
};
use super::{Cuda, CudaBuffer};
use crate::{Backend, DType, MemoryKind, Result};

const THREADS: u32 = 256;
/// Depth of a matrix instruction.
const STEP: usize = 16;
/// Largest grid of `split`, whose blocks go on where the grid ends.
const SPLIT_BLOCKS: usize = 1024;

/// Whether the tensor-core kernels take `product`: bf16 in and out - elsewhere the rounding of the
/// weight to bf16 would cost precision - and a row-major 4-bit weight whose rows are made of whole
/// runs of 64, each in one block. Backward, the activations' rows are as long as the weight has rows
/// and must begin at multiples of 16 bytes. Offsets within a tile have 32 bits.
fn takes(product: &MatmulParams) -> bool {
    let &MatmulParams { a, b, out, n, k, .. } = product;
    let forward = forward(product);
    let width = if forward { k } else { n };
    b.tensor.dtype == DTYPE_4BIT
        && product.scales.log2_block >= 6
        && width % 64 == 0
        && (forward || k % 8 == 0)
        && [a.tensor, out].iter().all(|x| x.dtype == DTYPE_BF16)
        && [MASK_NONE, MASK_EXTRA].contains(&product.masked)
        && product.alpha == 1.0
        && n.max(k) < 1 << 22
        && n * k / 64 < 1 << 30
        && product.m < 1 << 31
}

/// The weight is transposed: `x . W^T`.
fn forward(product: &MatmulParams) -> bool {
    product.b.row == 1
}

/// Runs `product` if it is one for the tensor-core kernels; says whether it was.
pub(super) fn run(cuda: &Cuda, product: &MatmulParams) -> Result<bool> {
    if !takes(product) {
        return Ok(false);
    }
    let forward = forward(product);
    let (columns, reduction) = (product.n, product.k);
    let (n, k) = if forward { (columns, reduction) } else { (reduction, columns) };
    let mut params = Nf4MatmulParams {
        x: product.a.tensor.data,
        packed: product.b.tensor.data,
        out: product.out.data,
        bias: product.bias,
        scales: product.scales,
        dropout: product.mask,
        m: product.m as u32,
        n: n as u32,
        k: k as u32,
        mask: (product.masked == MASK_EXTRA).into(),
        accumulate: product.accumulate,
        ..Nf4MatmulParams::default()
    };
    // Held until the product is submitted.
    let _extra = split(cuda, product, &mut params)?;
    // Few rows in the smaller tile: less of it is empty.
    let (rows, shared, kernels) = if product.m <= 64 {
        (64, NF4_MATMUL_SHARED_64, [NF4_MATMUL_BACKWARD_64, NF4_MATMUL_64])
    } else {
        (128, NF4_MATMUL_SHARED_128, [NF4_MATMUL_BACKWARD_128, NF4_MATMUL_128])
    };
    let tiles =
        (product.m as usize).div_ceil(rows) * (columns as usize).div_ceil(NF4_MATMUL_COLS as usize);
    let kernel = &kernels[usize::from(forward)];
    cuda.driver().launch(kernel, &params, [tiles, 1, 1], THREADS, shared as usize)?;
    Ok(true)
}

/// Writes the factors of the extra product as bf16 factors that keep f32 precision.
fn split(
    cuda: &Cuda,
    product: &MatmulParams,
    params: &mut Nf4MatmulParams,
) -> Result<Option<[CudaBuffer; 2]>> {
    let &MatmulParams { extra_a, extra_b, m, n, extra_k: rank, .. } = product;
    if rank == 0 {
        return Ok(None);
    }
    let width = (3 * rank as usize).next_multiple_of(STEP);
    let scratch = |outer| cuda.alloc(DType::Bf16, outer as usize * width, MemoryKind::Scratch);
    let (a, b) = (scratch(m)?, scratch(n)?);
    let factor = |from: Factor, (outer_step, rank_step), out: &CudaBuffer, outer| SplitFactor {
        from: from.tensor,
        out: out.address(),
        outer,
        outer_step,
        rank_step,
        factor: 1.0,
        ranks_first: (!forward(product)).into(),
    };
    let left = factor(extra_a, (extra_a.row, extra_a.col), &a, m);
    let right = factor(extra_b, (extra_b.col, extra_b.row), &b, n);
    let split = SplitParams {
        factors: [SplitFactor { factor: product.extra_alpha, ranks_first: 0, ..left }, right],
        rank: rank as u32,
        width: width as u32,
    };
    let blocks = (m.max(n) as usize * width).div_ceil(THREADS as usize).min(SPLIT_BLOCKS);
    cuda.driver().launch(&SPLIT, &split, [blocks, 2, 1], THREADS, 0)?;
    (params.extra_a, params.extra_b, params.extra_k) = (a.address(), b.address(), width as u32);
    Ok(Some([a, b]))
}
