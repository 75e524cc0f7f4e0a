//! f32 values as operands of the tiles: each is the sum of two bf16 values, which miss 2^-17 of it.
//!
//! A product of two such sums is the four products of their parts, side by side in the depth or in the columns: 16
//! ranks fill a tile's depth of 32 twice, or a block's 32 columns once.

use half::bf16;

use crate::Result;
use crate::cpu::simd::simd;
use crate::cpu::team::Task;
use crate::cpu::view::narrow;
use crate::cpu::{Cpu, F32Scratch};

/// Ranks that are multiplied together.
pub(super) const RANKS: usize = 16;
/// Values of a task that splits them.
const SPLIT: usize = 16_384;

/// Which part of each value stands where among four, or two, neighbours.
pub(super) const TURNS: [bool; 4] = [false, true, false, true];
pub(super) const PAIRS: [bool; 4] = [false, false, true, true];
pub(super) const ONCE: [bool; 2] = [false, true];
/// High parts alone, beside [`ONCE`]: values of bf16 times those of f32.
pub(super) const ROUNDED: [bool; 2] = [false, false];

/// bf16 values in scratch.
pub(super) struct Parts(F32Scratch);

impl Parts {
    pub(super) fn alloc(cpu: &Cpu, len: usize) -> Result<Self> {
        cpu.scratch(len.div_ceil(2)).map(Self)
    }

    pub(super) fn values(&self) -> &[bf16] {
        bytemuck::cast_slice(&self.0)
    }

    pub(super) fn values_mut(&mut self) -> &mut [bf16] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

/// Values for each of which there are `r` ranks: what `N` parts of all are.
pub(super) const fn width<const N: usize>(r: usize) -> usize {
    N * r.next_multiple_of(RANKS)
}

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
pub(super) fn sixteen(x: &[f32]) -> [f32; RANKS] {
    if let Some(x) = x.first_chunk() {
        return *x;
    }
    let mut padded = [0.0; RANKS];
    padded[..x.len()].copy_from_slice(x);
    padded
}

/// `[rows, r]` to `[rows, N * 16 for each 16 ranks]`: the parts that `which` names, side by side.
pub(super) fn split_rows<const N: usize>(
    x: &[f32],
    r: usize,
    scale: f32,
    which: [bool; N],
    out: &mut [bf16],
) {
    simd!(for (x, out) in x.chunks(r).zip(out.chunks_mut(width::<N>(r))) {
        for (x, out) in x.chunks(RANKS).zip(out.as_chunks_mut::<RANKS>().0.chunks_mut(N)) {
            let parts = split(&sixteen(x), scale);
            for (out, low) in out.iter_mut().zip(which) {
                *out = parts[usize::from(low)];
            }
        }
    });
}

/// Tasks that [`split_rows`].
pub(super) fn in_rows<'a, const N: usize>(
    x: &'a [f32],
    r: usize,
    which: [bool; N],
    out: &'a mut Parts,
) -> impl Iterator<Item = Task<'a>> {
    let rows = SPLIT.div_ceil(width::<N>(r));
    let out = out.values_mut().chunks_mut(rows * width::<N>(r));
    x.chunks(rows * r)
        .zip(out)
        .map(move |(x, out)| Box::new(move || split_rows(x, r, 1.0, which, out)) as Task<'a>)
}

/// Tasks that bring `[r, cols]` to `[N * 16 for each 16 ranks, cols]`: the parts that `which` names, 16 rows of
/// each.
pub(super) fn in_cols<'a, const N: usize>(
    x: &'a [f32],
    (r, cols): (usize, usize),
    which: [bool; N],
    out: &'a mut Parts,
) -> impl Iterator<Item = Task<'a>> {
    let rows = SPLIT.div_ceil(cols);
    let out = &mut out.values_mut()[..width::<N>(r) * cols];
    out.chunks_mut(rows * cols).enumerate().map(move |(task, out)| {
        Box::new(move || {
            for (row, out) in (task * rows..).zip(out.chunks_mut(cols)) {
                let rank = row / (N * RANKS) * RANKS + row % RANKS;
                match x.get(rank * cols..(rank + 1) * cols) {
                    Some(x) => split_row(x, which[row / RANKS % N], out),
                    None => out.fill(bf16::ZERO),
                }
            }
        }) as Task<'a>
    })
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
