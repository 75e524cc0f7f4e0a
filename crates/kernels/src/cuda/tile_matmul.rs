//! Products of bf16 activations with frozen weights, 4-bit or bf16, on tensor cores.

use std::slice;

use super::params::{
    DENSE_MATMUL_64, DENSE_MATMUL_128, DENSE_MATMUL_BACKWARD_64, DENSE_MATMUL_BACKWARD_128,
    DENSE_MATMUL_SHARED_64, DENSE_MATMUL_SHARED_128, DEQUANTIZE, DTYPE_4BIT, DTYPE_BF16,
    DequantizeParams, Factor, Kernel, MASK_EXTRA, MASK_NONE, MatmulParams, NF4_MATMUL_64,
    NF4_MATMUL_128, NF4_MATMUL_BACKWARD_64, NF4_MATMUL_BACKWARD_128, NF4_MATMUL_SHARED_64,
    NF4_MATMUL_SHARED_128, SPLIT, SplitFactor, SplitParams, TILE_MATMUL_COLS, TILE_MATMUL_PRODUCTS,
    TileMatmulParams, TileMatmulProduct,
};
use super::{Cuda, CudaBuffer, Route, cublas, elementwise};
use crate::{Backend, DType, MemoryKind, Result};

const THREADS: u32 = 256;
/// Depth of a matrix instruction.
const STEP: usize = 16;
/// Elements of 16 bytes, which rows must begin at multiples of.
const CHUNK: u64 = 8;
/// Largest grid of `split`, whose blocks go on where the grid ends.
const SPLIT_BLOCKS: usize = 1024;

/// Most bytes of a weight in bf16, for which there is memory for a moment: an MLP's of a 30B model.
const DEQUANTIZED: u64 = 320 << 20;

/// The kernels for one kind of weight; pairs are forward and backward.
struct Family {
    whole: [Kernel<TileMatmulParams>; 2],
    shared_whole: u32,
    half: [Kernel<TileMatmulParams>; 2],
    shared_half: u32,
}

const NF4: Family = Family {
    whole: [NF4_MATMUL_128, NF4_MATMUL_BACKWARD_128],
    shared_whole: NF4_MATMUL_SHARED_128,
    half: [NF4_MATMUL_64, NF4_MATMUL_BACKWARD_64],
    shared_half: NF4_MATMUL_SHARED_64,
};

const DENSE: Family = Family {
    whole: [DENSE_MATMUL_128, DENSE_MATMUL_BACKWARD_128],
    shared_whole: DENSE_MATMUL_SHARED_128,
    half: [DENSE_MATMUL_64, DENSE_MATMUL_BACKWARD_64],
    shared_half: DENSE_MATMUL_SHARED_64,
};

/// The kernels that take `product`, if any do: bf16 activations by a row-major weight, in bf16 or in
/// 4 bits. 4-bit rows must be made of whole runs of 64, each in one block, and the result be bf16:
/// in f32, the rounding of the weight to bf16 would show. Rows of activations and of bf16 weights
/// must begin at multiples of 16 bytes. Offsets within a tile have 32 bits.
fn family(product: &MatmulParams) -> Option<&'static Family> {
    let &MatmulParams { a, b, out, n, k, scales, .. } = product;
    let width = if forward(product) { k } else { n };
    let bf16_out = out.dtype == DTYPE_BF16;
    let family = match b.tensor.dtype {
        DTYPE_4BIT if bf16_out && scales.log2_block >= 6 && width % 64 == 0 => &NF4,
        DTYPE_BF16 if width % CHUNK == 0 => &DENSE,
        _ => return None,
    };
    let takes = a.tensor.dtype == DTYPE_BF16
        && a.col == 1
        && a.row % CHUNK == 0
        && a.row >= k.next_multiple_of(CHUNK)
        && (b.row == 1 || b.col == 1)
        && b.row.max(b.col) == width
        && [MASK_NONE, MASK_EXTRA].contains(&product.masked)
        && product.alpha == 1.0
        && n.max(k).max(a.row).max(product.out_stride) < 1 << 22
        && n * k / 64 < 1 << 30
        && product.m < 1 << 31
        && product.m.max(n) * product.extra_k < 1 << 31;
    takes.then_some(family)
}

/// Whether `product` rounds a 4-bit weight to bf16.
pub(super) fn rounds_weight(product: &MatmulParams) -> bool {
    product.b.tensor.dtype == DTYPE_4BIT && family(product).is_some()
}

/// The weight is transposed: `x . W^T`.
pub(super) fn forward(product: &MatmulParams) -> bool {
    product.b.row == 1
}

/// Rows and columns of the weight.
fn weight_shape(product: &MatmulParams) -> (u64, u64) {
    if forward(product) { (product.n, product.k) } else { (product.k, product.n) }
}

/// Runs `product` if it is one for the tensor-core kernels; says whether it was.
///
/// Where rows of `a` are longer than the reduction, the elements up to its next multiple of 8 are zeros.
pub(super) fn run(cuda: &Cuda, product: &MatmulParams) -> Result<bool> {
    run_by(cuda, product, route(cuda, product))
}

/// The route that was measured for products like `product`.
fn route(cuda: &Cuda, product: &MatmulParams) -> Route {
    let (n, k) = weight_shape(product);
    cuda.routes.route(n as usize, k as usize, !forward(product), product.m as usize)
}

/// Whether there is memory for the weight in bf16.
pub(super) fn can_dequantize(product: &MatmulParams) -> bool {
    2 * product.n * product.k <= DEQUANTIZED
}

/// Whether `route` has the weight of `product` multiplied as it is stored.
fn as_stored(product: &MatmulParams, route: Route) -> bool {
    product.b.tensor.dtype != DTYPE_4BIT || route == Route::Fused || !can_dequantize(product)
}

/// [`run`], a 4-bit weight on `route` if it can be.
pub(super) fn run_by(cuda: &Cuda, product: &MatmulParams, route: Route) -> Result<bool> {
    let Some(family) = family(product) else { return Ok(false) };
    if as_stored(product, route) {
        launch(cuda, family, slice::from_ref(product))?;
        return Ok(true);
    }
    // Held until the product is submitted.
    let weight = dequantize(cuda, product)?;
    if route == Route::Cublas && cublas::takes(product) {
        cublas::run(cuda, product, &weight)?;
        return Ok(true);
    }
    let b = Factor { tensor: weight.tensor(), ..product.b };
    launch(cuda, &DENSE, &[MatmulParams { b, ..*product }])?;
    Ok(true)
}

/// Runs several products in one launch if one kernel takes them all as they are stored; says whether it did.
pub(super) fn run_together(cuda: &Cuda, products: &[MatmulParams]) -> Result<bool> {
    let [first, _, ..] = products else { return Ok(false) };
    let Some(family) = family(first) else { return Ok(false) };
    let alike = |p: &MatmulParams| (p.b.tensor.dtype, forward(p), p.m);
    let together = products.len() <= TILE_MATMUL_PRODUCTS as usize
        && products.iter().all(|product| {
            alike(product) == alike(first)
                && self::family(product).is_some()
                && as_stored(product, route(cuda, product))
        });
    if together {
        launch(cuda, family, products)?;
    }
    Ok(together)
}

/// The 4-bit weight of `product` in bf16.
fn dequantize(cuda: &Cuda, product: &MatmulParams) -> Result<CudaBuffer> {
    let len = (product.n * product.k) as usize;
    let weight = cuda.alloc(DType::Bf16, len, MemoryKind::Workspace)?;
    let params = DequantizeParams {
        packed: product.b.tensor.data,
        out: weight.address(),
        scales: product.scales,
        len: len as u64,
    };
    cuda.driver().launch(&DEQUANTIZE, &params, elementwise::grid(len), THREADS, 0)?;
    Ok(weight)
}

/// Runs products by one kernel, which takes them all.
fn launch(cuda: &Cuda, family: &Family, products: &[MatmulParams]) -> Result<()> {
    let direction = usize::from(!forward(&products[0]));
    // Few rows in the smaller tile: less of it is empty.
    let small = products[0].m <= 64;
    let (kernels, shared, rows) = if small {
        (&family.half, family.shared_half, 64)
    } else {
        (&family.whole, family.shared_whole, 128)
    };
    let mut params = TileMatmulParams::default();
    let mut tiles = 0;
    // Held until the products are submitted.
    let mut extra = Vec::new();
    for (place, product) in params.products.iter_mut().zip(products) {
        *place = TileMatmulProduct { first_tile: tiles as u32, ..described(product) };
        extra.push(split(cuda, product, place)?);
        let columns = (product.n as usize).div_ceil(TILE_MATMUL_COLS as usize);
        tiles += (product.m as usize).div_ceil(rows) * columns;
    }
    for absent in &mut params.products[products.len()..] {
        absent.first_tile = u32::MAX;
    }
    let driver = cuda.driver();
    let halved = if small { 0 } else { halved(tiles, driver.multiprocessors()) };
    params.halved = (tiles - halved) as u32;
    driver.launch(&kernels[direction], &params, [tiles + halved, 1, 1], THREADS, shared as usize)
}

/// `product` without its extra product, of which [`split`] makes factors.
fn described(product: &MatmulParams) -> TileMatmulProduct {
    let (n, k) = weight_shape(product);
    TileMatmulProduct {
        x: product.a.tensor.data,
        weight: product.b.tensor.data,
        out: product.out,
        bias: product.bias,
        scales: product.scales,
        dropout: product.mask,
        m: product.m as u32,
        n: n as u32,
        k: k as u32,
        x_stride: product.a.row as u32,
        out_stride: product.out_stride as u32,
        mask: (product.masked == MASK_EXTRA).into(),
        accumulate: product.accumulate,
        ..TileMatmulProduct::default()
    }
}

/// How many of the last tiles are done as two halves each: those of a last wave that leaves half of
/// the multiprocessors idle or more. A multiprocessor has room for one block.
fn halved(tiles: usize, multiprocessors: usize) -> usize {
    let last = tiles % multiprocessors;
    if 2 * last <= multiprocessors { last } else { 0 }
}

/// Writes the factors of the extra product as bf16 factors that keep f32 precision.
pub(super) fn split(
    cuda: &Cuda,
    product: &MatmulParams,
    params: &mut TileMatmulProduct,
) -> Result<Option<[CudaBuffer; 2]>> {
    let &MatmulParams { extra_a, extra_b, m, n, extra_k: rank, .. } = product;
    if rank == 0 {
        return Ok(None);
    }
    let width = (3 * rank as usize).next_multiple_of(STEP);
    let scratch = |outer| cuda.alloc(DType::Bf16, outer as usize * width, MemoryKind::Workspace);
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
    let values = m.max(n) as usize * rank as usize;
    let blocks = values.div_ceil(THREADS as usize).min(SPLIT_BLOCKS);
    cuda.driver().launch(&SPLIT, &split, [blocks, 2, 1], THREADS, 0)?;
    (params.extra_a, params.extra_b, params.extra_k) = (a.address(), b.address(), width as u32);
    Ok(Some([a, b]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_last_wave_of_half_the_multiprocessors_is_halved() {
        assert_eq!([768, 3584, 128, 82].map(|tiles| halved(tiles, 82)), [30, 0, 0, 0]);
        assert_eq!([41, 42].map(|tiles| halved(tiles, 82)), [41, 0]);
    }
}
