//! Rotary position embedding.

use super::Cpu;
use super::buffer::CpuBuffer;
use super::check::Op;
use super::simd::simd;
use super::team;
use crate::Result;
use crate::ops::{Rope, RopeTable};

/// Tokens of one task.
const TOKENS: usize = 16;

pub(super) fn rotate(
    op: Rope,
    table: &RopeTable<Cpu>,
    positions: &CpuBuffer,
    x: &CpuBuffer,
    out: &mut CpuBuffer,
) -> Result<()> {
    let name = Op("rope");
    let Rope { tokens, heads, head_dim, inverse } = op;
    name.rope(op)?;
    let half = head_dim / 2;
    let cos = name.f32("cos", &table.cos, table.positions * half)?;
    let sin = name.f32("sin", &table.sin, table.positions * half)?;
    let positions = name.u32("positions", positions, tokens)?;
    name.indices(positions, table.positions)?;
    let width = heads * head_dim;
    let x = name.float("x", x, tokens * width)?;
    let out = name.float_mut("out", out, tokens * width)?;
    let sign = if inverse { -1.0 } else { 1.0 };
    let outputs = out.chunks(TOKENS * width).into_iter();
    let tasks = outputs.zip(positions.chunks(TOKENS)).enumerate();
    team::for_each(tasks, |(task, (mut out, positions))| {
        let x = x.chunk(task, TOKENS * width);
        let mut wide = vec![0.0; 2 * width];
        let (wide_x, wide_out) = wide.split_at_mut(width);
        simd!(for (token, &position) in positions.iter().enumerate() {
            let angles = position as usize * half..(position as usize + 1) * half;
            let (cos, sin) = (&cos[angles.clone()], &sin[angles]);
            let out = out.next_row(width);
            let x = x.row(token, width, wide_x);
            out.write_row(wide_out, |out| {
                for (out, x) in out.chunks_mut(head_dim).zip(x.chunks(head_dim)) {
                    rotate_head(out, x, cos, sin, sign);
                }
            });
        });
    });
    Ok(())
}

#[expect(clippy::inline_always, reason = "compiled for the caller's instruction set")]
#[inline(always)]
fn rotate_head(out: &mut [f32], x: &[f32], cos: &[f32], sin: &[f32], sign: f32) {
    let half = cos.len();
    let (out1, out2) = out.split_at_mut(half);
    let (x1, x2) = x.split_at(half);
    let outputs = out1.iter_mut().zip(out2);
    let angles = cos.iter().zip(sin);
    for (((out1, out2), (x1, x2)), (cos, sin)) in outputs.zip(x1.iter().zip(x2)).zip(angles) {
        let sin = sign * sin;
        *out1 = x1 * cos - x2 * sin;
        *out2 = x2 * cos + x1 * sin;
    }
}
