//! Root-mean-square normalisation of rows.

use rayon::prelude::*;

use super::buffer::CpuBuffer;
use super::check::Op;
use super::reduce::dot;
use super::simd::simd;
use super::weight::to_f32;
use crate::Result;
use crate::ops::RmsNorm;

/// Elements of one task, in whole rows.
const CHUNK: usize = 1 << 13;

pub(super) fn forward(
    op: RmsNorm,
    x: &CpuBuffer,
    weight: &CpuBuffer,
    y: &mut CpuBuffer,
    inv_rms: &mut CpuBuffer,
) -> Result<()> {
    let name = Op("rms_norm");
    let RmsNorm { rows, cols, eps } = op;
    name.require(cols > 0, || "rows of no columns".into())?;
    let x = name.float("x", x, rows * cols)?;
    let weight = to_f32(name.float("weight", weight, cols)?);
    let y = name.float_mut("y", y, rows * cols)?;
    let inv_rms = name.f32_mut("inv_rms", inv_rms, rows)?;
    let per_task = (CHUNK / cols).max(1);
    let outputs = y.chunks(per_task * cols).into_par_iter();
    let tasks = outputs.zip(inv_rms.par_chunks_mut(per_task)).enumerate();
    tasks.for_each_init(Default::default, |scratch: &mut [Vec<f32>; 2], (task, (y, inv_rms))| {
        let [wide_x, wide_y] = scratch;
        let x = x.chunk(task, per_task * cols).widen(wide_x);
        y.write(wide_y, |y| {
            let rows = y.chunks_mut(cols).zip(x.chunks(cols)).zip(inv_rms);
            simd!(for ((y, x), inv_rms) in rows {
                *inv_rms = 1.0 / (dot(x, x) / cols as f32 + eps).sqrt();
                for ((y, x), w) in y.iter_mut().zip(x).zip(&*weight) {
                    *y = x * *inv_rms * w;
                }
            });
        });
    });
    Ok(())
}

/// `dx = inv * (w * dy - xhat * mean(w * dy * xhat))` with `xhat = x * inv`.
pub(super) fn backward(
    op: RmsNorm,
    x: &CpuBuffer,
    weight: &CpuBuffer,
    inv_rms: &CpuBuffer,
    dy: &CpuBuffer,
    dx: &mut CpuBuffer,
    accumulate: bool,
) -> Result<()> {
    let name = Op("rms_norm_backward");
    let RmsNorm { rows, cols, .. } = op;
    name.require(cols > 0, || "rows of no columns".into())?;
    let x = name.float("x", x, rows * cols)?;
    let weight = to_f32(name.float("weight", weight, cols)?);
    let inv_rms = name.f32("inv_rms", inv_rms, rows)?;
    let dy = name.float("dy", dy, rows * cols)?;
    let dx = name.float_mut("dx", dx, rows * cols)?;
    let per_task = (CHUNK / cols).max(1);
    let outputs = dx.chunks(per_task * cols).into_par_iter();
    let tasks = outputs.zip(inv_rms.par_chunks(per_task)).enumerate();
    tasks.for_each_init(Default::default, |scratch: &mut [Vec<f32>; 4], (task, (dx, inv_rms))| {
        let [wide_x, wide_dy, wide_dx, wdy] = scratch;
        let x = x.chunk(task, per_task * cols).widen(wide_x);
        let dy = dy.chunk(task, per_task * cols).widen(wide_dy);
        wdy.resize(cols, 0.0);
        let compute = |dx: &mut [f32]| {
            let rows = dx.chunks_mut(cols).zip(x.chunks(cols)).zip(dy.chunks(cols));
            simd!(for (((dx, x), dy), &inv) in rows.zip(inv_rms) {
                for ((wdy, dy), w) in wdy.iter_mut().zip(dy).zip(&*weight) {
                    *wdy = dy * w;
                }
                let along = dot(wdy, x) / cols as f32 * inv * inv;
                for ((dx, x), wdy) in dx.iter_mut().zip(x).zip(&*wdy) {
                    let grad = inv * (wdy - x * along);
                    *dx = if accumulate { *dx + grad } else { grad };
                }
            });
        };
        if accumulate {
            dx.update(wide_dx, compute);
        } else {
            dx.write(wide_dx, compute);
        }
    });
    Ok(())
}
