//! Matrix products of any two factors.

use super::Cuda;
use super::params::{Factor, MATMUL, MatmulParams, Tensor};
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

/// Runs the product that `params` describes.
pub(super) fn matmul(cuda: &Cuda, params: &MatmulParams) -> Result<()> {
    let [rows, cols] = [params.m, params.n].map(|len| (len as usize).div_ceil(TILE));
    cuda.driver().launch(&MATMUL, params, [cols, rows, 1], THREADS, 0)
}
