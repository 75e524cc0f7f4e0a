//! Softmax and its gradient over strips of raw products, as the tiles leave them.
//!
//! Exponentials are of base 2, and sums and products fused: a third of the instructions of the loops that are
//! compiled for all processors.

#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m512, _mm512_add_ps, _mm512_div_ps, _mm512_fnmadd_ps, _mm512_mask_mov_ps,
    _mm512_maskz_mov_ps, _mm512_max_ps, _mm512_mul_ps, _mm512_reduce_add_ps, _mm512_reduce_max_ps,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_sub_ps,
};
use std::f32::consts::{LN_2, LOG2_E};
use std::ops::Range;

use half::bf16;

use super::lanes::{LANES, exp2, from, narrow, to};
use crate::ops::Attention;

/// Softmax of a row over the columns seen so far.
#[derive(Debug, Clone, Copy)]
pub(in crate::cpu) struct Running {
    /// Largest value.
    pub(in crate::cpu) max: f32,
    /// Of the exponentials relative to it.
    pub(in crate::cpu) sum: f32,
}

impl Running {
    /// Nothing seen.
    pub(in crate::cpu) const EMPTY: Self = Self { max: f32::NEG_INFINITY, sum: 0.0 };
}

/// What rows of scores are made from.
#[derive(Debug, Clone, Copy)]
pub(in crate::cpu) struct Scores(Attention);

impl Scores {
    pub(in crate::cpu) const fn new(op: Attention) -> Self {
        Self(op)
    }

    /// From the values that maxima are taken of to scores.
    pub(in crate::cpu) const fn factor(self) -> f32 {
        if self.monotonic() { self.0.scale } else { 1.0 }
    }

    /// Whether the largest product gives the largest score, and a factor is all that is between them.
    const fn monotonic(self) -> bool {
        self.0.softcap.is_none() && self.0.scale > 0.0
    }
}

/// Turns raw products `[rows, cols]`, of which row `i` sees those in `visible(i)`, into weights relative to
/// the running maximum, rounded into `probs`, and rescales what came before in `out` `[rows, head_dim]`.
/// `products` is left unspecified.
pub(in crate::cpu) fn online_softmax(
    op: Attention,
    (products, probs): (&mut [f32], &mut [bf16]),
    cols: usize,
    visible: impl Fn(usize) -> Range<usize>,
    (running, out): (&mut [Running], &mut [f32]),
) {
    assert!(super::available());
    // SAFETY: a processor with the tiles has all features that are enabled.
    unsafe { online_softmax_rows(op, (products, probs), cols, visible, (running, out)) }
}

/// Turns a row into exponentials relative to the running maximum, also rounded into `probs`; gives the factor
/// that what came before is to be multiplied by.
pub(in crate::cpu) fn weigh(row: &mut [f32], probs: &mut [bf16], running: &mut Running) -> f32 {
    assert!(super::available() && row.len() == probs.len());
    let all = 0..row.len();
    // SAFETY: as above.
    unsafe { weigh_row((row, probs), LOG2_E, &all, running) }
}

/// Probabilities and gradients of raw products, rounded, from the products `[rows, cols]` and the gradients of
/// probabilities. Rows are keys and columns queries with their `lse`, times `log2(e)`, and `delta`; key `i` is
/// seen by `visible(i)`, and elsewhere both results are 0.
pub(in crate::cpu) fn softmax_gradient(
    op: Attention,
    (products, d_probs): (&[f32], &[f32]),
    (lse, delta): (&[f32], &[f32]),
    visible: impl Fn(usize) -> Range<usize>,
    (probs, d_scores): (&mut [bf16], &mut [bf16]),
) {
    assert!(super::available());
    // SAFETY: as above.
    unsafe {
        let rows = (products, d_probs);
        softmax_gradient_rows(op, rows, (lse, delta), visible, (probs, d_scores));
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn online_softmax_rows(
    op: Attention,
    (products, probs): (&mut [f32], &mut [bf16]),
    cols: usize,
    visible: impl Fn(usize) -> Range<usize>,
    (running, out): (&mut [Running], &mut [f32]),
) {
    let scores = Scores(op);
    let state = running.iter_mut().zip(out.chunks_mut(op.head_dim));
    let rows = products.chunks_mut(cols).zip(probs.chunks_mut(cols)).zip(state);
    for (row, ((products, probs), (running, out))) in rows.enumerate() {
        if !scores.monotonic() {
            for products in products.as_chunks_mut().0 {
                *products = to(_mm512_mul_ps(to_score(op, from(products)).0, _mm512_set1_ps(LN_2)));
            }
        }
        let factor = scores.factor() * LOG2_E;
        let correction = weigh_row((products, probs), factor, &visible(row), running);
        if correction != 1.0 {
            for out in out.as_chunks_mut().0 {
                *out = to(_mm512_mul_ps(from(out), _mm512_set1_ps(correction)));
            }
        }
    }
}

/// As [`weigh`], with `2^(x * factor)` of those columns that are visible. Hidden ones get a weight of 0 in
/// `probs`.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn weigh_row(
    (row, probs): (&mut [f32], &mut [bf16]),
    factor: f32,
    visible: &Range<usize>,
    running: &mut Running,
) -> f32 {
    let (row, rest) = row.as_chunks_mut();
    let (probs, last_probs) = probs.as_chunks_mut();
    let mut last = [f32::NEG_INFINITY; LANES];
    last[..rest.len()].copy_from_slice(rest);
    // Most registers are visible as a whole and need no mask.
    let whole = visible.start.div_ceil(LANES).min(row.len())..(visible.end / LANES).min(row.len());
    let whole = whole.start..whole.end.max(whole.start);
    let partly = (0..whole.start).chain(whole.end..row.len());

    let mut largest = largest_of(&row[whole.clone()]);
    for i in partly.clone() {
        largest = larger(largest, from(&row[i]), lanes(visible, i));
    }
    largest = larger(largest, from(&last), lanes(visible, row.len()));
    let largest = _mm512_reduce_max_ps(largest);
    let mut correction = 1.0;
    if largest > running.max {
        if running.sum != 0.0 {
            correction = to(exp2(_mm512_set1_ps((running.max - largest) * factor)))[0];
        }
        running.max = largest;
    }
    // Nothing visible so far, or nothing but negative infinity: 2^(-inf + inf) has no value.
    let max = if running.max == f32::NEG_INFINITY { 0.0 } else { running.max };

    let mut sums = _mm512_setzero_ps();
    for (x, prob) in row[whole.clone()].iter_mut().zip(&mut probs[whole]) {
        sums = _mm512_add_ps(sums, weigh_register(x, prob, (max, factor), u16::MAX));
    }
    for i in partly {
        let lanes = lanes(visible, i);
        if lanes == 0 {
            probs[i] = [bf16::ZERO; LANES];
        } else {
            let weights = weigh_register(&mut row[i], &mut probs[i], (max, factor), lanes);
            sums = _mm512_add_ps(sums, weights);
        }
    }
    if !rest.is_empty() {
        let (lanes, mut prob) = (lanes(visible, row.len()), [bf16::ZERO; LANES]);
        let weights = weigh_register(&mut last, &mut prob, (max, factor), lanes);
        sums = _mm512_add_ps(sums, weights);
        rest.copy_from_slice(&last[..rest.len()]);
        last_probs.copy_from_slice(&prob[..last_probs.len()]);
    }
    running.sum = running.sum * correction + _mm512_reduce_add_ps(sums);
    correction
}

/// The largest values by lane; any where there is NaN.
#[inline]
#[target_feature(enable = "avx512f")]
fn largest_of(row: &[[f32; LANES]]) -> __m512 {
    let hidden = _mm512_set1_ps(f32::NEG_INFINITY);
    // Several, for each waits for the one before.
    let mut largest = [hidden; 4];
    let (fours, few) = row.as_chunks::<4>();
    for four in fours {
        for (largest, x) in largest.iter_mut().zip(four) {
            *largest = _mm512_max_ps(*largest, from(x));
        }
    }
    for (largest, x) in largest.iter_mut().zip(few) {
        *largest = _mm512_max_ps(*largest, from(x));
    }
    let [a, b, c, d] = largest;
    _mm512_max_ps(_mm512_max_ps(a, b), _mm512_max_ps(c, d))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn larger(largest: __m512, x: __m512, lanes: u16) -> __m512 {
    // The second operand if either is NaN.
    _mm512_max_ps(largest, _mm512_mask_mov_ps(_mm512_set1_ps(f32::NEG_INFINITY), lanes, x))
}

/// Turns values into weights relative to `max`, and gives them: 0 but for the lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn weigh_register(
    x: &mut [f32; LANES],
    prob: &mut [bf16; LANES],
    (max, factor): (f32, f32),
    lanes: u16,
) -> __m512 {
    let above = _mm512_sub_ps(from(x), _mm512_set1_ps(max));
    let power = exp2(_mm512_mul_ps(above, _mm512_set1_ps(factor)));
    let weights = _mm512_maskz_mov_ps(lanes, power);
    (*x, *prob) = (to(weights), narrow(weights));
    weights
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn softmax_gradient_rows(
    op: Attention,
    (products, d_probs): (&[f32], &[f32]),
    (lse, delta): (&[f32], &[f32]),
    visible: impl Fn(usize) -> Range<usize>,
    (probs, d_scores): (&mut [bf16], &mut [bf16]),
) {
    let cols = lse.len();
    let (lse, delta) = (lse.as_chunks().0, delta.as_chunks().0);
    let scale = _mm512_set1_ps(op.scale);
    let inputs = products.chunks(cols).zip(d_probs.chunks(cols));
    let rows = inputs.zip(probs.chunks_mut(cols).zip(d_scores.chunks_mut(cols)));
    for (row, ((products, d_probs), (probs, d_scores))) in rows.enumerate() {
        let visible = visible(row);
        let inputs = products.as_chunks().0.iter().zip(d_probs.as_chunks().0);
        let outputs = probs.as_chunks_mut().0.iter_mut().zip(d_scores.as_chunks_mut().0);
        let columns = inputs.zip(lse.iter().zip(delta)).zip(outputs);
        for (i, (((products, d_probs), (lse, delta)), (probs, d_scores))) in columns.enumerate() {
            let lanes = lanes(&visible, i);
            if lanes == 0 {
                (*probs, *d_scores) = ([bf16::ZERO; LANES], [bf16::ZERO; LANES]);
                continue;
            }
            let (score, slope) = to_score(op, from(products));
            let prob = exp2(_mm512_sub_ps(score, from(lse)));
            let prob = _mm512_maskz_mov_ps(lanes, prob);
            let d_score = _mm512_mul_ps(_mm512_sub_ps(from(d_probs), from(delta)), scale);
            let d_score = _mm512_mul_ps(_mm512_mul_ps(d_score, prob), slope);
            *probs = narrow(prob);
            *d_scores = narrow(_mm512_maskz_mov_ps(lanes, d_score));
        }
    }
}

/// Which elements of register `i` of a row are in `visible`.
#[inline]
fn lanes(visible: &Range<usize>, i: usize) -> u16 {
    if visible.start <= i * LANES && (i + 1) * LANES <= visible.end {
        return u16::MAX;
    }
    let below = |end: usize| (1_u32 << end.saturating_sub(i * LANES).min(LANES)) - 1;
    (below(visible.end) & !below(visible.start)) as u16
}

/// A score times `log2(e)`, and the derivative of the score by the scaled product.
#[inline]
#[target_feature(enable = "avx512f")]
fn to_score(op: Attention, product: __m512) -> (__m512, __m512) {
    let one = _mm512_set1_ps(1.0);
    let Some(cap) = op.softcap else {
        return (_mm512_mul_ps(product, _mm512_set1_ps(op.scale * LOG2_E)), one);
    };
    // tanh(x) = 1 - 2 / (e^2x + 1), to 1e-7 of the cap.
    let power = exp2(_mm512_mul_ps(product, _mm512_set1_ps(2.0 * LOG2_E * op.scale / cap)));
    let tanh = _mm512_sub_ps(one, _mm512_div_ps(_mm512_set1_ps(2.0), _mm512_add_ps(power, one)));
    let slope = _mm512_fnmadd_ps(tanh, tanh, one);
    (_mm512_mul_ps(tanh, _mm512_set1_ps(cap * LOG2_E)), slope)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_those_in_the_range() {
        for (range, expected) in [
            (0..40, [0xffff, 0xffff, 0xff]),
            (3..3, [0; 3]),
            (17..18, [0, 2, 0]),
            (5..60, [0xffe0, 0xffff, 0xffff]),
        ] {
            assert_eq!([0, 1, 2].map(|i| lanes(&range, i)), expected, "{range:?}");
        }
    }
}
