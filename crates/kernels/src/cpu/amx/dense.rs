//! Puts dense bf16 weights into the tiles of a panel, exactly.

#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m512i, _mm_loadu_si128, _mm512_castsi128_si512, _mm512_inserti32x4, _mm512_loadu_si512,
    _mm512_permutex2var_epi16,
};
use std::mem::transmute;
use std::ops::Range;

use half::bf16;

use super::fill::{Source, TILE};
use super::tile::STEP;
use super::turn::turn_four;
use crate::cpu::prefetch;

/// Rows between what is put in place and what is fetched for later.
const AHEAD: usize = 16;

/// Rows `[n, k]` of a bf16 weight; `k` is a multiple of 32.
#[derive(Clone, Copy)]
pub(super) struct Dense<'a> {
    values: &'a [bf16],
    n: usize,
    /// Elements from row to row.
    stride: usize,
}

impl<'a> Dense<'a> {
    /// The first `n * k` values.
    pub(super) fn new(values: &'a [bf16], n: usize, k: usize) -> Self {
        Self::strided(&values[..n * k], n, k, k)
    }

    /// Rows that lie `stride` values apart.
    pub(super) fn strided(values: &'a [bf16], n: usize, k: usize, stride: usize) -> Self {
        assert!(k.is_multiple_of(STEP) && (n == 0 || (n - 1) * stride + k <= values.len()));
        Self { values, n, stride }
    }

    /// `N` elements of a row; zeros beyond the last row.
    #[inline]
    fn get<const N: usize>(&self, row: usize, col: usize) -> [bf16; N] {
        if row >= self.n {
            return [bf16::ZERO; N];
        }
        let values = self.values[row * self.stride + col..].first_chunk();
        *values.expect("rows are made of whole steps")
    }

    /// Columns of a row; zeros beyond the last one.
    #[inline]
    fn row(&self, row: usize, cols: &Range<usize>) -> &'a [[bf16; STEP]] {
        const ZEROS: &[[bf16; STEP]] = &[[bf16::ZERO; STEP]; 32];
        if row >= self.n {
            return &ZEROS[..cols.len().div_ceil(STEP)];
        }
        let first = row * self.stride;
        self.values[first + cols.start..first + cols.end].as_chunks().0
    }

    /// Fetches part of a row that will be needed soon; nothing beyond the last row.
    #[inline]
    fn prefetch(&self, row: usize, cols: Range<usize>) {
        let first = row * self.stride;
        let values = self.values.get(first + cols.start..first + cols.end);
        prefetch::to_read(values.unwrap_or(&[]));
    }
}

/// `W^T`: depth runs along the rows of the weight.
#[derive(Clone, Copy)]
pub(super) struct Transposed<'a>(pub(super) Dense<'a>);

/// `W`: depth runs over the rows of the weight.
#[derive(Clone, Copy)]
pub(super) struct Straight<'a>(pub(super) Dense<'a>);

impl Source for Transposed<'_> {
    fn fill(&self, panel: &mut [__m512i], cols: Range<usize>, steps: Range<usize>) {
        assert!(super::available());
        // SAFETY: a processor with the tiles that were asked for has all features that are enabled.
        unsafe { fill_transposed(self.0, panel, cols.start, steps) }
    }
}

impl Source for Straight<'_> {
    fn fill(&self, panel: &mut [__m512i], cols: Range<usize>, steps: Range<usize>) {
        assert!(super::available());
        // SAFETY: as above.
        unsafe { fill_straight(self.0, panel, cols, steps) }
    }
}

/// 16 x 16 pairs of depths: lanes of four rows each are gathered, then unpacked twice.
#[target_feature(enable = "avx512f")]
fn fill_transposed(w: Dense<'_>, panel: &mut [__m512i], col: usize, steps: Range<usize>) {
    for (pair, panel) in panel.chunks_exact_mut(steps.len() * 2 * TILE).enumerate() {
        for (tile, panel) in panel.as_chunks_mut().0.iter_mut().enumerate() {
            let row = col + pair * 32 + tile % 2 * 16;
            let depth = (steps.start + tile / 2) * STEP;
            if row + TILE <= w.n {
                transpose_tile(&w.values[row * w.stride + depth..], w.stride, panel);
            } else {
                let mut rows = [bf16::ZERO; TILE * STEP];
                for (row, out) in (row..w.n).zip(rows.as_chunks_mut().0) {
                    *out = w.get::<STEP>(row, depth);
                }
                transpose_tile(&rows, STEP, panel);
            }
        }
    }
}

/// 16 rows of 32 values, `stride` apart.
#[target_feature(enable = "avx512f")]
fn transpose_tile(rows: &[bf16], stride: usize, out: &mut [__m512i; TILE]) {
    assert!((TILE - 1) * stride + STEP <= rows.len(), "rows end too early");
    for (lane, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let first = rows.as_ptr().wrapping_add(8 * lane);
        let row = |i: usize| first.wrapping_add(i * stride);
        // SAFETY: 16 bytes of rows 0 to 15, within the last as asserted, or before.
        let rows = unsafe {
            [
                gather(row(0), stride),
                gather(row(1), stride),
                gather(row(2), stride),
                gather(row(3), stride),
            ]
        };
        *out = turn_four(&rows);
    }
}

/// 16 bytes of every fourth row. Safety: those of `row`, and of rows 4, 8 and 12 after it, can be read.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn gather(row: *const bf16, stride: usize) -> __m512i {
    // SAFETY: by the caller's contract.
    let part = |i: usize| unsafe { _mm_loadu_si128(row.wrapping_add(i * stride).cast()) };
    let lanes = _mm512_castsi128_si512(part(0));
    let lanes = _mm512_inserti32x4::<1>(lanes, part(4));
    let lanes = _mm512_inserti32x4::<2>(lanes, part(8));
    _mm512_inserti32x4::<3>(lanes, part(12))
}

/// Words of two rows in turns: the lower 16 columns, then the upper.
const fn turns() -> [[u16; 32]; 2] {
    let mut index = [[0; 32]; 2];
    let mut i = 0;
    while i < 64 {
        index[i / 32][i % 32] = (i / 32 * 16 + i % 32 / 2 + i % 2 * 32) as u16;
        i += 1;
    }
    index
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(values: &[bf16; STEP]) -> __m512i {
    // SAFETY: 64 readable bytes of plain bits.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f,avx512bw")]
fn fill_straight(w: Dense<'_>, panel: &mut [__m512i], cols: Range<usize>, steps: Range<usize>) {
    // SAFETY: arrays and vectors of 64 bytes of plain bits.
    let [lower, upper] = turns().map(|x| unsafe { transmute::<[u16; 32], __m512i>(x) });
    let pair = steps.len() * 2 * TILE;
    for (step, first) in steps.map(|step| step * STEP).enumerate() {
        for i in 0..TILE {
            let row = first + 2 * i;
            w.prefetch(row + AHEAD, cols.clone());
            w.prefetch(row + AHEAD + 1, cols.clone());
            let at = 2 * step * TILE + i;
            let (first, second) = (w.row(row, &cols), w.row(row + 1, &cols));
            for ((a, b), panel) in first.iter().zip(second).zip(panel.chunks_exact_mut(pair)) {
                let (a, b) = (load(a), load(b));
                panel[at] = _mm512_permutex2var_epi16(a, lower, b);
                panel[at + TILE] = _mm512_permutex2var_epi16(a, upper, b);
            }
        }
    }
}
