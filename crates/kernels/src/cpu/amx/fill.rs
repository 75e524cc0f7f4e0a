//! Expands 4-bit weights to the tiles of a panel.
//!
//! The 16 products of codes and absmax of two runs, each rounded once to bf16, are the 32 words of one
//! register: `vpermw` looks up 32 weights at a time, with bit 4 of the index choosing the run.

#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m256i, __m512, __m512bh, __m512i, _mm512_castsi256_si512, _mm512_cvtne2ps_pbh,
    _mm512_inserti64x4, _mm512_mask_blend_epi64, _mm512_mul_ps, _mm512_permutex2var_epi64,
    _mm512_permutexvar_epi8, _mm512_permutexvar_epi16, _mm512_set_epi64, _mm512_set1_epi16,
    _mm512_set1_epi32, _mm512_set1_epi64, _mm512_set1_ps, _mm512_setzero_si512,
    _mm512_shuffle_i64x2, _mm512_srlv_epi16, _mm512_ternarylogic_epi64,
};
use std::mem::transmute;
use std::ops::Range;

use super::tile::STEP;
use crate::cpu::four_bit::{FourBit, RUN, RUNS};

/// Rows between what is expanded and what is fetched for later.
const AHEAD: usize = 16;
/// Registers of a tile: its rows.
pub(super) const TILE: usize = 16;

/// Something that panels of a right operand `[depth, cols]` are filled from.
pub(super) trait Source: Sync {
    /// Columns `cols.start..` and the depth of `steps`, as `[pair of 16 columns][step][2][16]`
    /// registers; zeros beyond the edges. Fills all of `panel`.
    fn fill(&self, panel: &mut [__m512i], cols: Range<usize>, steps: Range<usize>);
}

/// `W^T`: depth runs along the rows of the weight.
pub(super) struct Transposed<'a>(pub(super) FourBit<'a>);

/// `W`: depth runs over the rows of the weight.
pub(super) struct Straight<'a>(pub(super) FourBit<'a>);

impl Source for Transposed<'_> {
    fn fill(&self, panel: &mut [__m512i], cols: Range<usize>, steps: Range<usize>) {
        assert!(
            super::available() && steps.start.is_multiple_of(2) && steps.len().is_multiple_of(2)
        );
        // SAFETY: a processor with the tiles that were asked for has all features that are enabled.
        unsafe { fill_transposed(&self.0, panel, cols.start, steps) }
    }
}

impl Source for Straight<'_> {
    fn fill(&self, panel: &mut [__m512i], cols: Range<usize>, steps: Range<usize>) {
        assert!(
            super::available() && cols.start.is_multiple_of(RUN) && cols.len().is_multiple_of(RUN)
        );
        // SAFETY: as above.
        unsafe { fill_straight(&self.0, panel, cols, steps) }
    }
}

/// Spreads the bytes of two runs for [`look_up`]: for each word the byte that holds its code, and
/// whether an odd register holds neighbouring quadwords in swapped order.
const fn transposed_bytes() -> [[u8; 64]; 8] {
    let mut bytes = [[0; 64]; 8];
    let mut i = 0;
    while i < 8 * 64 {
        // Register `[eighth of a run][parity]`, quadword of four words: two depths of either run.
        let (register, quad, word) = (i / 64, i / 8 % 8, i % 8 / 2);
        let (quarter, parity) = (register / 2, register % 2);
        if i % 2 == 0 {
            let second = if word >= 2 { 32 } else { 0 };
            bytes[register][i % 64] = (8 * quarter + (quad ^ parity) + second) as u8;
        }
        i += 1;
    }
    bytes
}

/// As [`transposed_bytes`], each run a row of its own: words of the two rows in turns.
const fn straight_bytes() -> [[u8; 64]; 4] {
    let mut bytes = [[0; 64]; 4];
    let mut i = 0;
    while i < 4 * 64 {
        let (quarter, column, word) = (i / 64, i / 4 % 16, i % 4 / 2);
        if i % 2 == 0 {
            bytes[quarter][i % 64] = (8 * quarter + column / 2 + 32 * word) as u8;
        }
        i += 1;
    }
    bytes
}

static TRANSPOSED: [[u8; 64]; 8] = transposed_bytes();
static STRAIGHT: [[u8; 64]; 4] = straight_bytes();

#[inline]
#[target_feature(enable = "avx512f")]
fn load(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: both are 64 bytes of plain bits.
    unsafe { transmute::<[u8; 64], __m512i>(*bytes) }
}

/// Weights of two runs: their packed bytes and the table of all values they may have.
#[derive(Clone, Copy)]
struct Runs {
    bytes: __m512i,
    table: __m512i,
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
fn runs(first: (&[u8; 32], f32), second: (&[u8; 32], f32), codebook: &[f32; 16]) -> Runs {
    // SAFETY: arrays and vectors of the same bytes, of plain bits.
    let (codes, a, b) = unsafe {
        (
            transmute::<[f32; 16], __m512>(*codebook),
            transmute::<[u8; 32], __m256i>(*first.0),
            transmute::<[u8; 32], __m256i>(*second.0),
        )
    };
    let products = |absmax| _mm512_mul_ps(codes, _mm512_set1_ps(absmax));
    let table = _mm512_cvtne2ps_pbh(products(second.1), products(first.1));
    Runs {
        bytes: _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b),
        // SAFETY: both are 64 bytes of plain bits.
        table: unsafe { transmute::<__m512bh, __m512i>(table) },
    }
}

/// 32 weights: of the byte chosen for each word the code `shift` bits up, of the second run where
/// `second` has bit 4 set.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn look_up(runs: Runs, bytes: __m512i, shift: __m512i, second: __m512i) -> __m512i {
    let codes = _mm512_srlv_epi16(_mm512_permutexvar_epi8(bytes, runs.bytes), shift);
    // (codes & 15) | second
    let index = _mm512_ternarylogic_epi64::<0xEA>(codes, _mm512_set1_epi16(15), second);
    _mm512_permutexvar_epi16(index, runs.table)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
fn fill_transposed(w: &FourBit<'_>, panel: &mut [__m512i], col: usize, steps: Range<usize>) {
    // The even depth of a byte is its high half.
    let shift = _mm512_set1_epi32(4);
    let second = _mm512_set1_epi64(0x0010_0010_0000_0000);
    let pairs = panel.chunks_exact_mut(steps.len() * 2 * TILE);
    for (pair, panel) in pairs.enumerate() {
        for half in 0..2 {
            let row = col + pair * 32 + half * 16;
            let mut rows = [w.row(usize::MAX, 0..0); TILE];
            for (i, panel) in panel.chunks_exact_mut(4 * TILE).enumerate() {
                let depth = (steps.start + 2 * i) * STEP;
                if i % RUNS == 0 {
                    let end = (steps.end * STEP).min(depth + RUNS * RUN);
                    for (r, runs) in rows.iter_mut().enumerate() {
                        *runs = w.row(row + r, depth..end);
                    }
                }
                let even = i % 2 == 0;
                let mut pairs = [Runs { bytes: shift, table: shift }; 8];
                for (r, pair) in pairs.iter_mut().enumerate() {
                    let row = row + 2 * r;
                    *pair = runs(
                        rows[2 * r].get(i % RUNS),
                        rows[2 * r + 1].get(i % RUNS),
                        w.codebook().values,
                    );
                    if even {
                        w.prefetch(row + AHEAD, depth..depth + 2 * RUN);
                        w.prefetch(row + AHEAD + 1, depth..depth + 2 * RUN);
                    }
                }
                for quarter in 0..4 {
                    let bytes = [0, 1].map(|i| load(&TRANSPOSED[2 * quarter + i]));
                    let mut quads = [_mm512_setzero_si512(); 8];
                    for (i, quads) in quads.iter_mut().enumerate() {
                        *quads = look_up(pairs[i], bytes[i % 2], shift, second);
                    }
                    let first = (quarter / 2 * 2 + half) * TILE + quarter % 2 * 8;
                    transpose(&quads, (&mut panel[first..first + 8]).try_into().expect("eight"));
                }
            }
        }
    }
}

/// Transposes 8 x 8 quadwords; rows of odd index come with neighbours swapped.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(rows: &[__m512i; 8], out: &mut [__m512i; 8]) {
    let zero = _mm512_setzero_si512();
    let (mut even, mut odd) = ([zero; 4], [zero; 4]);
    for i in 0..4 {
        even[i] = _mm512_mask_blend_epi64(0xAA, rows[2 * i], rows[2 * i + 1]);
        odd[i] = _mm512_mask_blend_epi64(0xAA, rows[2 * i + 1], rows[2 * i]);
    }
    let low = [
        _mm512_shuffle_i64x2::<0x88>(even[0], even[1]),
        _mm512_shuffle_i64x2::<0x88>(even[2], even[3]),
    ];
    let high = [
        _mm512_shuffle_i64x2::<0xdd>(even[0], even[1]),
        _mm512_shuffle_i64x2::<0xdd>(even[2], even[3]),
    ];
    out[0] = _mm512_shuffle_i64x2::<0x88>(low[0], low[1]);
    out[4] = _mm512_shuffle_i64x2::<0xdd>(low[0], low[1]);
    out[2] = _mm512_shuffle_i64x2::<0x88>(high[0], high[1]);
    out[6] = _mm512_shuffle_i64x2::<0xdd>(high[0], high[1]);
    let low = [
        _mm512_shuffle_i64x2::<0x88>(odd[0], odd[1]),
        _mm512_shuffle_i64x2::<0x88>(odd[2], odd[3]),
    ];
    let high = [
        _mm512_shuffle_i64x2::<0xdd>(odd[0], odd[1]),
        _mm512_shuffle_i64x2::<0xdd>(odd[2], odd[3]),
    ];
    // The blend left the quadwords of odd rows swapped.
    let first = _mm512_set_epi64(12, 13, 8, 9, 4, 5, 0, 1);
    let second = _mm512_set_epi64(14, 15, 10, 11, 6, 7, 2, 3);
    out[1] = _mm512_permutex2var_epi64(low[0], first, low[1]);
    out[5] = _mm512_permutex2var_epi64(low[0], second, low[1]);
    out[3] = _mm512_permutex2var_epi64(high[0], first, high[1]);
    out[7] = _mm512_permutex2var_epi64(high[0], second, high[1]);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
fn fill_straight(w: &FourBit<'_>, panel: &mut [__m512i], cols: Range<usize>, steps: Range<usize>) {
    // The even column of a byte is its high half.
    let shift = _mm512_set1_epi64(4 | 4 << 16);
    let second = _mm512_set1_epi32(0x0010_0000);
    let bytes = [0, 1, 2, 3].map(|i| load(&STRAIGHT[i]));
    let pair = steps.len() * 2 * TILE;
    // Row by row, for neighbouring runs share cache lines.
    for (step, first) in steps.map(|step| step * STEP).enumerate() {
        for i in 0..TILE {
            let row = first + 2 * i;
            w.prefetch(row + AHEAD, cols.clone());
            w.prefetch(row + AHEAD + 1, cols.clone());
            for (col, panel) in cols.clone().step_by(RUN).zip(panel.chunks_exact_mut(2 * pair)) {
                let runs = runs(w.run(row, col), w.run(row + 1, col), w.codebook().values);
                for (quarter, bytes) in bytes.iter().enumerate() {
                    let at = quarter / 2 * pair + (2 * step + quarter % 2) * TILE + i;
                    panel[at] = look_up(runs, *bytes, shift, second);
                }
            }
        }
    }
}
