//! Products of bf16 activations with a dequantised weight by cuBLASLt.
//!
//! The library sums in f32 into memory; a kernel of this project then adds the bias and what the output holds, and
//! rounds, so that everything is rounded once, as on the other routes. Only the order of the sums is the library's.

use super::card::blas::{Operands, Shape, WORKSPACE};
use super::params::{
    MASK_NONE, MatmulParams, ROUND_ROWS, RoundRowsParams, Tensor, TileMatmulProduct,
};
use super::{Cuda, CudaBuffer, tile_matmul};
use crate::{Backend, DType, MemoryKind, Result};

/// Most bytes of sums that are held at a time.
const SUMS: usize = 64 << 20;
/// Slices of the rows begin at multiples of this, so that their addresses are multiples of 256.
const ROWS: usize = 128;
/// Of addresses, as the library's choice supposes.
const ALIGNMENT: u64 = 256;
/// Of rows, in elements: what tensor cores load at once.
const CHUNK: u64 = 8;
const THREADS: u32 = 256;

/// Whether the library can do `product`, which is one of [`tile_matmul`].
pub(super) fn takes(product: &MatmulParams) -> bool {
    let aligned = |elements: u64| elements.is_multiple_of(CHUNK);
    product.m > 0
        && (product.masked == MASK_NONE || product.extra_k == 0)
        && product.a.tensor.data.is_multiple_of(ALIGNMENT)
        && aligned(product.n)
        && aligned(product.k)
}

/// Runs `product` with its weight in bf16.
pub(super) fn run(cuda: &Cuda, product: &MatmulParams, weight: &CudaBuffer) -> Result<()> {
    let forward = tile_matmul::forward(product);
    let [m, n, k] = [product.m, product.n, product.k].map(|size| size as usize);
    // Held until the product is submitted.
    let mut factors = TileMatmulProduct::default();
    let _extra = tile_matmul::split(cuda, product, &mut factors)?;
    let slice = (SUMS / (4 * n)).max(1).next_multiple_of(ROWS).min(m);
    let sums = cuda.alloc(DType::F32, slice * n, MemoryKind::Workspace)?;
    let workspace = cuda.alloc(DType::F32, WORKSPACE / 4, MemoryKind::Workspace)?;
    let (width, x_stride) = (factors.extra_k as usize, product.a.row as usize);
    let operands =
        |x, weight| Operands { x, weight, out: sums.address(), workspace: workspace.address() };
    for first in (0..m).step_by(slice) {
        let rows = slice.min(m - first);
        let from = |address: u64, stride: usize| address + 2 * (first * stride) as u64;
        let base = Shape { m: rows, n, k, x_stride, forward };
        let x = from(product.a.tensor.data, x_stride);
        cuda.driver().multiply(base, operands(x, weight.address()), false)?;
        if width > 0 {
            let extra = Shape { k: width, x_stride: width, ..base };
            let left = from(factors.extra_a, width);
            cuda.driver().multiply(extra, operands(left, factors.extra_b), true)?;
        }
        let out = row(product.out, first * product.out_stride as usize);
        let round = RoundRowsParams {
            sums: sums.tensor(),
            out,
            bias: product.bias,
            cols: product.n,
            out_stride: product.out_stride,
            accumulate: product.accumulate,
            reserved: 0,
        };
        cuda.driver().launch(&ROUND_ROWS, &round, [rows, 1, 1], THREADS, 0)?;
    }
    Ok(())
}

/// The bf16 `tensor` from that element on.
fn row(tensor: Tensor, elements: usize) -> Tensor {
    Tensor { data: tensor.data + 2 * elements as u64, ..tensor }
}
