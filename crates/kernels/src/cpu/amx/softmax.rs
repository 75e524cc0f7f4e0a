//! Softmax of strips of raw products, as the tiles leave them.
//!
//! Exponentials are of base 2, and sums and products fused: a third of the instructions of the loops that are
//! compiled for all processors. What a row needs once is computed for 16 rows at a time.

#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m512, _mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd, _mm512_cmpeq_ps_mask,
    _mm512_fmadd_ps, _mm512_fmsub_ps, _mm512_mask_max_ps, _mm512_mask_mov_ps, _mm512_max_ps,
    _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_shuffle_f32x4, _mm512_sub_ps,
    _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};
use std::array;
use std::f32::consts::{LN_2, LOG2_E};
use std::ops::Range;

use half::bf16;

use super::lanes::{LANES, LINE, exp2, exp2_in, from, narrow_line, to};
use super::scores::{Scores, lanes, to_score};
use super::tile::BLOCK;
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

/// Rows of raw products, and where their weights go. Both have `width` columns, of which `cols`, a multiple of 32
/// that begins with one, are read and written.
#[derive(Debug)]
pub(in crate::cpu) struct Strip<'a> {
    pub(in crate::cpu) products: &'a mut [f32],
    pub(in crate::cpu) probs: &'a mut [bf16],
    pub(in crate::cpu) width: usize,
    pub(in crate::cpu) cols: Range<usize>,
}

/// Turns the raw products of at most 32 rows, of which row `i` sees those in `visible[i]`, into weights relative to
/// the running maximum, rounded; hidden ones get 0. Gives the factors by which what came before is to be
/// multiplied. Products are left unspecified.
pub(in crate::cpu) fn online_softmax(
    op: Attention,
    strip: Strip<'_>,
    visible: &[Range<usize>; BLOCK],
    running: &mut [Running],
) -> [f32; BLOCK] {
    assert!(super::available());
    let scores = Scores::new(op);
    // SAFETY: a processor with the tiles has all features that are enabled.
    unsafe {
        if !scores.monotonic() {
            to_natural_scores(op, strip.products);
        }
        weigh_rows(strip, scores.factor() * LOG2_E, visible, running)
    }
}

/// As [`online_softmax`], with exponentials of the values themselves, all of them visible but for those beyond
/// `len`.
pub(in crate::cpu) fn weigh(strip: Strip<'_>, len: usize, running: &mut [Running]) -> [f32; BLOCK] {
    assert!(super::available());
    // SAFETY: as above.
    unsafe { weigh_rows(strip, LOG2_E, &array::from_fn(|_| 0..len), running) }
}

/// The weight of one value among those that [`weigh`] has seen last, before it is rounded.
pub(in crate::cpu) fn weight(value: f32, running: Running) -> f32 {
    #[target_feature(enable = "avx512f")]
    fn weight(value: f32, running: Running) -> f32 {
        let factor = _mm512_set1_ps(LOG2_E);
        let shift = _mm512_mul_ps(base_of(_mm512_set1_ps(running.max)), factor);
        to(power_in(u16::MAX, _mm512_set1_ps(value), shift, factor))[0]
    }
    assert!(super::available());
    // SAFETY: as above.
    unsafe { weight(value, running) }
}

/// Multiplies the rows of `out`, one for each factor; ones cost nothing.
pub(in crate::cpu) fn rescale(out: &mut [f32], factors: &[f32; BLOCK]) {
    #[target_feature(enable = "avx512f")]
    fn rescale(out: &mut [f32], factors: &[f32; BLOCK]) {
        for (row, factor) in out.chunks_exact_mut(out.len() / BLOCK).zip(factors) {
            if *factor != 1.0 {
                for x in row.as_chunks_mut().0 {
                    *x = to(_mm512_mul_ps(from(x), _mm512_set1_ps(*factor)));
                }
            }
        }
    }
    assert!(super::available() && out.len().is_multiple_of(BLOCK * LANES));
    // SAFETY: as above.
    unsafe { rescale(out, factors) }
}

#[target_feature(enable = "avx512f")]
fn to_natural_scores(op: Attention, products: &mut [f32]) {
    for products in products.as_chunks_mut().0 {
        *products = to(_mm512_mul_ps(to_score(op, from(products)).0, _mm512_set1_ps(LN_2)));
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn weigh_rows(
    strip: Strip<'_>,
    factor: f32,
    visible: &[Range<usize>; BLOCK],
    running: &mut [Running],
) -> [f32; BLOCK] {
    let Strip { products, probs, width, cols } = strip;
    let lines = cols.len() / LINE;
    let mut seen = [const { 0..0 }; BLOCK];
    for (seen, visible) in seen.iter_mut().zip(visible) {
        *seen = shifted(visible, &cols);
    }
    let visible = seen;
    let whole = whole_lines(&visible[..running.len()]);
    let factor = _mm512_set1_ps(factor);
    let mut corrections = [1.0; BLOCK];
    let corrections_of = corrections.as_chunks_mut().0.iter_mut();
    for (half, (running, corrections)) in running.chunks_mut(LANES).zip(corrections_of).enumerate()
    {
        let rows = half * LANES..half * LANES + running.len();
        let mut largest = [_mm512_set1_ps(f32::NEG_INFINITY); LANES];
        for (row, largest) in rows.clone().zip(&mut largest) {
            let row_products = &products[row * width + cols.start..][..lines * LINE];
            *largest = largest_of(row_products.as_chunks().0.as_chunks().0, &whole, &visible[row]);
        }
        let largest = by_row::<true>(&largest);
        let (mut old_max, mut old_sum) = ([0.0; LANES], [0.0; LANES]);
        for (row, running) in running.iter().enumerate() {
            (old_max[row], old_sum[row]) = (running.max, running.sum);
        }
        let old_max = from(&old_max);
        // The second operand if either is NaN.
        let max = _mm512_max_ps(largest, old_max);
        let base = base_of(max);
        let correction = exp2(_mm512_mul_ps(_mm512_sub_ps(old_max, base), factor));
        let shift = to(_mm512_mul_ps(base, factor));

        let mut sums = [_mm512_setzero_ps(); LANES];
        for ((row, sum), shift) in rows.zip(&mut sums).zip(&shift) {
            let at = row * width + cols.start..row * width + cols.end;
            let (products, probs) = (&products[at.clone()], &mut probs[at]);
            let (products, probs) = (products.as_chunks().0.as_chunks().0, probs.as_chunks_mut().0);
            let scale = (_mm512_set1_ps(*shift), factor);
            *sum = weigh_row((products, probs), scale, &whole, &visible[row]);
        }
        let sum = to(_mm512_fmadd_ps(from(&old_sum), correction, by_row::<false>(&sums)));
        let max = to(max);
        *corrections = to(correction);
        for (row, running) in running.iter_mut().enumerate() {
            *running = Running { max: max[row], sum: sum[row] };
        }
    }
    corrections
}

/// A range counted from the first of `cols`.
#[inline]
fn shifted(range: &Range<usize>, cols: &Range<usize>) -> Range<usize> {
    let count = |col: usize| col.clamp(cols.start, cols.end) - cols.start;
    count(range.start)..count(range.end)
}

/// Lines that all rows see the whole of.
fn whole_lines(visible: &[Range<usize>]) -> Range<usize> {
    let (mut start, mut end) = (0, usize::MAX);
    for range in visible {
        (start, end) = (range.start.max(start), range.end.min(end));
    }
    let end = end / LINE;
    start.div_ceil(LINE).min(end)..end
}

/// What exponents are relative to. Nothing seen, or nothing but negative infinity: 2^(-inf + inf) has no value.
#[inline]
#[target_feature(enable = "avx512f")]
fn base_of(max: __m512) -> __m512 {
    let nothing = _mm512_cmpeq_ps_mask(max, _mm512_set1_ps(f32::NEG_INFINITY));
    _mm512_mask_mov_ps(max, nothing, _mm512_setzero_ps())
}

/// `2^(x * factor - shift)`; 0 but for the lanes.
#[inline]
#[target_feature(enable = "avx512f")]
fn power_in(lanes: u16, x: __m512, shift: __m512, factor: __m512) -> __m512 {
    exp2_in(lanes, _mm512_fmsub_ps(x, factor, shift))
}

/// Two registers of values.
type Line = [[f32; LANES]; 2];

/// The largest visible values by lane; any where there is NaN.
#[inline]
#[target_feature(enable = "avx512f")]
fn largest_of(row: &[Line], whole: &Range<usize>, visible: &Range<usize>) -> __m512 {
    let mut largest = [_mm512_set1_ps(f32::NEG_INFINITY); 2];
    for [low, high] in &row[whole.clone()] {
        largest = [_mm512_max_ps(largest[0], from(low)), _mm512_max_ps(largest[1], from(high))];
    }
    for lines in [0..whole.start, whole.end..row.len()] {
        for (i, line) in lines.clone().zip(&row[lines]) {
            for ((half, x), largest) in line.iter().enumerate().zip(&mut largest) {
                let lanes = lanes(visible, 2 * i + half);
                *largest = _mm512_mask_max_ps(*largest, lanes, *largest, from(x));
            }
        }
    }
    _mm512_max_ps(largest[0], largest[1])
}

/// Weights of a row, rounded, and their sums by lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn weigh_row(
    (row, probs): (&[Line], &mut [[bf16; LINE]]),
    (shift, factor): (__m512, __m512),
    whole: &Range<usize>,
    visible: &Range<usize>,
) -> __m512 {
    let mut sums = [_mm512_setzero_ps(); 2];
    for ([low, high], probs) in row[whole.clone()].iter().zip(&mut probs[whole.clone()]) {
        let low = power_in(u16::MAX, from(low), shift, factor);
        let high = power_in(u16::MAX, from(high), shift, factor);
        *probs = narrow_line([low, high]);
        sums = [_mm512_add_ps(sums[0], low), _mm512_add_ps(sums[1], high)];
    }
    for lines in [0..whole.start, whole.end..row.len()] {
        for i in lines {
            let [low, high] = &row[i];
            let low = power_in(lanes(visible, 2 * i), from(low), shift, factor);
            let high = power_in(lanes(visible, 2 * i + 1), from(high), shift, factor);
            probs[i] = narrow_line([low, high]);
            sums = [_mm512_add_ps(sums[0], low), _mm512_add_ps(sums[1], high)];
        }
    }
    _mm512_add_ps(sums[0], sums[1])
}

/// The maximum or the sum over the lanes of each register.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn by_row<const MAX: bool>(rows: &[__m512; LANES]) -> __m512 {
    let mut fours = [_mm512_setzero_ps(); 4];
    for (four, rows) in fours.iter_mut().zip(rows.as_chunks::<4>().0) {
        let [a, b, c, d] = *rows;
        let ab = combine::<MAX>(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
        let cd = combine::<MAX>(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
        let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
        let low = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
        *four = combine::<MAX>(low, _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
    }
    // Each 128 bits now have four rows.
    let [a, b, c, d] = fours;
    let (ab, cd) = (across::<MAX>(a, b), across::<MAX>(c, d));
    across::<MAX>(ab, cd)
}

/// Neighbours among the 128-bit parts of `a`, then those of `b`.
#[inline]
#[target_feature(enable = "avx512f")]
fn across<const MAX: bool>(a: __m512, b: __m512) -> __m512 {
    let even = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b);
    combine::<MAX>(even, _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn combine<const MAX: bool>(a: __m512, b: __m512) -> __m512 {
    if MAX { _mm512_max_ps(a, b) } else { _mm512_add_ps(a, b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_combined_in_order() {
        #[target_feature(enable = "avx512f")]
        fn both(rows: &[[f32; LANES]; LANES]) -> [[f32; LANES]; 2] {
            let mut registers = [_mm512_setzero_ps(); LANES];
            for (register, row) in registers.iter_mut().zip(rows) {
                *register = from(row);
            }
            [to(by_row::<true>(&registers)), to(by_row::<false>(&registers))]
        }
        if !super::super::available() {
            return;
        }
        let mut rows = [[0.0; LANES]; LANES];
        for (i, row) in rows.iter_mut().enumerate() {
            row[(5 * i + 3) % LANES] = (i + 1) as f32;
            row[(5 * i + 7) % LANES] = -0.25;
        }
        // SAFETY: the tiles are available.
        let [max, sum] = unsafe { both(&rows) };
        for i in 0..LANES {
            assert_eq!((max[i], sum[i]), ((i + 1) as f32, i as f32 + 0.75));
        }
    }
}
