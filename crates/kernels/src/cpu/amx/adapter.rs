//! Products with the low-rank factors of an adapter.
//!
//! Factors and what they make of activations are f32. Each f32 becomes the sum of two bf16 values, which
//! miss 2^-17 of it, and a product of two such sums the four products of their parts, side by side in the
//! depth or in the columns: 16 ranks fill a tile's depth of 32 twice, or a block's 32 columns once.

use half::bf16;

use super::dense::{Dense, Straight, Transposed};
use super::fill::Source;
use super::product::{Area, COLS, Operands, run, supports};
use super::rows::Rows;
use super::tile::{BLOCK, STEP};
use super::{LowRank, Side};
use crate::Result;
use crate::cpu::simd::simd;
use crate::cpu::team;
use crate::cpu::tiles::tiles;
use crate::cpu::view::{FloatMut, FloatRef, narrow};
use crate::cpu::{Cpu, F32Scratch};

/// Ranks that are multiplied together.
const RANKS: usize = 16;
/// Values of a task that splits them: fewer take less time than it takes to call a thread.
const SPLIT: usize = 16_384;
/// Rows of a task of [`shrink`].
const SHRINK_ROWS: usize = 256;
/// Columns of a task of [`gradient`].
const GRADIENT_COLS: usize = 128;

/// bf16 values in scratch.
struct Parts(F32Scratch);

impl Parts {
    fn alloc(cpu: &Cpu, len: usize) -> Result<Self> {
        cpu.scratch(len.div_ceil(2)).map(Self)
    }

    fn values(&self) -> &[bf16] {
        bytemuck::cast_slice(&self.0)
    }

    fn values_mut(&mut self) -> &mut [bf16] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

/// Which part of each value stands where among four, or two, neighbours.
const TURNS: [bool; 4] = [false, true, false, true];
const PAIRS: [bool; 4] = [false, false, true, true];
const ONCE: [bool; 2] = [false, true];

/// High and low parts of 16 values.
#[expect(clippy::inline_always, reason = "compiled for the caller's instruction set")]
#[inline(always)]
fn split(x: &[f32; RANKS], scale: f32) -> [[bf16; RANKS]; 2] {
    let mut parts = [[bf16::ZERO; RANKS]; 2];
    for i in 0..RANKS {
        let x = x[i] * scale;
        let high = narrow(x);
        let rest = x - f32::from_bits(u32::from(high.to_bits()) << 16);
        (parts[0][i], parts[1][i]) = (high, narrow(rest));
    }
    parts
}

/// Up to 16 values of a row, zeros beyond.
#[expect(clippy::inline_always, reason = "compiled for the caller's instruction set")]
#[inline(always)]
fn sixteen(x: &[f32]) -> [f32; RANKS] {
    if let Some(x) = x.first_chunk() {
        return *x;
    }
    let mut padded = [0.0; RANKS];
    padded[..x.len()].copy_from_slice(x);
    padded
}

/// `[rows, r]` to `[rows, N * 16 for each 16 ranks]`: the parts that `which` names, side by side.
fn split_in_rows<const N: usize>(
    cpu: &Cpu,
    x: &[f32],
    r: usize,
    scale: f32,
    which: [bool; N],
) -> Result<Parts> {
    let width = N * r.next_multiple_of(RANKS);
    let mut parts = Parts::alloc(cpu, x.len() / r * width)?;
    let rows = SPLIT.div_ceil(width);
    let out = parts.values_mut().chunks_mut(rows * width);
    team::for_each(x.chunks(rows * r).zip(out), |(x, out)| {
        simd!(for (x, out) in x.chunks(r).zip(out.chunks_mut(width)) {
            for (x, out) in x.chunks(RANKS).zip(out.as_chunks_mut::<RANKS>().0.chunks_mut(N)) {
                let parts = split(&sixteen(x), scale);
                for (out, low) in out.iter_mut().zip(which) {
                    *out = parts[usize::from(low)];
                }
            }
        });
    });
    Ok(parts)
}

/// `[r, cols]` to `[N * 16 for each 16 ranks, cols]`: the parts that `which` names, 16 rows of each.
fn split_in_cols<const N: usize>(
    cpu: &Cpu,
    x: &[f32],
    (r, cols): (usize, usize),
    which: [bool; N],
) -> Result<Parts> {
    let mut parts = Parts::alloc(cpu, N * r.next_multiple_of(RANKS) * cols)?;
    let rows = SPLIT.div_ceil(cols);
    let tasks = parts.values_mut().chunks_mut(rows * cols).enumerate();
    team::for_each(tasks, |(task, out)| {
        for (row, out) in (task * rows..).zip(out.chunks_mut(cols)) {
            let rank = row / (N * RANKS) * RANKS + row % RANKS;
            match x.get(rank * cols..(rank + 1) * cols) {
                Some(x) => split_row(x, which[row / RANKS % N], out),
                None => out.fill(bf16::ZERO),
            }
        }
    });
    Ok(parts)
}

/// High or low parts of values.
fn split_row(x: &[f32], low: bool, out: &mut [bf16]) {
    if low {
        simd!(for (out, &x) in out.iter_mut().zip(x) {
            *out = narrow(x - f32::from_bits(u32::from(narrow(x).to_bits()) << 16));
        });
    } else {
        simd!(for (out, &x) in out.iter_mut().zip(x) {
            *out = narrow(x);
        });
    }
}

impl LowRank<'_> {
    /// Hands the operands of a product `[m, cols]` on.
    pub(super) fn with<T>(
        self,
        cpu: &Cpu,
        (m, cols): (usize, usize),
        side: Side,
        f: impl FnOnce(Operands<'_>) -> T,
    ) -> Result<T> {
        let Self { left, factor, r, scale, .. } = self;
        let depth = TURNS.len() * r.next_multiple_of(RANKS);
        let left = split_in_rows(cpu, left, r, scale, TURNS)?;
        let rows = &Rows::new(cpu, &left.values()[..m * depth], m, depth)?;
        match side {
            Side::Transposed => {
                let right = split_in_rows(cpu, factor, r, 1.0, PAIRS)?;
                let source = &Transposed(Dense::new(right.values(), cols, depth));
                Ok(f(Operands { rows, source }))
            }
            Side::Straight => {
                let right = split_in_cols(cpu, factor, (r, cols), PAIRS)?;
                let source = &Straight(Dense::new(right.values(), depth, cols));
                Ok(f(Operands { rows, source }))
            }
        }
    }
}

/// `out [m, r] = scale * x [m, depth] . F`, where F is a factor `[r, depth]` transposed or a factor
/// `[depth, r]`. False, and nothing done, unless the activations are bf16 and `depth` of the transposed
/// factor is a multiple of 64.
pub(in crate::cpu) fn shrink(
    cpu: &Cpu,
    x: FloatRef<'_>,
    (factor, side): (&[f32], Side),
    (depth, r): (usize, usize),
    scale: f32,
    out: &mut [f32],
) -> Result<bool> {
    let unit = if side == Side::Transposed { depth } else { 0 };
    let Some(x) = supports(x, unit).filter(|_| depth > 0 && !out.is_empty()) else {
        return Ok(false);
    };
    let width = ONCE.len() * r.next_multiple_of(RANKS);
    let rows = Rows::new(cpu, x, out.len() / r, depth)?;
    let parts = match side {
        Side::Transposed => split_in_cols(cpu, factor, (r, depth), ONCE)?,
        Side::Straight => split_in_rows(cpu, factor, r, 1.0, ONCE)?,
    };
    let source: &dyn Source = match side {
        Side::Transposed => &Transposed(Dense::new(parts.values(), width, depth)),
        Side::Straight => &Straight(Dense::new(parts.values(), depth, width)),
    };
    let base = Operands { rows: &rows, source };
    team::for_each(out.chunks_mut(SHRINK_ROWS * r).enumerate(), |(task, out)| {
        let first_block = task * SHRINK_ROWS / BLOCK;
        for col in (0..width).step_by(COLS) {
            let cols = COLS.min(width - col);
            let area = Area { first_block, rows: out.len() / r, col, cols };
            run(base, None, area, |block, sums| {
                let out = out.chunks_mut(r).skip(block * BLOCK);
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
    });
    Ok(true)
}

/// `out += scale * (left [m, r]^T . x [m, cols])`, where `out` is `[r, cols]`, or `[cols, r]` if it is to
/// be transposed. False, and nothing done, unless `x` is bf16 and `cols` is a multiple of 32.
pub(in crate::cpu) fn gradient(
    cpu: &Cpu,
    (left, r): (&[f32], usize),
    x: FloatRef<'_>,
    (m, cols): (usize, usize),
    scale: f32,
    (out, side): (&mut FloatMut<'_>, Side),
) -> Result<bool> {
    let Some(x) = supports(x, 0).filter(|_| m * cols * r > 0 && cols.is_multiple_of(BLOCK)) else {
        return Ok(false);
    };
    let rows = Rows::gathered(cpu, r.div_ceil(RANKS), m.div_ceil(STEP), |block, step, out| {
        let tokens = left.chunks(r).skip(step * STEP);
        let ranks = block * RANKS..r.min((block + 1) * RANKS);
        turn(tokens.map(|token| &token[ranks.clone()]), scale, out);
    })?;
    let source = &Straight(Dense::new(x, m, cols));
    let base = Operands { rows: &rows, source };
    let area = |col, cols| Area { first_block: 0, rows: r.div_ceil(RANKS) * BLOCK, col, cols };
    match side {
        Side::Straight => {
            let tasks = tiles(out.reborrow(), cols, 0..cols, r, GRADIENT_COLS);
            team::for_each(tasks, |tile| {
                let area = area(tile.col, tile.cols);
                let mut ranks = tile.split(RANKS);
                let mut before = [0.0; RANKS * GRADIENT_COLS];
                run(base, None, area, |block, sums| {
                    let before = &mut before[..ranks[block].rows * area.cols];
                    ranks[block].load(before);
                    simd!(add_halves(sums, before));
                    ranks[block].store(before);
                });
            });
        }
        Side::Transposed => {
            let tasks = out.reborrow().chunks(GRADIENT_COLS * r).into_iter().enumerate();
            team::for_each_init(tasks, Vec::new, |scratch, (task, out)| {
                let area = area(task * GRADIENT_COLS, out.len() / r);
                out.update(scratch, |out| {
                    let mut both = [0.0; RANKS * GRADIENT_COLS];
                    run(base, None, area, |block, sums| {
                        let both = &mut both[..RANKS * area.cols];
                        both.fill(0.0);
                        simd!(add_halves(sums, both));
                        for (i, out) in out.chunks_mut(r).enumerate() {
                            let out = out[block * RANKS..].iter_mut();
                            out.zip(both[i..].iter().step_by(area.cols))
                                .for_each(|(out, x)| *out += x);
                        }
                    });
                });
            });
        }
    }
    Ok(true)
}

/// Adds the high and the low rows of `sums` `[2 * 16, cols]` to as many rows as `out` has.
#[expect(clippy::inline_always, reason = "compiled for the caller's instruction set")]
#[inline(always)]
fn add_halves(sums: &[f32], out: &mut [f32]) {
    let (high, low) = sums.split_at(sums.len() / 2);
    for ((out, high), low) in out.iter_mut().zip(high).zip(low) {
        *out += high + low;
    }
}

/// The parts of up to 32 tokens' ranks as columns: 16 rows of high ones and 16 of low ones.
fn turn<'a>(tokens: impl Iterator<Item = &'a [f32]>, scale: f32, out: &mut [bf16; BLOCK * STEP]) {
    let mut parts = [[[bf16::ZERO; RANKS]; 2]; STEP];
    simd!(for (parts, token) in parts.iter_mut().zip(tokens) {
        *parts = split(&sixteen(token), scale);
    });
    let (rows, _) = out.as_chunks_mut::<STEP>();
    for (i, row) in rows.iter_mut().enumerate() {
        for (out, parts) in row.iter_mut().zip(&parts) {
            *out = parts[i / RANKS][i % RANKS];
        }
    }
}
