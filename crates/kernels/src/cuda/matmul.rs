//! Matrix products of any two factors.

use super::params::{Factor, MATMUL, MatmulParams, Tensor};
use super::{Cuda, matvec, tile_matmul};
use crate::Result;

/// Rows and columns of a tile.
const TILE: usize = 64;
const THREADS: u32 = 256;

/// A row-major matrix with `width` columns.
pub(super) fn rows(tensor: Tensor, width: usize) -> Factor {
    Factor { tensor, row: width as u64, col: 1 }
}

/// The transpose of a row-major matrix with `width` columns.
pub(super) fn transposed(tensor: Tensor, width: usize) -> Factor {
    Factor { tensor, row: 1, col: width as u64 }
}

/// A product of `[m, k]` by `[k, n]`, its factors and result still to be named.
pub(super) fn size(m: usize, n: usize, k: usize) -> MatmulParams {
    let [m, n, k] = [m, n, k].map(|len| len as u64);
    MatmulParams { m, n, k, out_stride: n, alpha: 1.0, ..MatmulParams::default() }
}

/// Runs products of activations with frozen weights, none of which reads what another writes.
pub(super) fn frozen(cuda: &Cuda, products: &[MatmulParams]) -> Result<()> {
    let few_rows = products.iter().any(matvec::takes);
    if !few_rows && tile_matmul::run_together(cuda, products)? {
        return Ok(());
    }
    products.iter().try_for_each(|product| {
        if matvec::run(cuda, product)? || tile_matmul::run(cuda, product)? {
            return Ok(());
        }
        matmul(cuda, product)
    })
}

/// Runs any product that `params` describes.
pub(super) fn matmul(cuda: &Cuda, params: &MatmulParams) -> Result<()> {
    let [rows, cols] = [params.m, params.n].map(|len| (len as usize).div_ceil(TILE));
    cuda.driver().launch(&MATMUL, params, [cols, rows, 1], THREADS, 0)
}
