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
    x: &mut CpuBuffer,
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
    let x = name.float_mut("x", x, tokens * width)?;
    let sign = if inverse { -1.0 } else { 1.0 };
    let tasks = x.chunks(TOKENS * width).into_iter().zip(positions.chunks(TOKENS));
    team::for_each(tasks, |(mut x, positions)| {
        let mut wide = vec![0.0; width];
        simd!(for &position in positions {
            let angles = position as usize * half..(position as usize + 1) * half;
            let (cos, sin) = (&cos[angles.clone()], &sin[angles]);
            x.next_row(width).update_row(&mut wide, |x| {
                x.chunks_mut(head_dim).for_each(|x| rotate_head(x, cos, sin, sign));
            });
        });
    });
    Ok(())
}

#[expect(clippy::inline_always, reason = "compiled for the caller's instruction set")]
#[inline(always)]
fn rotate_head(x: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
    let (x1, x2) = x.split_at_mut(cos.len());
    for ((x1, x2), (cos, sin)) in x1.iter_mut().zip(x2).zip(cos.iter().zip(sin)) {
        let sin = sign * sin;
        (*x1, *x2) = (*x1 * cos - *x2 * sin, *x2 * cos + *x1 * sin);
    }
}
