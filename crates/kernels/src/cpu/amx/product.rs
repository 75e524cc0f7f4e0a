//! Cuts a product into tasks and runs the tile loop over a task's panel.

#![allow(unsafe_code)]

use std::arch::x86_64::__m512i;
use std::cell::RefCell;

use half::bf16;
use rayon::prelude::*;

use super::Side;
use super::dense::{self, Dense};
use super::fill::{Source, Straight, Transposed};
use super::rows::Rows;
use super::tile::{self, BLOCK, STEP, Sums, Tiles};
use super::weight::{FourBit, RUN};
use crate::Result;
use crate::cpu::Cpu;
use crate::cpu::simd::simd;
use crate::cpu::tiles::{Tile, tiles};
use crate::cpu::view::{FloatMut, FloatRef, sized};
use crate::cpu::weight::WeightRef;

/// Most columns of a task.
const COLS: usize = 256;
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
    panel: Vec<__m512i>,
    /// Sums between parts of the depth: `[row block][column pair][4 tiles]`.
    carried: Vec<__m512i>,
    /// Finished rows of one block.
    strip: Vec<__m512i>,
    delta: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// `out = finish(x . W^T)` or `finish(x . W)` for a weight `[n, k]`, where `finish` is given scratch,
/// the f32 sums of some rows and columns and the tile to store them to. False, and nothing done, unless
/// the activations are bf16, `k` is a multiple of 64 and the weight is bf16, or of 4 bits in blocks of
/// at least 64 with a bf16 output: in an f32 output its rounding to bf16 would show.
pub(in crate::cpu) fn multiply(
    cpu: &Cpu,
    x: FloatRef<'_>,
    (weight, side): (WeightRef<'_>, Side),
    out: &mut FloatMut<'_>,
    (m, n, k): (usize, usize, usize),
    finish: impl Fn(&mut Vec<f32>, &mut [f32], &mut Tile<'_>) + Sync,
) -> Result<bool> {
    let FloatRef::Bf16(x) = x else {
        return Ok(false);
    };
    if !cpu.amx || m * n * k == 0 || !k.is_multiple_of(RUN) {
        return Ok(false);
    }
    match (weight, &*out) {
        (WeightRef::Dense(FloatRef::Bf16(values)), _) => {
            let weight = Dense { values, n, k };
            let out = out.reborrow();
            match side {
                Side::Transposed => {
                    product(cpu, x, &dense::Transposed(weight), out, (m, n), finish)?;
                }
                Side::Straight => {
                    let source = dense::Straight { weight, copies: 1 };
                    product(cpu, x, &source, out, (m, k), finish)?;
                }
            }
        }
        (WeightRef::Quantized(weight), FloatMut::Bf16(_)) => {
            let Some(weight) = FourBit::new(cpu, weight, n, k)? else {
                return Ok(false);
            };
            let out = out.reborrow();
            match side {
                Side::Transposed => product(cpu, x, &Transposed(&weight), out, (m, n), finish)?,
                Side::Straight => product(cpu, x, &Straight(&weight), out, (m, k), finish)?,
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn product(
    cpu: &Cpu,
    x: &[bf16],
    source: &impl Source,
    out: FloatMut<'_>,
    (m, cols): (usize, usize),
    finish: impl Fn(&mut Vec<f32>, &mut [f32], &mut Tile<'_>) + Sync,
) -> Result<()> {
    let rows = Rows::new(cpu, x, m, source.depth())?;
    let width = even(cols, COLS, 64);
    let most = if cols.div_ceil(width) < ENOUGH { ROWS_OF_FEW_COLS } else { ROWS };
    let tasks = tiles(out, cols, 0..cols, even(m, most, BLOCK), width);
    tasks.into_par_iter().for_each(|tile| {
        SCRATCH.with_borrow_mut(|scratch| run(scratch, &rows, source, tile, &finish));
    });
    Ok(())
}

/// `out [+]= rows . source` `[m, cols]`, all of it by this thread.
pub(super) fn sequential(
    rows: &Rows<'_>,
    source: &impl Source,
    out: FloatMut<'_>,
    cols: usize,
    accumulate: bool,
) {
    let m = out.len() / cols;
    let finish = |before: &mut Vec<f32>, sums: &mut [f32], tile: &mut Tile<'_>| {
        if accumulate {
            let before = sized(before, sums.len());
            tile.load(before);
            simd!(for (sum, before) in sums.iter_mut().zip(&*before) {
                *sum += before;
            });
        }
        tile.store(sums);
    };
    for tile in tiles(out, cols, 0..cols, m, even(cols, COLS, 64)) {
        SCRATCH.with_borrow_mut(|scratch| run(scratch, rows, source, tile, &finish));
    }
}

/// Length of the fewest about equal parts of at most `most`, a multiple of `unit`.
fn even(len: usize, most: usize, unit: usize) -> usize {
    len.div_ceil(len.div_ceil(most)).next_multiple_of(unit)
}

fn run(
    scratch: &mut Scratch,
    rows: &Rows<'_>,
    source: &impl Source,
    tile: Tile<'_>,
    finish: &impl Fn(&mut Vec<f32>, &mut [f32], &mut Tile<'_>),
) {
    let Scratch { panel, carried, strip, delta } = scratch;
    let (first_row, cols) = (tile.row / BLOCK, tile.cols);
    let width = cols.next_multiple_of(BLOCK);
    let pairs = width / BLOCK;
    let mut strips = tile.split(BLOCK);
    let whole = rows.steps();
    // A run of 4-bit weights is two steps.
    let part = even(whole, STEPS, 2);
    if whole > part {
        grow(carried, strips.len() * pairs * Sums::LEN / 16);
    }
    grow(strip, BLOCK * width / 16);
    let (carried, strip) = (floats(carried), &mut floats(strip)[..BLOCK * width]);
    let tiles = Tiles::configure();
    for start in (0..whole).step_by(part) {
        let steps = start..whole.min(start + part);
        let registers = pairs * steps.len() * STEP;
        grow(panel, registers);
        let panel = &mut panel[..registers];
        let col = strips[0].col;
        source.fill(panel, col..col + width, steps.clone());
        let last = steps.end == whole;
        for (i, out) in strips.iter_mut().enumerate() {
            let left = rows.block(first_row + i, start);
            for (pair, panel) in panel.chunks_exact(steps.len() * STEP).enumerate() {
                let block = (i * pairs + pair) * Sums::LEN;
                let mut between = || Sums::packed(&mut carried[block..block + Sums::LEN]);
                let from = (start > 0).then(&mut between);
                let to = if last { Sums::within(strip, width, pair * BLOCK) } else { between() };
                let multiply =
                    if out.rows > 16 { tile::multiply::<true> } else { tile::multiply::<false> };
                // SAFETY: `left` has 32 rows to the last step, and `panel` 32 registers of 64 bytes for
                // each step; `carried` and `strip` stay borrowed.
                unsafe { multiply(&tiles, left, panel.as_ptr().cast(), steps.len(), from, to) }
            }
            if last {
                close_up(strip, width, cols, out.rows);
                finish(delta, &mut strip[..out.rows * cols], out);
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

fn grow(scratch: &mut Vec<__m512i>, len: usize) {
    // SAFETY: plain bits.
    const ZERO: __m512i = unsafe { std::mem::transmute([0_u8; 64]) };
    if scratch.len() < len {
        scratch.resize(len, ZERO);
    }
}

/// The lanes of vectors, whose alignment keeps the rows of tiles within cache lines.
fn floats(vectors: &mut [__m512i]) -> &mut [f32] {
    // SAFETY: a vector is 16 f32 without padding, with no less alignment; the borrow passes over.
    unsafe { std::slice::from_raw_parts_mut(vectors.as_mut_ptr().cast(), 16 * vectors.len()) }
}
