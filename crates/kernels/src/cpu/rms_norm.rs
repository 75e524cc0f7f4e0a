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

/// `sum = x + added`, and the norm of the sum as it is stored.
pub(super) fn add_forward(
    op: RmsNorm,
    [x, added, weight]: [&CpuBuffer; 3],
    sum: &mut CpuBuffer,
    y: &mut CpuBuffer,
    inv_rms: &mut CpuBuffer,
) -> Result<()> {
    let name = Op("add_rms_norm");
    let RmsNorm { rows, cols, .. } = op;
    name.require(cols > 0, || "rows of no columns".into())?;
    let x = name.float("x", x, rows * cols)?;
    let added = name.float("added", added, rows * cols)?;
    let weight = to_f32(name.float("weight", weight, cols)?);
    let sum = name.float_mut("sum", sum, rows * cols)?;
    let y = name.float_mut("y", y, rows * cols)?;
    let inv_rms = name.f32_mut("inv_rms", inv_rms, rows)?;
    let per_task = (CHUNK / cols).max(1);
    let outputs = sum.chunks(per_task * cols).into_iter().zip(y.chunks(per_task * cols));
    let tasks = outputs.zip(inv_rms.chunks_mut(per_task)).enumerate();
    team::for_each(tasks, |(task, ((mut sum, mut y), inv_rms))| {
        let [x, added] = [x, added].map(|x| x.chunk(task, per_task * cols));
        let mut wide = vec![0.0; 3 * cols];
        let (wide_x, wide) = wide.split_at_mut(cols);
        let (wide_added, wide_out) = wide.split_at_mut(cols);
        simd!(for (row, inv_rms) in inv_rms.iter_mut().enumerate() {
            let mut sum = sum.next_row(cols);
            let terms = x.row(row, cols, wide_x).iter().zip(added.row(row, cols, wide_added));
            sum.reborrow().write_row(wide_out, |sum| {
                sum.iter_mut().zip(terms).for_each(|(sum, (x, added))| *sum = x + added);
            });
            let sum = sum.as_ref().row(0, cols, wide_x);
            *inv_rms = normalize_row(op, sum, &weight, y.next_row(cols), wide_out);
        });
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
    for (row, inv_rms) in inv_rms.iter_mut().enumerate() {
        let x = x.row(row, op.cols, wide_x);
        *inv_rms = normalize_row(op, x, weight, y.next_row(op.cols), wide_y);
    }
}

/// Gives what the row was multiplied by before the weight.
#[inline(always)]
fn normalize_row(op: RmsNorm, x: &[f32], weight: &[f32], y: FloatMut<'_>, wide: &mut [f32]) -> f32 {
    let inv = 1.0 / (dot(x, x) / op.cols as f32 + op.eps).sqrt();
    y.write_row(wide, |y| {
        for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
            *y = x * inv * w;
        }
    });
    inv
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
