//! Right sides of products, packed as micro-kernels read them.

use std::ops::Range;

use super::Mat;
use super::kernel::Kernels;
use super::strips::Right;
use crate::cpu::four_bit::{FourBit, RUN};
use crate::cpu::lines::Lines;
use crate::cpu::weight::WeightRef;

/// Rows of a matrix that a right side is made of.
pub(in crate::cpu) trait Rows: Sync {
    /// The rows themselves, if they are f32, and how far apart they are.
    fn in_place(&self) -> Option<(&[f32], usize)>;
    /// Sets `out` to a row from a column on; `absmax` is scratch.
    fn read(&self, row: usize, col: usize, out: &mut [f32], absmax: &mut Vec<f32>);
}

impl Rows for Mat<'_> {
    fn in_place(&self) -> Option<(&[f32], usize)> {
        Some((self.data, self.stride))
    }

    fn read(&self, row: usize, col: usize, out: &mut [f32], _: &mut Vec<f32>) {
        out.copy_from_slice(&self.data[row * self.stride + col..][..out.len()]);
    }
}

/// A weight `[n, k]`.
pub(in crate::cpu) struct Stored<'a> {
    weight: WeightRef<'a>,
    k: usize,
    /// The weight, where its rows are made of whole runs.
    runs: Option<FourBit<'a>>,
}

impl<'a> Stored<'a> {
    pub(in crate::cpu) fn new(weight: WeightRef<'a>, n: usize, k: usize) -> Self {
        let runs = match weight {
            WeightRef::Quantized(weight) => FourBit::new(weight, n, k),
            WeightRef::Dense(_) => None,
        };
        Self { weight, k, runs }
    }
}

impl Rows for Stored<'_> {
    fn in_place(&self) -> Option<(&[f32], usize)> {
        self.weight.as_f32().map(|values| (values, self.k))
    }

    fn read(&self, row: usize, col: usize, out: &mut [f32], absmax: &mut Vec<f32>) {
        match &self.runs {
            Some(runs) if col.is_multiple_of(RUN) && out.len().is_multiple_of(RUN) => {
                Kernels::get().decode(runs, row, col, out);
            }
            _ => self.weight.read(row * self.k + col, out, absmax),
        }
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
    let (height, in_place) = (depth.len(), rows.in_place());
    let (mut line, mut absmax) = (vec![0.0; cols.len()], Vec::new());
    for (i, row) in depth.enumerate() {
        let line = if let Some((values, stride)) = in_place {
            &values[row * stride..][cols.clone()]
        } else {
            rows.read(row, cols.start, &mut line, &mut absmax);
            &*line
        };
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
    let (height, lanes, in_place) = (depth.len(), kernels.lanes, rows.in_place());
    let (mut lines, mut absmax) = (vec![0.0; lanes * height], Vec::new());
    for sliver in kernels.slivers(cols.len()) {
        let out = &mut values[sliver.col * height..][..sliver.width * height];
        for first in (0..sliver.width).step_by(lanes) {
            let col = cols.start + sliver.col + first;
            let out = &mut out[first..];
            match in_place {
                Some((values, stride)) if col + lanes <= cols.end => {
                    let values = &values[col * stride + depth.start..];
                    kernels.transpose((values, stride), (out, sliver.width), height);
                }
                _ => {
                    for (i, line) in lines.chunks_exact_mut(height).enumerate() {
                        if col + i < cols.end {
                            rows.read(col + i, depth.start, line, &mut absmax);
                        } else {
                            line.fill(0.0);
                        }
                    }
                    kernels.transpose((&lines, height), (out, sliver.width), height);
                }
            }
        }
    }
}
