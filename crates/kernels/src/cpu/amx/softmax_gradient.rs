//! The gradient of softmax over strips of raw products.

#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m512, __m512i, _mm256_storeu_si256, _mm512_castsi512_si256, _mm512_extracti64x4_epi64,
    _mm512_fmsub_ps, _mm512_maskz_mul_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_sub_ps,
};
use std::f32::consts::LOG2_E;
use std::ops::Range;

use half::bf16;

use super::lanes::{LANES, exp2_in, from, round};
use super::scores::{lanes, to_score};
use super::small::Panel;
use super::tile::BLOCK;
use crate::ops::Attention;

/// Scores of 32 keys, by key, and of the queries `cols` among those of a block, whole blocks of 32.
#[derive(Debug)]
pub(in crate::cpu) struct KeyStrip<'a> {
    /// Raw products, in the first of `[32, inputs_width]`.
    pub(in crate::cpu) products: &'a [f32],
    /// Gradients of probabilities, likewise.
    pub(in crate::cpu) d_probs: &'a [f32],
    pub(in crate::cpu) inputs_width: usize,
    /// Probabilities, rounded, `[32, queries of the block]`.
    pub(in crate::cpu) probs: &'a mut [bf16],
    /// Gradients of raw products, likewise.
    pub(in crate::cpu) d_scores: &'a mut [bf16],
    pub(in crate::cpu) cols: Range<usize>,
}

/// Probabilities of a strip and gradients of its raw products; these also go to step `step` of `panel`, whose depth
/// runs over keys. `lse`, times `log2(e)`, and `delta` are by query; key `i` is seen by the queries `visible(i)`, and
/// elsewhere both results are 0.
pub(in crate::cpu) fn softmax_gradient(
    op: Attention,
    strip: KeyStrip<'_>,
    (lse, delta): (&[f32], &[f32]),
    visible: impl Fn(usize) -> Range<usize>,
    (panel, step): (&mut Panel, usize),
) {
    assert!(super::available());
    // SAFETY: a processor with the tiles has all features that are enabled.
    unsafe {
        match op.softcap {
            None => gradient_rows::<false>(op, strip, (lse, delta), visible, (panel, step)),
            Some(_) => gradient_rows::<true>(op, strip, (lse, delta), visible, (panel, step)),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn gradient_rows<const CAPPED: bool>(
    op: Attention,
    strip: KeyStrip<'_>,
    (lse, delta): (&[f32], &[f32]),
    visible: impl Fn(usize) -> Range<usize>,
    (panel, step): (&mut Panel, usize),
) {
    let KeyStrip { products, d_probs, inputs_width, probs, d_scores, cols } = strip;
    let width = lse.len();
    let (lse, delta) = (lse.as_chunks().0, delta.as_chunks().0);
    for pair in 0..BLOCK / 2 {
        let rows = 2 * pair * width..2 * (pair + 1) * width;
        let inputs = 2 * pair * inputs_width..2 * (pair + 1) * inputs_width;
        let (products, d_probs) = (halves(&products[inputs.clone()]), halves(&d_probs[inputs]));
        let (probs, d_scores) = (&mut probs[rows.clone()], &mut d_scores[rows]);
        let (mut probs, mut d_scores) = (halves_mut(probs), halves_mut(d_scores));
        let visible = [visible(2 * pair), visible(2 * pair + 1)];
        for (input, i) in (cols.start / LANES..cols.end / LANES).enumerate() {
            let masks = [lanes(&visible[0], i), lanes(&visible[1], i)];
            let stats = (from(&lse[i]), from(&delta[i]));
            let of = |row: usize| (from(&products[row][input]), from(&d_probs[row][input]));
            let (first, d_first) = gradient::<CAPPED>(op, of(0), stats, masks[0]);
            let (second, d_second) = gradient::<CAPPED>(op, of(1), stats, masks[1]);
            let gradients = round([d_first, d_second]);
            store_halves(round([first, second]), &mut probs, i);
            store_halves(gradients, &mut d_scores, i);
            panel.set_pair(i, step, pair, gradients);
        }
    }
}

/// Stores a half in register `i` of each row.
#[inline]
#[target_feature(enable = "avx512f")]
fn store_halves(x: __m512i, [first, second]: &mut [&mut [[bf16; LANES]]; 2], i: usize) {
    // SAFETY: both places have 32 bytes.
    unsafe {
        _mm256_storeu_si256(first[i].as_mut_ptr().cast(), _mm512_castsi512_si256(x));
        let upper = _mm512_extracti64x4_epi64::<1>(x);
        _mm256_storeu_si256(second[i].as_mut_ptr().cast(), upper);
    }
}

/// Two rows, by register.
fn halves(rows: &[f32]) -> [&[[f32; LANES]]; 2] {
    let (first, second) = rows.split_at(rows.len() / 2);
    [first.as_chunks().0, second.as_chunks().0]
}

/// As [`halves`].
fn halves_mut(rows: &mut [bf16]) -> [&mut [[bf16; LANES]]; 2] {
    let (first, second) = rows.split_at_mut(rows.len() / 2);
    [first.as_chunks_mut().0, second.as_chunks_mut().0]
}

/// Probabilities and gradients of raw products; zeros but for the lanes.
#[inline]
#[target_feature(enable = "avx512f")]
fn gradient<const CAPPED: bool>(
    op: Attention,
    (product, d_prob): (__m512, __m512),
    (lse, delta): (__m512, __m512),
    lanes: u16,
) -> (__m512, __m512) {
    let scale = _mm512_set1_ps(op.scale);
    let above = _mm512_sub_ps(d_prob, delta);
    if CAPPED {
        let (score, slope) = to_score(op, product);
        let prob = exp2_in(lanes, _mm512_sub_ps(score, lse));
        let d_score = _mm512_mul_ps(_mm512_mul_ps(prob, scale), slope);
        return (prob, _mm512_maskz_mul_ps(lanes, above, d_score));
    }
    let prob = exp2_in(lanes, _mm512_fmsub_ps(product, _mm512_set1_ps(op.scale * LOG2_E), lse));
    (prob, _mm512_maskz_mul_ps(lanes, above, _mm512_mul_ps(prob, scale)))
}
