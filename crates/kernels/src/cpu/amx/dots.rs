//! Products of rows with rows.

#![allow(unsafe_code)]

use std::arch::x86_64::{__m512bh, _mm512_dpbf16_ps, _mm512_setzero_ps};
use std::mem::transmute;

use half::bf16;

use super::lanes::{LANES, LINE, to};
use super::softmax::by_row;

/// `out[i] = x[i] . y[i]` of rows of `cols` values, a multiple of 32. Subnormal values count as zeros.
pub(in crate::cpu) fn row_dots(x: &[bf16], y: &[bf16], cols: usize, out: &mut [f32]) {
    assert!(super::available() && cols.is_multiple_of(LINE));
    assert!(x.len() == y.len() && x.len() == out.len() * cols, "rows differ from their number");
    // SAFETY: a processor with the tiles has all features that are enabled.
    unsafe { row_dots_of_lines(x.as_chunks().0, y.as_chunks().0, cols / LINE, out) }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn row_dots_of_lines(x: &[[bf16; LINE]], y: &[[bf16; LINE]], lines: usize, out: &mut [f32]) {
    let rows = x.chunks(LANES * lines).zip(y.chunks(LANES * lines));
    for ((x, y), out) in rows.zip(out.chunks_mut(LANES)) {
        let mut sums = [_mm512_setzero_ps(); LANES];
        for ((x, y), sum) in x.chunks_exact(lines).zip(y.chunks_exact(lines)).zip(&mut sums) {
            for (x, y) in x.iter().zip(y) {
                *sum = _mm512_dpbf16_ps(*sum, load(x), load(y));
            }
        }
        out.copy_from_slice(&to(by_row::<false>(&sums))[..out.len()]);
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(x: &[bf16; LINE]) -> __m512bh {
    // SAFETY: both are 64 bytes of plain bits.
    unsafe { transmute::<[bf16; LINE], __m512bh>(*x) }
}
