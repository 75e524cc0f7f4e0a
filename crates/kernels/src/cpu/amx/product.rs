//! Cuts a product into tasks and runs the tile loop over a task's panel.

#![allow(unsafe_code)]

use std::arch::x86_64::__m512i;
use std::cell::RefCell;
use std::ops::Range;
use std::ptr;

use half::bf16;

use super::dense::{self, Dense};
use super::fill::{Source, Straight, Transposed};
use super::overlap::Overlap;
use super::rows::Rows;
use super::store::fence;
use super::tile::{self, BLOCK, STEP, Segment, Sums, Tiles};
use super::{Finish, Side};
use crate::cpu::dropout::Mask;
use crate::cpu::four_bit::{FourBit, RUN};
use crate::cpu::level::has_amx;
use crate::cpu::lines::Lines;
use crate::cpu::simd::simd;
use crate::cpu::team::Task;
use crate::cpu::tiles::{Tile, tiles};
use crate::cpu::view::{FloatMut, FloatRef, sized};
use crate::cpu::weight::WeightRef;

/// Most columns of a task.
pub(super) const COLS: usize = 256;
/// Most of one whose rows do not stay in L2 from columns to columns, where there are few columns.
const COLS_OF_PASSES: usize = 320;
/// Most rows of a task where there are many columns: each task fills its panels itself.
const ROWS: usize = 1024;
/// Most rows of a task where there are few columns to share out.
const ROWS_OF_FEW_COLS: usize = 512;
/// Tasks over the columns that are enough for the threads.
const ENOUGH: usize = 8;
/// Elements of an output that is stored past the caches.
const LARGE: usize = 1 << 19;
/// Most steps of a panel: 32 rows of activations of that depth (36 KiB) fit L1.
const STEPS: usize = 18;
/// Most steps of a pass, unless one part has more: a part and 16 ranks of an adapter.
const PASS: usize = 20;

/// What a thread keeps from task to task (1.4 MiB at most).
#[derive(Default)]
struct Scratch {
    panel: Lines,
    /// Sums between parts of the depth: `[row block][column pair][4 tiles]`.
    carried: Lines,
    /// Finished rows of a block, and of the one before.
    strips: Lines,
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

/// The tasks of a sum of products, plus a low-rank one of which something is dropped, each with its first row.
pub(super) fn product_tasks<'a>(
    terms: &'a [Operands<'a>],
    masked: Option<(Operands<'a>, Mask)>,
    out: FloatMut<'a>,
    (m, cols): (usize, usize),
    finish: Finish<'a>,
) -> impl Iterator<Item = (usize, Task<'a>)> {
    let few = cols.div_ceil(COLS) < ENOUGH;
    let most = if few && passes(terms).len() > 1 { COLS_OF_PASSES } else { COLS };
    let width = even(cols, most, 64);
    let most = if few { ROWS_OF_FEW_COLS } else { ROWS };
    let past_caches = out.len() >= LARGE;
    tiles(out, cols, 0..cols, even(m, most, BLOCK), width).into_iter().map(move |tile| {
        (
            tile.row,
            Box::new(move || {
                let tile = tile.of_matrix_unit(past_caches);
                match masked {
                    Some(masked) => fill_masked(terms, masked, cols, tile, finish),
                    None => fill_tile(terms, tile, finish),
                }
                if past_caches {
                    fence();
                }
            }) as Task<'a>,
        )
    })
}

fn fill_tile(terms: &[Operands<'_>], mut tile: Tile<'_>, finish: Finish<'_>) {
    let Tile { row, rows, col, cols, .. } = tile;
    let area = Area { first_block: row / BLOCK, rows, col, cols };
    let whole = cols.is_multiple_of(2 * BLOCK) && tile.is_bf16();
    if let (Finish::Store, true) = (finish, whole) {
        return run_to(terms, area, Ending::Store(&mut tile));
    }
    tile.part(0..rows.min(BLOCK)).prefetch();
    DELTA.with_borrow_mut(|delta| {
        run(terms, area, STORED, |row, sums| {
            let part = row..row + sums.len() / cols;
            // The system's own prefetcher does not follow a tile's rows.
            tile.part(rows.min(part.start + BLOCK)..rows.min(part.end + BLOCK)).prefetch();
            finish.take(delta, sums, &mut tile.part(part));
        });
    });
}

/// As [`fill_tile`], with a low-rank part that is masked: it cannot be summed with the rest. `width` is that of
/// the whole output.
fn fill_masked(
    terms: &[Operands<'_>],
    (low, mask): (Operands<'_>, Mask),
    width: usize,
    tile: Tile<'_>,
    finish: Finish<'_>,
) {
    let Tile { row, rows, col, cols, .. } = tile;
    let area = Area { first_block: row / BLOCK, rows, col, cols };
    MASKED.with_borrow_mut(|masked| {
        let masked = sized(masked, rows * cols);
        run(&[low], area, BLOCK, |first, sums| {
            for (r, sums) in sums.chunks(cols).enumerate() {
                let r = first + r;
                let out = &mut masked[r * cols..(r + 1) * cols];
                out.copy_from_slice(sums);
                mask.apply((row + r) * width + col, out);
            }
        });
        let masked = &*masked;
        let add = |delta: &mut Vec<f32>, sums: &mut [f32], tile: &mut Tile<'_>| {
            let masked = &masked[(tile.row - row) * cols..][..sums.len()];
            simd!(for (sum, masked) in sums.iter_mut().zip(masked) {
                *sum += masked;
            });
            finish.take(delta, sums, tile);
        };
        fill_tile(terms, tile, Finish::With(&add));
    });
}

/// Length of the fewest about equal parts of at most `most`, a multiple of `unit`.
pub(super) fn even(len: usize, most: usize, unit: usize) -> usize {
    len.div_ceil(len.div_ceil(most)).next_multiple_of(unit)
}

/// Some steps of a product.
struct Part<'a> {
    of: Operands<'a>,
    steps: Range<usize>,
}

/// The parts of a sum of products, in order, in groups whose panels are held at a time.
fn passes<'a>(terms: &[Operands<'a>]) -> Vec<Vec<Part<'a>>> {
    let mut passes: Vec<Vec<Part<'_>>> = Vec::new();
    let mut left = 0;
    for &of in terms {
        let whole = of.rows.steps();
        // A run of 4-bit weights is two steps.
        let part = even(whole, STEPS, 2);
        for start in (0..whole).step_by(part) {
            let steps = start..whole.min(start + part);
            if steps.len() > left {
                passes.push(Vec::new());
                left = PASS.max(steps.len());
            }
            left -= steps.len();
            passes.last_mut().expect("pushed at first").push(Part { of, steps });
        }
    }
    passes
}

/// Rows that are finished at a time: the matrix unit is slow to begin again after a whole block (2 to 3 % of a product
/// that is 576 deep).
const STORED: usize = 4;

/// Computes the sum of all products for an area and hands `at_once` of its rows at a time to `finish`, with the index of
/// the first within the area. It divides 32.
pub(super) fn run(
    terms: &[Operands<'_>],
    area: Area,
    at_once: usize,
    mut finish: impl FnMut(usize, &mut [f32]),
) {
    run_to(terms, area, Ending::Rows { at_once, finish: &mut finish });
}

/// Where the sums of an area go.
enum Ending<'a, 't> {
    Rows {
        at_once: usize,
        finish: &'a mut dyn FnMut(usize, &mut [f32]),
    },
    /// To the tile that is the area, of bf16 and of whole pairs of lines.
    Store(&'a mut Tile<'t>),
}

impl Ending<'_, '_> {
    /// Takes the rows of a block, from the `first` of the area on; the matrix unit is kept awake meanwhile.
    fn take(&mut self, tiles: &Tiles, first: usize, sums: &mut [f32], cols: usize) {
        match self {
            Self::Rows { at_once, finish } => {
                for (part, sums) in sums.chunks_mut(*at_once * cols).enumerate() {
                    finish(first + part * *at_once, sums);
                    tile::keep_awake(tiles);
                }
            }
            Self::Store(tile) => tile.part(first..first + sums.len() / cols).store(sums),
        }
    }
}

fn run_to(terms: &[Operands<'_>], area: Area, ending: Ending<'_, '_>) {
    SCRATCH.with_borrow_mut(|scratch| run_with(scratch, &passes(terms), area, ending));
}

fn run_with(
    scratch: &mut Scratch,
    passes: &[Vec<Part<'_>>],
    area: Area,
    mut ending: Ending<'_, '_>,
) {
    let Area { first_block, rows, col, cols } = area;
    let Scratch { panel, carried, strips } = scratch;
    let width = cols.next_multiple_of(BLOCK);
    let (blocks, pairs) = (rows.div_ceil(BLOCK), width / BLOCK);
    let carried = carried.f32(if passes.len() > 1 { blocks * pairs * Sums::LEN } else { 0 });
    let mut overlap = Overlap::new(strips.f32(Overlap::scratch(width)), width);
    let steps = |pass: &Vec<Part<'_>>| pass.iter().map(|part| part.steps.len()).sum::<usize>();
    let panel = panel.registers(passes.iter().map(steps).max().unwrap_or(0) * pairs * STEP);
    let tiles = Tiles::configure();
    let mut segments = Vec::new();
    for (index, pass) in passes.iter().enumerate() {
        let (first, last) = (index == 0, index + 1 == passes.len());
        fill_panels(panel, pass, col..col + width);
        for i in 0..blocks {
            let height = BLOCK.min(rows - i * BLOCK);
            let multiply =
                if height > 16 { tile::multiply::<true> } else { tile::multiply::<false> };
            // Rows of one pass stay in L2 from columns to columns.
            let fetch = passes.len() > 1 && i + 1 < blocks;
            set_segments(&mut segments, pass, panel, (first_block + i, pairs), fetch);
            for pair in 0..pairs {
                let block = (i * pairs + pair) * Sums::LEN;
                let mut between = || Sums::packed(&mut carried[block..block + Sums::LEN]);
                let from = (!first).then(&mut between);
                // SAFETY: each left has 32 rows to its last step, and each right 32 registers of 64
                // bytes for each step; `carried` and the strips stay borrowed.
                unsafe {
                    match &mut ending {
                        _ if !last => multiply(&tiles, &segments, from, between()),
                        Ending::Store(_) if height == BLOCK => {
                            overlap.multiply(&tiles, &segments, from, pair * BLOCK);
                        }
                        _ => {
                            let to = Sums::within(overlap.strip(), width, pair * BLOCK);
                            multiply(&tiles, &segments, from, to);
                        }
                    }
                }
                segments.iter_mut().for_each(Segment::next_pair);
            }
            match &mut ending {
                _ if !last => {}
                // SAFETY: the tile stays borrowed, and every row of it is stored once.
                Ending::Store(tile) if height == BLOCK => unsafe {
                    overlap.turn(tile.place(i * BLOCK));
                },
                ending => {
                    let strip = overlap.strip();
                    close_up(strip, width, cols, height);
                    ending.take(&tiles, i * BLOCK, &mut strip[..height * cols], cols);
                }
            }
        }
    }
    overlap.finish();
}

/// Fills the panels of a pass, one after the other.
fn fill_panels(mut panel: &mut [__m512i], pass: &[Part<'_>], cols: Range<usize>) {
    for Part { of, steps } in pass {
        let len = cols.len() / BLOCK * steps.len() * STEP;
        let part = panel.split_off_mut(..len).expect("panels of the longest pass");
        of.source.fill(part, cols.clone(), steps.clone());
    }
}

/// What is multiplied for the first pair of columns of a block of rows, and whether the next block is fetched meanwhile.
fn set_segments(
    segments: &mut Vec<Segment>,
    pass: &[Part<'_>],
    panel: &[__m512i],
    (block, pairs): (usize, usize),
    fetch: bool,
) {
    segments.clear();
    let mut at = 0;
    for Part { of, steps } in pass {
        let left = of.rows.block(block, steps.start);
        let right = panel[at..].as_ptr().cast();
        let next = fetch.then(|| of.rows.block(block + 1, steps.start).first);
        let ahead = next.unwrap_or(ptr::null());
        segments.push(Segment { left, right, steps: steps.len(), ahead });
        at += pairs * steps.len() * STEP;
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
