//! A product with a weight, cut into tasks.

use std::cell::RefCell;
use std::ops::Range;

use super::grid::{BLOCK, grid};
use super::kernel::Kernels;
use super::panel::{Panel, Source};
use super::strips::{Out, strips};
use super::{DEPTH, Mat, int16, parts};
use crate::cpu::dropout::Mask;
use crate::cpu::four_bit::RUN;
use crate::cpu::lines::Lines;
use crate::cpu::simd::simd;
use crate::cpu::team;
use crate::cpu::tiles::{Tile, tiles};
use crate::cpu::view::{FloatMut, FloatRef};

/// Rows that lie a multiple of this many elements apart share a set of the L1 cache.
const COLLIDE: usize = 1024;

/// `scale * left [m, r] . factor` to be added to a product.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct LowRank<'a> {
    pub(in crate::cpu) left: &'a [f32],
    /// `[r, columns]`
    pub(in crate::cpu) factor: Mat<'a>,
    pub(in crate::cpu) scale: f32,
    /// What is dropped of the result, before it is added.
    pub(in crate::cpu) mask: Option<Mask>,
}

/// Rows that are multiplied by something.
#[derive(Clone, Copy)]
pub(in crate::cpu) enum Left<'a> {
    Floats {
        values: FloatRef<'a>,
        /// Elements to be dropped.
        mask: Option<Mask>,
    },
    Int16(int16::Rows<'a>),
}

impl<'a> Left<'a> {
    pub(in crate::cpu) const fn new(values: FloatRef<'a>) -> Self {
        Self::Floats { values, mask: None }
    }
}

/// Part of the right side as it meets the rows.
enum Packed<'a> {
    Floats(Panel<'a>),
    Int16(int16::Panel<'a>),
}

/// What a thread keeps from task to task.
#[derive(Default)]
struct Scratch {
    panel: Lines,
    int16: int16::Space,
    low_panel: Lines,
    /// A block of the left side in f32.
    left: Lines,
    /// Sums: of a block, or of all rows where the depth has several parts.
    sums: Lines,
    delta: Lines,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
    static EXTRA: RefCell<Vec<f32>> = RefCell::default();
}

/// `x [m, depth] . right + low`
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Term<'a> {
    pub(in crate::cpu) x: Left<'a>,
    pub(in crate::cpu) right: Source<'a>,
    pub(in crate::cpu) low: Option<LowRank<'a>>,
}

/// `out [m, cols] = finish(sum of terms)`, where `finish` is given scratch, the sums of some rows and columns and
/// the tile to store them to.
pub(in crate::cpu) fn multiply(
    terms: &[Term<'_>],
    out: FloatMut<'_>,
    cols: usize,
    finish: impl Fn(&mut Vec<f32>, &mut [f32], &mut Tile<'_>) + Sync,
) {
    if out.len() == 0 {
        return;
    }
    let m = out.len() / cols;
    // Rows of a weight are read by whole runs.
    let unit = if terms.iter().all(|term| term.right.transposed) { RUN / 2 } else { RUN };
    let (height, width) = grid((m, cols), unit, rayon::current_num_threads());
    let product = Product { kernels: Kernels::get(), terms, cols };
    team::for_each(tiles(out, cols, 0..cols, height, width), |tile| {
        SCRATCH.with_borrow_mut(|scratch| {
            EXTRA.with_borrow_mut(|extra| {
                product.tile(scratch, tile, |sums, tile| finish(extra, sums, tile));
            });
        });
    });
}

struct Product<'a> {
    kernels: &'static Kernels,
    terms: &'a [Term<'a>],
    /// Of the whole output.
    cols: usize,
}

impl Product<'_> {
    fn tile(
        &self,
        scratch: &mut Scratch,
        tile: Tile<'_>,
        mut finish: impl FnMut(&mut [f32], &mut Tile<'_>),
    ) {
        let Self { kernels, terms, .. } = *self;
        let Tile { row, rows, col, cols, .. } = tile;
        let Scratch { panel, int16, low_panel, left, sums, delta } = scratch;
        // Sums of several terms, or parts of the depth, wait for each other.
        let several = terms.len() > 1 || terms.iter().any(|term| term.right.depth > DEPTH);
        let sums = sums.f32(if several { rows } else { BLOCK.min(rows) } * cols);
        let mut blocks = tile.split(BLOCK);
        for (i, &Term { x, right, low }) in terms.iter().enumerate() {
            let low = low.map(|low| {
                let r = low.factor.rows;
                let source = Source::of(&low.factor);
                (low, Panel::fill(kernels, low_panel, source, col..col + cols, 0..r))
            });
            for part in parts(right.depth, DEPTH, RUN) {
                let (cols_of_tile, depth) = (col..col + cols, part.clone());
                let packed = match x {
                    Left::Floats { .. } => {
                        Packed::Floats(Panel::fill(kernels, panel, right, cols_of_tile, depth))
                    }
                    Left::Int16(_) => {
                        Packed::Int16(int16::Panel::fill(int16, right, cols_of_tile, depth))
                    }
                };
                for block in &mut blocks {
                    let first = if several { (block.row - row) * cols } else { 0 };
                    let values = &mut sums[first..][..block.rows * cols];
                    let mut out = Out { values, stride: cols, keep: i > 0 || part.start > 0 };
                    match (x, &packed) {
                        (Left::Floats { values, mask }, Packed::Floats(panel)) => {
                            let x = (values, mask, right.depth);
                            let left = self::left(x, block, &part, left);
                            strips(kernels, left, panel.right(), &mut out, 1.0);
                        }
                        (Left::Int16(rows), Packed::Int16(panel)) => {
                            let rows_of_block = block.row..block.row + block.rows;
                            int16::strips(rows, rows_of_block, part.start / RUN, *panel, &mut out);
                        }
                        _ => unreachable!("both sides are of one kind"),
                    }
                    if part.end < right.depth {
                        continue;
                    }
                    if let Some((low, panel)) = low {
                        self.add_low(low, panel, block, out.values, delta);
                    }
                    if i + 1 == terms.len() {
                        finish(out.values, block);
                    }
                }
            }
        }
    }

    /// Adds the low-rank part of a block.
    fn add_low(
        &self,
        low: LowRank<'_>,
        panel: Panel<'_>,
        block: &Tile<'_>,
        sums: &mut [f32],
        delta: &mut Lines,
    ) {
        let (r, cols) = (low.factor.rows, block.cols);
        let left = Mat::new(&low.left[block.row * r..], block.rows, r);
        let Some(mask) = low.mask else {
            let mut out = Out { values: sums, stride: cols, keep: true };
            strips(self.kernels, left, panel.right(), &mut out, low.scale);
            return;
        };
        let delta = delta.f32(sums.len());
        let mut out = Out { values: &mut *delta, stride: cols, keep: false };
        strips(self.kernels, left, panel.right(), &mut out, low.scale);
        for (row, delta) in delta.chunks_mut(cols).enumerate() {
            mask.apply((block.row + row) * self.cols + block.col, delta);
        }
        simd!(for (sum, delta) in sums.iter_mut().zip(&*delta) {
            *sum += delta;
        });
    }
}

/// Part of the rows `[m, depth]` of a block.
fn left<'s>(
    (x, mask, depth): (FloatRef<'s>, Option<Mask>, usize),
    block: &Tile<'_>,
    part: &Range<usize>,
    scratch: &'s mut Lines,
) -> Mat<'s> {
    let len = part.len();
    let first = |row: usize| (block.row + row) * depth + part.start;
    match (x, mask) {
        (FloatRef::F32(x), None) if !depth.is_multiple_of(COLLIDE) => {
            Mat::strided(&x[first(0).min(x.len())..], block.rows, len, depth)
        }
        (x, mask) => {
            let stride = len.next_multiple_of(16) + 16;
            let values = scratch.f32(block.rows * stride);
            for (row, out) in values.chunks_exact_mut(stride).enumerate() {
                x.slice(first(row)..first(row) + len).widen_into(&mut out[..len]);
                if let Some(mask) = mask {
                    mask.apply(first(row), &mut out[..len]);
                }
            }
            Mat::strided(values, block.rows, len, stride)
        }
    }
}
