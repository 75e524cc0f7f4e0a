//! Right sides of products, packed as micro-kernels read them.

use std::ops::Range;

use super::Mat;
use super::kernel::Kernels;
use super::strips::Right;
use crate::cpu::lines::Lines;
use crate::cpu::weight::WeightRef;

/// Rows of a matrix that a right side is made of.
pub(in crate::cpu) trait Rows: Sync {
    /// Some columns of a row in f32, where they lie or in `scratch`, which is as long.
    fn row<'s>(&'s self, row: usize, cols: Range<usize>, scratch: &'s mut Scratch) -> &'s [f32];
}

/// Where a row is widened to.
#[derive(Debug, Default)]
pub(in crate::cpu) struct Scratch {
    line: Vec<f32>,
    absmax: Vec<f32>,
}

impl Rows for Mat<'_> {
    fn row<'s>(&'s self, row: usize, cols: Range<usize>, _: &'s mut Scratch) -> &'s [f32] {
        &self.data[row * self.stride..][cols]
    }
}

/// A weight whose rows have `width` elements.
#[derive(Debug, Clone, Copy)]
pub(in crate::cpu) struct Stored<'a> {
    pub(in crate::cpu) weight: WeightRef<'a>,
    pub(in crate::cpu) width: usize,
}

impl Rows for Stored<'_> {
    fn row<'s>(&'s self, row: usize, cols: Range<usize>, scratch: &'s mut Scratch) -> &'s [f32] {
        let start = row * self.width + cols.start;
        if let Some(values) = self.weight.as_f32() {
            return &values[start..start + cols.len()];
        }
        let line = crate::cpu::view::sized(&mut scratch.line, cols.len());
        self.weight.read(start, line, &mut scratch.absmax);
        line
    }
}

/// A right side `[depth, cols]`.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Source<'a> {
    pub(in crate::cpu) rows: &'a dyn Rows,
    /// Whether it is the transpose of the rows: the depth runs along them.
    pub(in crate::cpu) transposed: bool,
    pub(in crate::cpu) depth: usize,
}

impl<'a> Source<'a> {
    pub(in crate::cpu) fn of(mat: &'a Mat<'_>) -> Self {
        Self { rows: mat, transposed: mat.transposed, depth: mat.rows }
    }
}

/// Part of a right side, packed: one sliver after the other, `[depth][columns of it]`, zeros beyond the
/// last column.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    values: &'a [f32],
    depth: usize,
    cols: usize,
}

impl<'a> Panel<'a> {
    pub(super) fn fill(
        kernels: &Kernels,
        lines: &'a mut Lines,
        source: Source<'_>,
        cols: Range<usize>,
        depth: Range<usize>,
    ) -> Self {
        let (height, width) = (depth.len(), cols.len());
        let values = lines.f32(height * kernels.padded(width));
        if depth.is_empty() {
            // Nothing to pack.
        } else if source.transposed {
            transpose(kernels, values, source.rows, cols, depth);
        } else {
            copy(kernels, values, source.rows, cols, depth);
        }
        Self { values, depth: height, cols: width }
    }

    pub(super) const fn right(self) -> Right<'a> {
        let Self { values, depth, cols } = self;
        Right { values, stride: None, depth, cols }
    }
}

fn copy(
    kernels: &Kernels,
    values: &mut [f32],
    rows: &dyn Rows,
    cols: Range<usize>,
    depth: Range<usize>,
) {
    let (height, scratch) = (depth.len(), &mut Scratch::default());
    for (i, row) in depth.enumerate() {
        let line = rows.row(row, cols.clone(), scratch);
        for sliver in kernels.slivers(line.len()) {
            let out = &mut values[sliver.col * height + i * sliver.width..][..sliver.width];
            let line = &line[sliver.col..];
            let len = sliver.width.min(line.len());
            out[..len].copy_from_slice(&line[..len]);
            out[len..].fill(0.0);
        }
    }
}

fn transpose(
    kernels: &Kernels,
    values: &mut [f32],
    rows: &dyn Rows,
    cols: Range<usize>,
    depth: Range<usize>,
) {
    let (height, scratch) = (depth.len(), &mut Scratch::default());
    let lanes = kernels.lanes;
    let mut lines = vec![0.0; lanes * height];
    for sliver in kernels.slivers(cols.len()) {
        let out = &mut values[sliver.col * height..][..sliver.width * height];
        for first in (0..sliver.width).step_by(lanes) {
            let col = cols.start + sliver.col + first;
            for (i, line) in lines.chunks_exact_mut(height).enumerate() {
                if col + i < cols.end {
                    line.copy_from_slice(rows.row(col + i, depth.clone(), scratch));
                } else {
                    line.fill(0.0);
                }
            }
            kernels.transpose(&lines, &mut out[first..], sliver.width);
        }
    }
}
