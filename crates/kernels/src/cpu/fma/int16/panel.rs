//! Right sides, packed.

use std::ops::Range;

use super::{WEIGHT, at_least, round};
use crate::cpu::fma::kernel::Kernels;
use crate::cpu::fma::panel::{Rows, Source};
use crate::cpu::four_bit::RUN;
use crate::cpu::lines::Lines;
use crate::cpu::simd::simd;

/// Columns of a micro-kernel.
pub(super) const WIDTH: usize = 16;
/// Elements of a step of a micro-kernel: of each column two of the depth.
pub(super) const STEP: usize = 2 * WIDTH;

/// Scratch of [`Panel::fill`].
#[derive(Default)]
pub(in crate::cpu) struct Space {
    values: Lines,
    units: Lines,
    /// Some rows of the right side in f32.
    wide: Lines,
    /// Columns before they are put in order.
    columns: Lines,
    absmax: Vec<f32>,
}

/// Part of a right side: for every 16 columns `[depth / 2][16][2]`, filled up with zeros to whole runs and columns.
#[derive(Clone, Copy)]
pub(in crate::cpu::fma) struct Panel<'a> {
    values: &'a [i16],
    /// What one counts: `[runs, columns]`.
    units: &'a [f32],
    pub(super) runs: usize,
    pub(super) cols: usize,
}

impl<'a> Panel<'a> {
    pub(in crate::cpu::fma) fn fill(
        space: &'a mut Space,
        source: Source<'_>,
        cols: Range<usize>,
        depth: Range<usize>,
    ) -> Self {
        let (runs, width) = (depth.len().div_ceil(RUN), cols.len().next_multiple_of(WIDTH));
        let Space { values, units, wide, columns, absmax } = space;
        let values = bytemuck::cast_slice_mut(values.f32(runs * RUN * width / 2));
        let units = units.f32(runs * width);
        let count = cols.len();
        if source.transposed {
            let columns = bytemuck::cast_slice_mut(columns.f32(WIDTH * runs * RUN / 2));
            let scratch = (wide.f32(runs * RUN), columns, absmax);
            transpose(values, units, source.rows, cols, depth, scratch);
        } else {
            let wide = wide.f32(RUN * width);
            copy(values, units, source.rows, cols, depth, (wide, absmax));
        }
        Self { values, units, runs, cols: count }
    }

    /// Integers from sliver to sliver, and those of slivers from a column on.
    pub(super) fn slivers(&self, col: usize, count: usize) -> (usize, &'a [i16]) {
        let len = self.runs * RUN;
        (WIDTH * len, &self.values[col * len..][..count * WIDTH * len])
    }

    /// Units from run to run, and those of columns from one on.
    pub(super) fn units(&self, col: usize) -> (usize, &'a [f32]) {
        (self.cols.next_multiple_of(WIDTH), &self.units[col..])
    }
}

/// From rows that are columns here.
fn transpose(
    values: &mut [i16],
    units: &mut [f32],
    rows: &dyn Rows,
    cols: Range<usize>,
    depth: Range<usize>,
    (wide, columns, absmax): (&mut [f32], &mut [i16], &mut Vec<f32>),
) {
    let (kernels, len, width) = (Kernels::get(), wide.len(), cols.len().next_multiple_of(WIDTH));
    for (i, values) in values.chunks_exact_mut(WIDTH * len).enumerate() {
        for (j, column) in columns.chunks_exact_mut(len).enumerate() {
            let col = i * WIDTH + j;
            wide[depth.len()..].fill(0.0);
            if col < cols.len() {
                rows.read(cols.start + col, depth.start, &mut wide[..depth.len()], absmax);
            } else {
                wide.fill(0.0);
            }
            let units = units[col..].iter_mut().step_by(width);
            simd!(set_column(column, units, wide));
        }
        // Pairs are moved as words.
        let columns: &[f32] = bytemuck::cast_slice(columns);
        let words: &mut [f32] = bytemuck::cast_slice_mut(values);
        for first in (0..WIDTH).step_by(kernels.lanes) {
            let columns = &columns[first * len / 2..];
            kernels.transpose((columns, len / 2), (&mut words[first..], WIDTH), len / 2);
        }
    }
}

#[expect(clippy::inline_always, reason = "compiled for the caller's instruction set")]
#[inline(always)]
fn set_column<'a>(column: &mut [i16], units: impl Iterator<Item = &'a mut f32>, wide: &[f32]) {
    let runs = column.as_chunks_mut::<RUN>().0.iter_mut().zip(wide.as_chunks::<RUN>().0);
    for ((column, wide), unit) in runs.zip(units) {
        let mut most = 0;
        for wide in wide {
            most = most.max(wide.abs().to_bits());
        }
        let most = at_least(most);
        *unit = most / WEIGHT;
        let factor = WEIGHT / most;
        for (column, wide) in column.iter_mut().zip(wide) {
            *column = round(*wide, factor);
        }
    }
}

/// From rows as they are.
fn copy(
    values: &mut [i16],
    units: &mut [f32],
    rows: &dyn Rows,
    cols: Range<usize>,
    depth: Range<usize>,
    (wide, absmax): (&mut [f32], &mut Vec<f32>),
) {
    let width = wide.len() / RUN;
    let len = values.len() / width;
    for (run, units) in units.chunks_exact_mut(width).enumerate() {
        for (i, wide) in wide.chunks_exact_mut(width).enumerate() {
            let row = depth.start + run * RUN + i;
            wide[cols.len()..].fill(0.0);
            if row < depth.end {
                rows.read(row, cols.start, &mut wide[..cols.len()], absmax);
            } else {
                wide.fill(0.0);
            }
        }
        let slivers = values.chunks_exact_mut(WIDTH * len);
        for ((i, values), units) in slivers.enumerate().zip(units.as_chunks_mut().0) {
            let values = &mut values[run * RUN * WIDTH..][..RUN * WIDTH];
            simd!(set_run(values.as_chunks_mut().0, units, &wide[i * WIDTH..], width));
        }
    }
}

/// Sixteen columns of rows that lie `stride` apart.
#[expect(clippy::inline_always, reason = "compiled for the caller's instruction set")]
#[inline(always)]
fn set_run(steps: &mut [[i16; STEP]], units: &mut [f32; WIDTH], wide: &[f32], stride: usize) {
    let row = |i: usize| wide[i * stride..].first_chunk::<WIDTH>().expect("whole slivers");
    let mut most = [0; WIDTH];
    for i in 0..RUN {
        for (most, wide) in most.iter_mut().zip(row(i)) {
            *most = wide.abs().to_bits().max(*most);
        }
    }
    let mut factors = [0.0; WIDTH];
    for ((most, unit), factor) in most.iter().zip(units).zip(&mut factors) {
        let most = at_least(*most);
        (*unit, *factor) = (most / WEIGHT, WEIGHT / most);
    }
    for (i, step) in steps.iter_mut().enumerate() {
        let (first, second) = (row(2 * i), row(2 * i + 1));
        for j in 0..WIDTH {
            step[2 * j] = round(first[j], factors[j]);
            step[2 * j + 1] = round(second[j], factors[j]);
        }
    }
}
