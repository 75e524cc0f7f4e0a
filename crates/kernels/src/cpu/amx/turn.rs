//! Transposes and rounds.

#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m512i, _mm512_permutexvar_epi16, _mm512_setzero_si512, _mm512_shuffle_i32x4,
    _mm512_storeu_si512, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};
use std::mem::transmute;

use half::bf16;

use super::lanes::{LANES, LINE, from, round};
use super::small::TURNS;

/// `out [cols, rows]` of `x [rows, cols]`, rounded; `rows` are a multiple of 32 and `cols` of 16.
pub(in crate::cpu) fn transpose_rounded(x: &[f32], cols: usize, out: &mut [bf16]) {
    let rows = x.len() / cols;
    assert!(super::available() && x.len() == out.len() && x.len() == rows * cols);
    assert!(rows.is_multiple_of(LINE) && cols.is_multiple_of(LANES), "no whole tiles");
    // SAFETY: a processor with the tiles has all features that are enabled.
    unsafe { transpose_tiles(x, cols, rows, out) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn transpose_tiles(x: &[f32], cols: usize, rows: usize, out: &mut [bf16]) {
    // SAFETY: both are 64 bytes of plain bits.
    let turns = unsafe { transmute::<[u16; LINE], __m512i>(TURNS) };
    for row in (0..rows).step_by(LINE) {
        for col in (0..cols).step_by(LANES) {
            let mut tile = [_mm512_setzero_si512(); LANES];
            for (i, tile) in tile.iter_mut().enumerate() {
                let at = (row + 2 * i) * cols + col;
                let (even, odd) = (x[at..].first_chunk(), x[at + cols..].first_chunk());
                let line =
                    round([from(even.expect("whole tiles")), from(odd.expect("whole tiles"))]);
                *tile = _mm512_permutexvar_epi16(turns, line);
            }
            for (i, line) in transpose(&tile).into_iter().enumerate() {
                let out = &mut out[(col + i) * rows + row..][..LINE];
                // SAFETY: `out` has 64 bytes.
                unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), line) }
            }
        }
    }
}

/// 16 x 16 words of 32 bits.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(rows: &[__m512i; LANES]) -> [__m512i; LANES] {
    let mut fours = *rows;
    for (rows, fours) in rows.as_chunks::<4>().0.iter().zip(fours.as_chunks_mut::<4>().0) {
        *fours = turn_four(rows);
    }
    let mut cols = fours;
    for c in 0..4 {
        let [a, b, d, e] = [fours[c], fours[4 + c], fours[8 + c], fours[12 + c]];
        let (even, odd) = (even_parts(a, b), odd_parts(a, b));
        let (even2, odd2) = (even_parts(d, e), odd_parts(d, e));
        cols[c] = even_parts(even, even2);
        cols[4 + c] = even_parts(odd, odd2);
        cols[8 + c] = odd_parts(even, even2);
        cols[12 + c] = odd_parts(odd, odd2);
    }
    cols
}

/// In every 128 bits a column of four rows: of columns `c`, `c + 4`, `c + 8` and `c + 12` in the `c`th.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn turn_four(rows: &[__m512i; 4]) -> [__m512i; 4] {
    let [a, b, c, d] = *rows;
    let (low, high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (low2, high2) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(low, low2),
        _mm512_unpackhi_epi64(low, low2),
        _mm512_unpacklo_epi64(high, high2),
        _mm512_unpackhi_epi64(high, high2),
    ]
}

/// Parts of 128 bits: the first and the third of `a`, then of `b`.
#[inline]
#[target_feature(enable = "avx512f")]
fn even_parts(a: __m512i, b: __m512i) -> __m512i {
    _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b)
}

/// The second and the fourth.
#[inline]
#[target_feature(enable = "avx512f")]
fn odd_parts(a: __m512i, b: __m512i) -> __m512i {
    _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_finds_its_place() {
        if !super::super::available() {
            return;
        }
        let (rows, cols) = (64, 48);
        // bf16 has all of these.
        let value = |row: usize, col: usize| {
            (row * 4 + col % 4) as f32 * if col % 8 < 4 { 1.0 } else { -1.0 }
        };
        let x: Vec<f32> = (0..rows * cols).map(|i| value(i / cols, i % cols)).collect();
        let mut out = vec![bf16::ZERO; rows * cols];
        transpose_rounded(&x, cols, &mut out);
        for (i, out) in out.iter().enumerate() {
            assert_eq!(out.to_f32(), value(i % rows, i / rows), "{i}");
        }
    }
}
