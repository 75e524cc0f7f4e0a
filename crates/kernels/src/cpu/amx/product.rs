//! Cuts a product into tasks and runs the tile loop over a task's panel.

#![allow(unsafe_code)]

use std::cell::RefCell;

use half::bf16;

use super::Side;
use super::dense::{self, Dense};
use super::fill::{Source, Straight, Transposed};
use super::rows::Rows;
use super::tile::{self, BLOCK, STEP, Segment, Sums, Tiles};
use crate::Result;
use crate::cpu::Cpu;
use crate::cpu::dropout::Mask;
use crate::cpu::four_bit::{FourBit, RUN};
use crate::cpu::level::has_amx;
use crate::cpu::lines::Lines;
use crate::cpu::simd::simd;
use crate::cpu::team::{self, Task};
use crate::cpu::tiles::{Tile, tiles};
use crate::cpu::view::{FloatMut, FloatRef, sized};
use crate::cpu::weight::WeightRef;

/// Most columns of a task.
pub(super) const COLS: usize = 256;
/// Most rows of a task where there are many columns: each task fills its panels itself.
const ROWS: usize = 1024;
/// Most rows of a task where there are few columns to share out.
const ROWS_OF_FEW_COLS: usize = 512;
/// Tasks over the columns that are enough for the threads.
const ENOUGH: usize = 8;
/// Most steps of a panel: 32 rows of activations of that depth (36 KiB) fit L1.
const STEPS: usize = 18;

/// What a thread keeps from task to task (1.4 MiB at most).
#[derive(Default)]
struct Scratch {
    panel: Lines,
    /// Sums between parts of the depth: `[row block][column pair][4 tiles]`.
    carried: Lines,
    /// Finished rows of one block.
    strip: Lines,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
    static DELTA: RefCell<Vec<f32>> = RefCell::default();
    static MASKED: RefCell<Vec<f32>> = RefCell::default();
}

/// Whether products with this activation, whose rows have `k` columns, can run on the tiles.
pub(super) fn supports(x: FloatRef<'_>, k: usize) -> Option<&[bf16]> {
    match x {
        FloatRef::Bf16(x) if has_amx() && k.is_multiple_of(RUN) => Some(x),
        _ => None,
    }
}

/// `out = finish(x . W^T)` or `finish(x . W)` for a weight `[n, k]`, where `finish` is given scratch, the f32
/// sums of some rows and columns and the tile to store them to. False, and nothing done, unless the activations
/// are bf16, `k` is a multiple of 64 and the weight is one for [`weight_source`].
pub(in crate::cpu) fn multiply(
    cpu: &Cpu,
    x: FloatRef<'_>,
    (weight, side): (WeightRef<'_>, Side),
    out: &mut FloatMut<'_>,
    (m, n, k): (usize, usize, usize),
    finish: impl Fn(&mut Vec<f32>, &mut [f32], &mut Tile<'_>) + Sync,
) -> Result<bool> {
    let x = supports(x, k).filter(|_| m * n * k > 0);
    let source = weight_source((weight, side), (n, k), out);
    let (Some(x), Some(source)) = (x, source) else {
        return Ok(false);
    };
    let cols = match side {
        Side::Transposed => n,
        Side::Straight => k,
    };
    let rows = &Rows::new(cpu, x, m, source.depth())?;
    let base = Operands { rows, source: &*source };
    team::run_all(product_tasks(base, None, out.reborrow(), (m, cols), &finish));
    Ok(true)
}

/// What panels of a weight `[n, k]` are filled from: bf16, or 4 bits in blocks of at least 64 with a bf16 output: in
/// an f32 output its rounding to bf16 would show.
pub(super) fn weight_source<'a>(
    (weight, side): (WeightRef<'a>, Side),
    (n, k): (usize, usize),
    out: &FloatMut<'_>,
) -> Option<Box<dyn Source + 'a>> {
    match (weight, out) {
        (WeightRef::Dense(FloatRef::Bf16(values)), _) if k.is_multiple_of(RUN) => {
            let weight = Dense::new(values, n, k);
            Some(match side {
                Side::Transposed => Box::new(dense::Transposed(weight)),
                Side::Straight => Box::new(dense::Straight(weight)),
            })
        }
        (WeightRef::Quantized(weight), FloatMut::Bf16(_)) => {
            let weight = FourBit::new(weight, n, k)?;
            Some(match side {
                Side::Transposed => Box::new(Transposed(weight)),
                Side::Straight => Box::new(Straight(weight)),
            })
        }
        _ => None,
    }
}

/// Both sides of a product.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a> {
    pub(super) rows: &'a Rows<'a>,
    pub(super) source: &'a dyn Source,
}

/// Part of an output: whole blocks of rows from one on, and some columns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Area {
    pub(super) first_block: usize,
    pub(super) rows: usize,
    pub(super) col: usize,
    pub(super) cols: usize,
}

/// The tasks of a product, plus a low-rank one, of which something may be dropped.
pub(super) fn product_tasks<'a>(
    base: Operands<'a>,
    low: Option<(Operands<'a>, Option<Mask>)>,
    out: FloatMut<'a>,
    (m, cols): (usize, usize),
    finish: &'a (impl Fn(&mut Vec<f32>, &mut [f32], &mut Tile<'_>) + Sync),
) -> impl Iterator<Item = Task<'a>> {
    let width = even(cols, COLS, 64);
    let most = if cols.div_ceil(width) < ENOUGH { ROWS_OF_FEW_COLS } else { ROWS };
    tiles(out, cols, 0..cols, even(m, most, BLOCK), width).into_iter().map(move |tile| {
        Box::new(move || match low {
            Some((low, Some(mask))) => fill_masked(base, (low, mask), cols, tile, finish),
            Some((low, None)) => fill_tile(base, Some(low), tile, finish),
            None => fill_tile(base, None, tile, finish),
        }) as Task<'a>
    })
}

fn fill_tile(
    base: Operands<'_>,
    low: Option<Operands<'_>>,
    tile: Tile<'_>,
    finish: &impl Fn(&mut Vec<f32>, &mut [f32], &mut Tile<'_>),
) {
    let Tile { row, rows, col, cols, .. } = tile;
    let area = Area { first_block: row / BLOCK, rows, col, cols };
    let mut strips = tile.split(BLOCK);
    strips[0].prefetch();
    DELTA.with_borrow_mut(|delta| {
        run(base, low, area, |i, sums| {
            finish(delta, sums, &mut strips[i]);
            // The system's own prefetcher does not follow a strip's rows.
            if let Some(next) = strips.get(i + 1) {
                next.prefetch();
            }
        });
    });
}

/// As [`fill_tile`], with the low-rank part masked: it cannot be summed with the rest. `width` is that of
/// the whole output.
fn fill_masked(
    base: Operands<'_>,
    (low, mask): (Operands<'_>, Mask),
    width: usize,
    tile: Tile<'_>,
    finish: &impl Fn(&mut Vec<f32>, &mut [f32], &mut Tile<'_>),
) {
    let Tile { row, rows, col, cols, .. } = tile;
    let area = Area { first_block: row / BLOCK, rows, col, cols };
    MASKED.with_borrow_mut(|masked| {
        let masked = sized(masked, rows * cols);
        run(low, None, area, |i, sums| {
            for (r, sums) in sums.chunks(cols).enumerate() {
                let r = i * BLOCK + r;
                let out = &mut masked[r * cols..(r + 1) * cols];
                out.copy_from_slice(sums);
                mask.apply((row + r) * width + col, out);
            }
        });
        fill_tile(base, None, tile, &|delta: &mut Vec<f32>,
                                      sums: &mut [f32],
                                      tile: &mut Tile<'_>| {
            let masked = &masked[(tile.row - row) * cols..][..sums.len()];
            simd!(for (sum, masked) in sums.iter_mut().zip(masked) {
                *sum += masked;
            });
            finish(delta, sums, tile);
        });
    });
}

/// Length of the fewest about equal parts of at most `most`, a multiple of `unit`.
pub(super) fn even(len: usize, most: usize, unit: usize) -> usize {
    len.div_ceil(len.div_ceil(most)).next_multiple_of(unit)
}

/// Computes `base [+ low]` for an area and hands each block of its rows to `finish` with the block's
/// index within the area.
pub(super) fn run(
    base: Operands<'_>,
    low: Option<Operands<'_>>,
    area: Area,
    finish: impl FnMut(usize, &mut [f32]),
) {
    SCRATCH.with_borrow_mut(|scratch| run_with(scratch, base, low, area, finish));
}

fn run_with(
    scratch: &mut Scratch,
    base: Operands<'_>,
    low: Option<Operands<'_>>,
    area: Area,
    mut finish: impl FnMut(usize, &mut [f32]),
) {
    let Area { first_block, rows, col, cols } = area;
    let Scratch { panel, carried, strip } = scratch;
    let width = cols.next_multiple_of(BLOCK);
    let (blocks, pairs) = (rows.div_ceil(BLOCK), width / BLOCK);
    let whole = base.rows.steps();
    // A run of 4-bit weights is two steps.
    let part = even(whole, STEPS, 2);
    let carried = carried.f32(if whole > part { blocks * pairs * Sums::LEN } else { 0 });
    let strip = strip.f32(BLOCK * width);
    let low_steps = low.map_or(0, |low| low.rows.steps());
    let panel = panel.registers(pairs * (part + low_steps) * STEP);
    let (panel, low_panel) = panel.split_at_mut(pairs * part * STEP);
    let tiles = Tiles::configure();
    for start in (0..whole).step_by(part) {
        let steps = start..whole.min(start + part);
        let depth = steps.len();
        let last = steps.end == whole;
        base.source.fill(&mut panel[..pairs * depth * STEP], col..col + width, steps);
        let low = low.filter(|_| last);
        if let Some(low) = low {
            low.source.fill(
                &mut low_panel[..pairs * low_steps * STEP],
                col..col + width,
                0..low_steps,
            );
        }
        for i in 0..blocks {
            let height = BLOCK.min(rows - i * BLOCK);
            let multiply =
                if height > 16 { tile::multiply::<true> } else { tile::multiply::<false> };
            let left = base.rows.block(first_block + i, start);
            let low_left = low.map(|low| low.rows.block(first_block + i, 0));
            for pair in 0..pairs {
                let right = panel[pair * depth * STEP..][..depth * STEP].as_ptr().cast();
                let segment = Segment { left, right, steps: depth };
                let block = (i * pairs + pair) * Sums::LEN;
                let mut between = || Sums::packed(&mut carried[block..block + Sums::LEN]);
                let from = (start > 0).then(&mut between);
                let to = if last { Sums::within(strip, width, pair * BLOCK) } else { between() };
                let low = low_left.map(|left| {
                    let right = low_panel[pair * low_steps * STEP..][..low_steps * STEP].as_ptr();
                    Segment { left, right: right.cast(), steps: low_steps }
                });
                let segments = [segment, low.unwrap_or(segment)];
                let segments = &segments[..=usize::from(low.is_some())];
                // SAFETY: each left has 32 rows to its last step, and each right 32 registers of 64
                // bytes for each step; `carried` and `strip` stay borrowed.
                unsafe { multiply(&tiles, segments, from, to) }
            }
            if last {
                close_up(strip, width, cols, height);
                finish(i, &mut strip[..height * cols]);
            }
        }
    }
}

/// Moves the first `cols` of `width` columns together.
fn close_up(strip: &mut [f32], width: usize, cols: usize, rows: usize) {
    if cols < width {
        for row in 1..rows {
            strip.copy_within(row * width..row * width + cols, row * cols);
        }
    }
}
