//! Parts of a weight, widened.

use std::ops::{Deref, Range};

use super::TILE_COLS;
use crate::Result;
use crate::cpu::weight::WeightRef;
use crate::cpu::{Cpu, F32Scratch, team};

/// Elements of widened weight to hold at a time (4 MiB).
const SLAB: usize = 1 << 20;
/// Narrowest slab, where a single row of the weight is very long.
const MIN_COLS: usize = 64;
/// Elements that one task widens.
const WIDEN: usize = 1 << 14;

/// Ranges of output columns whose weights fit a slab, `depth` elements each.
pub(super) fn slabs(cols: usize, depth: usize) -> impl Iterator<Item = Range<usize>> {
    let fit = SLAB / depth.max(1);
    let step = if fit >= TILE_COLS { fit / TILE_COLS * TILE_COLS } else { MIN_COLS };
    (0..cols).step_by(step).map(move |start| start..cols.min(start + step))
}

/// Part of a weight in f32.
pub(super) enum Slab<'a> {
    Borrowed(&'a [f32]),
    Widened(F32Scratch),
}

impl<'a> Slab<'a> {
    /// Rows `rows` of a weight `[_, k]`: `[rows, k]`.
    pub(super) fn of_rows(
        cpu: &Cpu,
        weight: WeightRef<'a>,
        rows: Range<usize>,
        k: usize,
    ) -> Result<Self> {
        if let Some(w) = weight.as_f32() {
            return Ok(Self::Borrowed(&w[rows.start * k..rows.end * k]));
        }
        let mut slab = cpu.scratch(rows.len() * k)?;
        let tasks = slab.chunks_mut(WIDEN).enumerate();
        team::for_each_init(tasks, Vec::new, |scratch, (task, out)| {
            weight.read(rows.start * k + task * WIDEN, out, scratch);
        });
        Ok(Self::Widened(slab))
    }

    /// Columns `cols` of a weight `[n, k]` and the distance of their rows.
    pub(super) fn of_cols(
        cpu: &Cpu,
        weight: WeightRef<'a>,
        (n, k): (usize, usize),
        cols: Range<usize>,
    ) -> Result<(Self, usize)> {
        if let Some(w) = weight.as_f32() {
            return Ok((Self::Borrowed(w.get(cols.start..).unwrap_or(&[])), k));
        }
        let width = cols.len();
        let mut slab = cpu.scratch(n * width)?;
        let rows = (WIDEN / width).max(1);
        let tasks = slab.chunks_mut(rows * width).enumerate();
        team::for_each_init(tasks, Vec::new, |scratch, (task, out)| {
            for (i, out) in out.chunks_mut(width).enumerate() {
                weight.read((task * rows + i) * k + cols.start, out, scratch);
            }
        });
        Ok((Self::Widened(slab), width))
    }
}

impl Deref for Slab<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Borrowed(w) => w,
            Self::Widened(w) => w,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slabs_cover_all_columns_and_stay_bounded() {
        for (cols, depth) in
            [(576, 576), (1536, 1536), (4096, 14_336), (5, 0), (0, 7), (128_256, 100_000)]
        {
            let mut next = 0;
            for slab in slabs(cols, depth) {
                assert_eq!(slab.start, next);
                assert!(slab.len() * depth <= SLAB.max(MIN_COLS * depth));
                next = slab.end;
            }
            assert_eq!(next, cols);
        }
    }
}
