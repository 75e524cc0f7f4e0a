//! Which kernels multiply by a 4-bit weight, by shape: found out on the card itself.
//!
//! The project's own kernels give the same bits: they round the weight alike and add in the same order. cuBLASLt, which
//! is only tried where it is asked for, adds in an order of its own.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::Cuda;
use super::matmul::{rows, size, transposed};
use super::params::MatmulParams;
use super::{cublas, tile_matmul};
use crate::check::Op;
use crate::ops::Weight;
use crate::{Backend, DType, Error, HostSlice, MemoryKind, Result};

/// How activations meet a 4-bit weight.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Route {
    /// In one kernel, which dequantises tile by tile: 2.5 bytes a weight less of memory traffic, and no
    /// memory for the weight in bf16. By counts of instructions it keeps the tensor cores of RTX 30
    /// and 40 as busy as the other, so it is the choice where nothing was measured.
    #[default]
    Fused,
    /// By a kernel that dequantises the weight, and one for bf16.
    Dequantized,
    /// By a kernel that dequantises the weight, and cuBLASLt. Products that it does not take go by the kernel for
    /// bf16.
    Cublas,
}

/// The route for products of a weight from some number of rows on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteEntry {
    /// Out features of the weight.
    pub n: usize,
    /// In features of the weight.
    pub k: usize,
    /// The product of the backward, `dY . W`.
    pub backward: bool,
    /// Rows of the activations.
    pub rows: usize,
    /// What is faster for at least so many, up to the next entry's.
    pub route: Route,
}

/// Routes by shape.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Routes {
    /// In any order.
    pub entries: Vec<RouteEntry>,
}

/// What a product took on each route.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteTiming {
    /// The shape, and the faster route.
    pub entry: RouteEntry,
    /// Seconds of the fused kernel.
    pub fused: f64,
    /// Seconds of dequantising and multiplying.
    pub dequantized: f64,
    /// Seconds of dequantising and multiplying by cuBLASLt, where that was tried.
    pub cublas: Option<f64>,
}

/// Products that are timed together, and how often they are: the fastest counts.
const TOGETHER: usize = 10;
const TIMES: usize = 3;
/// The other route must be faster by this to be taken.
const MARGIN: f64 = 1.02;

impl Routes {
    /// The route of `m` rows.
    pub(super) fn route(&self, n: usize, k: usize, backward: bool, m: usize) -> Route {
        let same = |e: &&RouteEntry| (e.n, e.k, e.backward) == (n, k, backward) && e.rows <= m;
        self.entries.iter().filter(same).max_by_key(|e| e.rows).map(|e| e.route).unwrap_or_default()
    }

    /// Times the routes for weights `[n, k]` and numbers of rows on the card, cuBLASLt's only if `with_cublas`, and
    /// calls `seen` with each result.
    ///
    /// Shapes that the tensor-core kernels do not take have no routes and are left out.
    pub fn measure(
        cuda: &Cuda,
        weights: &[(usize, usize)],
        row_counts: &[usize],
        with_cublas: bool,
        mut seen: impl FnMut(&RouteTiming),
    ) -> Result<Self> {
        let mut routes = Self::default();
        for &(n, k) in weights {
            let values: Vec<f32> = (0..n * k).map(|i| (i % 251) as f32 / 125.0 - 1.0).collect();
            let config = nf4::QuantConfig::default();
            let weight = nf4::quantize("weight", &values, &[n, k], &config).map_err(|e| {
                Error::Device { what: format!("a weight of {n} x {k}"), message: e.to_string() }
            })?;
            let weight = cuda.upload_quantized(weight)?;
            for backward in [false, true] {
                for &m in row_counts {
                    let entry = RouteEntry { n, k, backward, rows: m, route: Route::Fused };
                    if let Some(timing) = time(cuda, &weight, entry, with_cublas)? {
                        seen(&timing);
                        routes.entries.push(timing.entry);
                    }
                }
            }
        }
        Ok(routes)
    }
}

/// Times the routes of a product; `None` where there is but one.
fn time(
    cuda: &Cuda,
    weight: &super::CudaQuantizedWeight,
    entry: RouteEntry,
    with_cublas: bool,
) -> Result<Option<RouteTiming>> {
    let RouteEntry { n, k, backward, rows: m, .. } = entry;
    let (inner, outer) = if backward { (n, k) } else { (k, n) };
    let ones = vec![half::bf16::ONE; m * inner];
    let x = cuda.upload(HostSlice::Bf16(&ones), MemoryKind::Workspace)?;
    let out = cuda.alloc(DType::Bf16, m * outer, MemoryKind::Workspace)?;
    let (tensor, scales) = Op("linear").weight(Weight::Quantized(weight), n, k)?;
    let product = MatmulParams {
        a: rows(x.tensor(), inner),
        b: if backward { rows(tensor, k) } else { transposed(tensor, k) },
        scales,
        out: out.tensor(),
        ..size(m, outer, inner)
    };
    if !tile_matmul::rounds_weight(&product) || !tile_matmul::can_dequantize(&product) {
        return Ok(None);
    }
    let seconds = |route| -> Result<f64> {
        let mut best = f64::INFINITY;
        for _ in 0..TIMES {
            cuda.driver().synchronize("measuring")?;
            let start = Instant::now();
            for _ in 0..TOGETHER {
                tile_matmul::run_by(cuda, &product, route)?;
            }
            cuda.driver().synchronize("measuring")?;
            best = best.min(start.elapsed().as_secs_f64() / TOGETHER as f64);
        }
        Ok(best)
    };
    let (fused, dequantized) = (seconds(Route::Fused)?, seconds(Route::Dequantized)?);
    let by_cublas = with_cublas && cublas::takes(&product);
    let cublas = by_cublas.then(|| seconds(Route::Cublas)).transpose()?;
    let mut best = (Route::Fused, fused);
    for (route, seconds) in [(Route::Dequantized, Some(dequantized)), (Route::Cublas, cublas)] {
        if let Some(seconds) = seconds.filter(|seconds| seconds * MARGIN < best.1) {
            best = (route, seconds);
        }
    }
    let entry = RouteEntry { route: best.0, ..entry };
    Ok(Some(RouteTiming { entry, fused, dequantized, cublas }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_entry_that_is_reached_counts() {
        let entry = |rows, route| RouteEntry { n: 64, k: 128, backward: true, rows, route };
        let entries = vec![entry(512, Route::Dequantized), entry(16, Route::Fused)];
        let routes = Routes { entries };
        let found = |m| routes.route(64, 128, true, m);
        assert_eq!([8, 16, 511].map(found), [Route::Fused; 3]);
        assert_eq!([512, 9000].map(found), [Route::Dequantized; 2]);
        assert_eq!(routes.route(128, 64, true, 512), Route::Fused);
        assert_eq!(routes.route(64, 128, false, 512), Route::Fused);
    }
}
