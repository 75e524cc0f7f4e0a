//! Few rows and 4-bit weights: codes are looked up as integers, so sums in words are exact as for many rows. A row's elements
//! have 15 bits below the largest of 64, as each word has eight products only.

#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m256i, _mm_loadu_si128, _mm256_add_epi32, _mm256_and_si256, _mm256_broadcastsi128_si256,
    _mm256_cvtepi32_ps, _mm256_fmadd_ps, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_set1_epi8,
    _mm256_set1_ps, _mm256_setzero_ps, _mm256_shuffle_epi8, _mm256_srli_epi16,
    _mm256_unpackhi_epi8, _mm256_unpacklo_epi8,
};
use std::array;

use half::bf16;

use super::WEIGHT;
use super::rows::set_run;
use crate::cpu::fma::vector::Vector;
use crate::cpu::four_bit::{Codebook, FourBit, RUN};
use crate::cpu::level::{CpuLevel, level};
use crate::cpu::prefetch;
use crate::cpu::simd::simd;

/// The integer of the largest element of a run.
const ELEMENT: f32 = 32767.0;
const _: () = assert!(8.0 * ELEMENT as f64 * WEIGHT as f64 <= i32::MAX as f64);

/// Bytes from codes to those that are fetched meanwhile.
const AHEAD: usize = 2048;

/// Elements in the order in which [`look_up`] leaves weights.
type Run = [[i16; 16]; 4];

/// Rows `[m, k]`: `[k / 64][m]`.
pub(in crate::cpu::fma) struct FewRows {
    runs: Vec<Run>,
    /// What a product of ones counts where absmax is 1.
    units: Vec<f32>,
    m: usize,
}

impl FewRows {
    /// `k` is a multiple of 64. Nothing on levels other than AVX2, or unless all elements are finite.
    pub(in crate::cpu::fma) fn new(x: &[bf16], m: usize, k: usize) -> Option<Self> {
        if level() != CpuLevel::Avx2 {
            return None;
        }
        let mut rows =
            Self { runs: vec![[[0; 16]; 4]; m * k / RUN], units: vec![0.0; m * k / RUN], m };
        for (row, x) in x[..m * k].chunks_exact(k).enumerate() {
            for (i, x) in x.as_chunks::<RUN>().0.iter().enumerate() {
                let (mut values, at) = ([0; RUN], i * m + row);
                if !simd!(set_run(&mut values, &mut rows.units[at], x, ELEMENT)) {
                    return None;
                }
                rows.units[at] /= WEIGHT;
                rows.runs[at] = in_order(&values);
            }
        }
        Some(rows)
    }
}

/// Of bytes `0..8` and `16..24`, and of the others, the first elements, then the second ones.
fn in_order(values: &[i16; RUN]) -> Run {
    array::from_fn(|i| {
        let (second, upper) = (i / 2, i % 2 * 8);
        array::from_fn(|j| values[2 * (j / 8 * 16 + upper + j % 8) + second])
    })
}

/// The bytes of the codebook's integers, the lower ones and the higher ones.
fn planes(codebook: &Codebook) -> [[u8; 16]; 2] {
    let integers = codebook.values.map(|value| ((value * WEIGHT).round() as i16).to_le_bytes());
    array::from_fn(|byte| integers.map(|bytes| bytes[byte]))
}

/// `sums [m, outputs]`: products of the rows with as many outputs, from the `first` on. `absmax` is scratch.
pub(in crate::cpu::fma) fn multiply(
    weight: &FourBit<'_>,
    x: &FewRows,
    first: usize,
    absmax: &mut Vec<f32>,
    sums: &mut [f32],
) {
    // SAFETY: rows are made on the level AVX2 alone.
    unsafe {
        match x.m {
            1 => multiply_by::<1>(weight, x, first, absmax, sums),
            2 => multiply_by::<2>(weight, x, first, absmax, sums),
            3 => multiply_by::<3>(weight, x, first, absmax, sums),
            4 => multiply_by::<4>(weight, x, first, absmax, sums),
            m => unreachable!("{m} rows are not few"),
        }
    }
}

#[target_feature(enable = "avx2,fma")]
fn multiply_by<const M: usize>(
    weight: &FourBit<'_>,
    x: &FewRows,
    first: usize,
    absmax: &mut Vec<f32>,
    sums: &mut [f32],
) {
    let (outputs, runs) = (sums.len() / M, weight.k / RUN);
    let (x, units) = (x.runs.as_chunks().0, x.units.as_chunks().0);
    assert_eq!(x.len(), runs, "rows differ from their shape");
    let range = first * runs..(first + outputs) * runs;
    absmax.resize(range.len(), 0.0);
    weight.absmax(range.start, absmax);
    let planes = planes(weight.codebook());
    let rows = weight.codes(range).chunks_exact(runs).zip(absmax.chunks_exact(runs));
    for (col, (codes, absmax)) in rows.enumerate() {
        for (row, dot) in dots::<M>(codes, absmax, (x, units), &planes).into_iter().enumerate() {
            sums[row * outputs + col] = dot;
        }
    }
}

/// Products of a row of the weight with `M` rows.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn dots<const M: usize>(
    codes: &[[u8; RUN / 2]],
    absmax: &[f32],
    (x, units): (&[[Run; M]], &[[f32; M]]),
    planes: &[[u8; 16]; 2],
) -> [f32; M] {
    let mut sums = [_mm256_setzero_ps(); M];
    for (((codes, absmax), x), units) in codes.iter().zip(absmax).zip(x).zip(units) {
        prefetch::to_read_beyond(codes, AHEAD);
        let weights = look_up(codes, planes);
        for ((sum, x), unit) in sums.iter_mut().zip(x).zip(units) {
            let dot = _mm256_cvtepi32_ps(dot(weights, x));
            *sum = _mm256_fmadd_ps(dot, _mm256_set1_ps(absmax * unit), *sum);
        }
    }
    let mut dots = [0.0; M];
    for (dot, sum) in dots.iter_mut().zip(sums) {
        // SAFETY: this is compiled for the instruction set.
        *dot = unsafe { Vector::sum(sum) };
    }
    dots
}

/// The integers of 64 codes: those of the high halves of bytes, then of the low ones.
#[inline]
#[target_feature(enable = "avx2")]
fn look_up(codes: &[u8; RUN / 2], planes: &[[u8; 16]; 2]) -> [__m256i; 4] {
    // SAFETY: 32 readable bytes, and 16 in each plane.
    let (codes, [low, high]) = unsafe {
        let [low, high] = [&planes[0], &planes[1]];
        let planes = [_mm_loadu_si128(low.as_ptr().cast()), _mm_loadu_si128(high.as_ptr().cast())];
        (_mm256_loadu_si256(codes.as_ptr().cast()), planes)
    };
    let [low, high] = [_mm256_broadcastsi128_si256(low), _mm256_broadcastsi128_si256(high)];
    let half = _mm256_set1_epi8(15);
    let first = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), half);
    let second = _mm256_and_si256(codes, half);
    let [a, b] = [_mm256_shuffle_epi8(low, first), _mm256_shuffle_epi8(high, first)];
    let [c, d] = [_mm256_shuffle_epi8(low, second), _mm256_shuffle_epi8(high, second)];
    [
        _mm256_unpacklo_epi8(a, b),
        _mm256_unpackhi_epi8(a, b),
        _mm256_unpacklo_epi8(c, d),
        _mm256_unpackhi_epi8(c, d),
    ]
}

#[inline]
#[target_feature(enable = "avx2")]
fn dot([a, b, c, d]: [__m256i; 4], x: &Run) -> __m256i {
    // SAFETY: 32 readable bytes each.
    let x: [__m256i; 4] = unsafe {
        [
            _mm256_loadu_si256(x[0].as_ptr().cast()),
            _mm256_loadu_si256(x[1].as_ptr().cast()),
            _mm256_loadu_si256(x[2].as_ptr().cast()),
            _mm256_loadu_si256(x[3].as_ptr().cast()),
        ]
    };
    let first = _mm256_add_epi32(_mm256_madd_epi16(a, x[0]), _mm256_madd_epi16(b, x[1]));
    let second = _mm256_add_epi32(_mm256_madd_epi16(c, x[2]), _mm256_madd_epi16(d, x[3]));
    _mm256_add_epi32(first, second)
}
