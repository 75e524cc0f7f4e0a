//! The tile loop alone.

#![allow(unsafe_code)]

use half::bf16;

use super::tile::{self, BLOCK, Left, STEP, Segment, Sums, Tiles};
use crate::cpu::lines::Lines;

/// Steps whose tiles stay in the L1 cache: 16 KiB of rows and as much of a panel.
const STEPS: usize = 8;

/// Multiplies 32 rows and 32 columns that stay in the L1 cache, so many times: floating-point operations.
pub(in crate::cpu) fn multiply_from_l1(times: usize) -> usize {
    const DEPTH: usize = STEPS * STEP;
    let (tiles, mut lines) = (Tiles::configure(), Lines::default());
    let values = lines.bf16(2 * BLOCK * DEPTH);
    values.fill(bf16::ONE);
    let (rows, panel) = values.split_at(BLOCK * DEPTH);
    let row = 2 * DEPTH;
    let left = Left { first: rows.as_ptr().cast(), row, step: 2 * STEP };
    let right = panel.as_ptr().cast();
    let segments = vec![Segment { left, right, steps: STEPS, ..Segment::EMPTY }; times];
    let mut sums = [0.0; Sums::LEN];
    // SAFETY: 32 rows of 8 steps of 64 bytes lie on the left, as many bytes on the right, which are 2048 a step; they and
    // the sums are borrowed until the function returns.
    unsafe { tile::multiply::<true>(&tiles, &segments, None, Sums::packed(&mut sums)) };
    assert!(sums.iter().all(|sum| *sum == (times * DEPTH) as f32));
    2 * BLOCK * BLOCK * DEPTH * times
}
