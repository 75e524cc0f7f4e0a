//! Activations times the small factor of an adapter, whose f32 values are two bf16 parts each.

use super::dense::{Dense, Transposed};
use super::product::{Area, COLS, Operands, run, supports};
use super::rows::Rows;
use super::split::{ONCE, Parts, RANKS, in_cols, width};
use super::tile::BLOCK;
use crate::Result;
use crate::cpu::Cpu;
use crate::cpu::fma::FEW_ROWS;
use crate::cpu::simd::simd;
use crate::cpu::team;
use crate::cpu::view::FloatRef;

/// Rows of a task of [`shrink`].
pub(super) const SHRINK_ROWS: usize = 256;

/// `out [m, r] = scale * x [m, k] . A^T` for a factor `[r, k]`. False, and nothing done, unless the activations are
/// bf16, `k` is a multiple of 64 and the rows are not few: those are sooner multiplied in f32 than a factor is split
/// (rank 16 adds 3 us to one row and 576 x 576 instead of 11, and 12 to 576 x 1536 instead of 25).
pub(in crate::cpu) fn shrink(
    cpu: &Cpu,
    x: FloatRef<'_>,
    a: &[f32],
    (k, r): (usize, usize),
    scale: f32,
    out: &mut [f32],
) -> Result<bool> {
    let m = out.len() / r;
    let Some(x) = supports(x, k).filter(|_| k > 0 && m > FEW_ROWS) else {
        return Ok(false);
    };
    let width = width::<{ ONCE.len() }>(r);
    let mut parts = Parts::alloc(cpu, width * k)?;
    team::run_all(in_cols(a, (r, k), ONCE, &mut parts));
    let rows = &Rows::new(cpu, x, m, k)?;
    let source = &Transposed(Dense::new(parts.values(), width, k));
    let base = Operands { rows, source };
    team::for_each(out.chunks_mut(SHRINK_ROWS * r).enumerate(), |(task, out)| {
        shrink_rows(base, task, r, scale, out);
    });
    Ok(true)
}

/// Rows of task `task`: products with high parts and with low ones, added.
pub(super) fn shrink_rows(base: Operands<'_>, task: usize, r: usize, scale: f32, out: &mut [f32]) {
    let width = width::<{ ONCE.len() }>(r);
    for col in (0..width).step_by(COLS) {
        let cols = COLS.min(width - col);
        let first_block = task * SHRINK_ROWS / BLOCK;
        let area = Area { first_block, rows: out.len() / r, col, cols };
        run(&[base], area, BLOCK, |first, sums| {
            let out = out.chunks_mut(r).skip(first);
            simd!(for (sums, out) in sums.chunks(cols).zip(out) {
                let out = out[col / 2..].chunks_mut(RANKS);
                for (sums, out) in sums.as_chunks::<{ 2 * RANKS }>().0.iter().zip(out) {
                    let (high, low) = sums.split_at(RANKS);
                    for ((out, high), low) in out.iter_mut().zip(high).zip(low) {
                        *out = (high + low) * scale;
                    }
                }
            });
        });
    }
}
