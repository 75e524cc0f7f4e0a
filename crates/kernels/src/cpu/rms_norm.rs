//! Root-mean-square normalisation of rows.

#![expect(
    clippy::inline_always,
    reason = "a loop is compiled for the instruction set of the function it is inlined into"
)]

use super::buffer::CpuBuffer;
use super::check::Op;
use super::reduce::dot;
use super::simd::simd;
use super::team;
use super::view::{FloatMut, FloatRef};
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
    let RmsNorm { rows, cols, .. } = op;
    name.require(cols > 0, || "rows of no columns".into())?;
    let x = name.float("x", x, rows * cols)?;
    let weight = to_f32(name.float("weight", weight, cols)?);
    let y = name.float_mut("y", y, rows * cols)?;
    let inv_rms = name.f32_mut("inv_rms", inv_rms, rows)?;
    let per_task = (CHUNK / cols).max(1);
    let outputs = y.chunks(per_task * cols).into_iter();
    let tasks = outputs.zip(inv_rms.chunks_mut(per_task)).enumerate();
    team::for_each(tasks, |(task, (y, inv_rms))| {
        let x = x.chunk(task, per_task * cols);
        let mut wide = vec![0.0; 2 * cols];
        simd!(normalize(op, x, &weight, y, inv_rms, wide.split_at_mut(cols)));
    });
    Ok(())
}

#[inline(always)]
fn normalize(
    op: RmsNorm,
    x: FloatRef<'_>,
    weight: &[f32],
    mut y: FloatMut<'_>,
    inv_rms: &mut [f32],
    (wide_x, wide_y): (&mut [f32], &mut [f32]),
) {
    let RmsNorm { cols, eps, .. } = op;
    for (row, inv_rms) in inv_rms.iter_mut().enumerate() {
        let y = y.next_row(cols);
        let x = x.row(row, cols, wide_x);
        let inv = 1.0 / (dot(x, x) / cols as f32 + eps).sqrt();
        y.write_row(wide_y, |y| {
            for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                *y = x * inv * w;
            }
        });
        *inv_rms = inv;
    }
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
    let outputs = dx.chunks(per_task * cols).into_iter();
    let tasks = outputs.zip(inv_rms.chunks(per_task)).enumerate();
    team::for_each(tasks, |(task, (dx, inv_rms))| {
        let [x, dy] = [x, dy].map(|x| x.chunk(task, per_task * cols));
        let mut wide = vec![0.0; 4 * cols];
        simd!(gradient(cols, [x, dy], &weight, inv_rms, dx, accumulate, &mut wide));
    });
    Ok(())
}

#[inline(always)]
fn gradient(
    cols: usize,
    [x, dy]: [FloatRef<'_>; 2],
    weight: &[f32],
    inv_rms: &[f32],
    mut dx: FloatMut<'_>,
    accumulate: bool,
    wide: &mut [f32],
) {
    let (wide_x, wide) = wide.split_at_mut(cols);
    let (wide_dy, wide) = wide.split_at_mut(cols);
    let (wide_dx, wdy) = wide.split_at_mut(cols);
    for (row, &inv) in inv_rms.iter().enumerate() {
        let dx = dx.next_row(cols);
        let (x, dy) = (x.row(row, cols, wide_x), dy.row(row, cols, wide_dy));
        for ((wdy, dy), w) in wdy.iter_mut().zip(dy).zip(weight) {
            *wdy = dy * w;
        }
        let along = dot(wdy, x) / cols as f32 * inv * inv;
        let gradients = x.iter().zip(&*wdy).map(|(x, wdy)| inv * (wdy - x * along));
        if accumulate {
            dx.update_row(wide_dx, |dx| dx.iter_mut().zip(gradients).for_each(|(dx, d)| *dx += d));
        } else {
            dx.write_row(wide_dx, |dx| dx.iter_mut().zip(gradients).for_each(|(dx, d)| *dx = d));
        }
    }
}
