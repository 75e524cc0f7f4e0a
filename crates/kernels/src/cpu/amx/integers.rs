//! Products of few rows of bf16 with 4-bit weights, in integers of 16 bits.
//!
//! Two runs of codes are 32 words of four, which `vpermw` looks up without unpacking: it reads the lowest five bits of a
//! word, so a table that holds the codebook twice serves wherever the code is shifted to. `vpdpwssd` multiplies at
//! the rate of f32, twice as many at once, and its sums are exact.
//!
//! Weights count in parts of absmax that are finer than the bf16 of the tiles; FP4 is exact. Of 128 elements of a row the
//! largest has 15 bits: those that are more than 128 times smaller have fewer than in bf16.
//!
//! GB/s of codes on two threads: one row and 4096 x 4096 in the L3 cache 26 (in f32 12; reading alone 50), from memory
//! 17 (10; 22); 1536 x 576 16 (10). Rejected: `vdpbf16ps` (20 in the cache: it takes two ticks of both ports); words of
//! eight codes and sums in f32 (half as long again, of the inner loop); two sums in turns (the same).

#![allow(unsafe_code)]

use std::arch::asm;
use std::arch::x86_64::{
    __m512, __m512i, _mm256_loadu_si256, _mm512_add_ps, _mm512_cvtepi32_ps, _mm512_loadu_si512,
    _mm512_mask3_fmadd_ps, _mm512_mul_ps, _mm512_permutexvar_epi16, _mm512_reduce_add_ps,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_srli_epi16,
    _mm512_zextsi256_si512,
};
use std::array;
use std::hint::black_box;

use half::bf16;

use crate::cpu::four_bit::{FourBit, RUN};
use crate::cpu::prefetch;

/// Elements that are multiplied at a time: two runs.
const PIECE: usize = 2 * RUN;
/// The integer of absmax: a multiple of 192, in whose parts FP4's values come.
const WEIGHT: f32 = 8064.0;
/// That of the largest element of a piece. A lane adds eight products.
const ELEMENT: f32 = 32767.0;
const _: () = assert!(8.0 * WEIGHT as f64 * ELEMENT as f64 <= i32::MAX as f64);

/// Bytes from codes to those that are fetched meanwhile.
const AHEAD: usize = 8192;

/// A piece of a row: of each four elements the second, the first, the fourth and the third, as the codes of a word lie
/// from its lowest bits on.
type Piece = [[i16; 32]; 4];

/// Rows `[m, k]`, filled up with zeros to whole pieces: `[k / 128][m]`.
#[derive(Debug)]
pub(in crate::cpu) struct IntegerRows {
    pieces: Vec<Piece>,
    /// What a product of ones counts where absmax is 1.
    units: Vec<f32>,
    m: usize,
}

impl IntegerRows {
    /// Nothing unless all are finite.
    pub(in crate::cpu) fn new(x: &[bf16], m: usize, k: usize) -> Option<Self> {
        let count = k.div_ceil(PIECE) * m;
        let mut rows = Self { pieces: vec![[[0; 32]; 4]; count], units: vec![0.0; count], m };
        for (row, x) in x[..m * k].chunks_exact(k).enumerate() {
            for (i, x) in x.chunks(PIECE).enumerate() {
                let at = i * m + row;
                // SAFETY: a processor with the tiles has all features that are enabled.
                rows.units[at] = unsafe { set(&mut rows.pieces[at], x) }?;
            }
        }
        Some(rows)
    }
}

/// Rounds elements to integers; what a product of ones counts, or nothing unless all are finite.
#[target_feature(enable = "avx512f,avx512bw")]
fn set(piece: &mut Piece, x: &[bf16]) -> Option<f32> {
    /// Less would make an infinite factor.
    const LEAST: f32 = 1e-30;
    let mut wide = [0.0; PIECE];
    let mut most = 0;
    for (wide, x) in wide.iter_mut().zip(x) {
        *wide = f32::from_bits(u32::from(x.to_bits()) << 16);
        // As integers they are in order, with what is not finite last.
        most = most.max(wide.abs().to_bits());
    }
    let most = f32::from_bits(most);
    if !most.is_finite() {
        return None;
    }
    let most = most.max(LEAST);
    let mut integers = [0; PIECE];
    for (integer, wide) in integers.iter_mut().zip(wide) {
        *integer = (wide * (ELEMENT / most)).round_ties_even() as i16;
    }
    for (i, &[first, second, third, fourth]) in integers.as_chunks().0.iter().enumerate() {
        (piece[0][i], piece[1][i], piece[2][i], piece[3][i]) = (second, first, fourth, third);
    }
    Some(most / ELEMENT / WEIGHT)
}

/// A weight whose codes are looked up as integers.
pub(in crate::cpu) struct IntegerWeight<'a> {
    weight: &'a FourBit<'a>,
    /// The codebook, twice.
    table: [i16; 32],
}

impl<'a> IntegerWeight<'a> {
    pub(in crate::cpu) fn new(weight: &'a FourBit<'a>) -> Self {
        Self { weight, table: table(weight.codebook().values) }
    }

    /// `sums [m, outputs]`: products of the rows with as many outputs, from the `first` on. `absmax` is scratch.
    pub(in crate::cpu) fn multiply(
        &self,
        x: &IntegerRows,
        first: usize,
        absmax: &mut Vec<f32>,
        sums: &mut [f32],
    ) {
        // SAFETY: rows of integers are made where the processor has all features that are enabled.
        unsafe {
            match x.m {
                1 => self.multiply_by::<1>(x, first, absmax, sums),
                2 => self.multiply_by::<2>(x, first, absmax, sums),
                3 => self.multiply_by::<3>(x, first, absmax, sums),
                4 => self.multiply_by::<4>(x, first, absmax, sums),
                m => unreachable!("{m} rows are not few"),
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn multiply_by<const M: usize>(
        &self,
        x: &IntegerRows,
        first: usize,
        absmax: &mut Vec<f32>,
        sums: &mut [f32],
    ) {
        let (outputs, runs) = (sums.len() / M, self.weight.k / RUN);
        let (x, units) = (x.pieces.as_chunks().0, x.units.as_chunks().0);
        assert!(x.len() == runs.div_ceil(2), "rows differ from their shape");
        absmax.resize(outputs * runs, 0.0);
        self.weight.absmax(first * runs, absmax);
        let codes = self.weight.codes(first * runs..(first + outputs) * runs);
        // SAFETY: 64 readable bytes.
        let table = unsafe { _mm512_loadu_si512(self.table.as_ptr().cast()) };
        let rows = codes.chunks_exact(runs).zip(absmax.chunks_exact(runs));
        for (col, (codes, absmax)) in rows.enumerate() {
            let dots = dots::<M>((codes, absmax), (x, units), table);
            for (row, dot) in dots.into_iter().enumerate() {
                sums[row * outputs + col] = dot;
            }
        }
    }
}

fn table(codebook: &[f32; 16]) -> [i16; 32] {
    array::from_fn(|i| (codebook[i % 16] * WEIGHT).round() as i16)
}

/// Products of a row of the weight with `M` rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn dots<const M: usize>(
    (codes, absmax): (&[[u8; RUN / 2]], &[f32]),
    (x, units): (&[[Piece; M]], &[[f32; M]]),
    table: __m512i,
) -> [f32; M] {
    // The compiler would make blends of masks it knows.
    let (low, high) = black_box((0x00ff, 0xff00));
    let mut sums = [[_mm512_setzero_ps(); 2]; M];
    let (pairs, last) = codes.as_chunks::<2>();
    let (absmax, last_absmax) = absmax.as_chunks::<2>();
    for (((codes, absmax), x), units) in pairs.iter().zip(absmax).zip(x).zip(units) {
        prefetch::to_read_beyond(codes.as_flattened(), AHEAD);
        // SAFETY: 64 readable bytes.
        let words = unsafe { _mm512_loadu_si512(codes.as_ptr().cast()) };
        let weights = look_up(words, table);
        let [first, second] = [_mm512_set1_ps(absmax[0]), _mm512_set1_ps(absmax[1])];
        for i in 0..M {
            let dot = _mm512_mul_ps(dot(weights, &x[i]), _mm512_set1_ps(units[i]));
            sums[i][0] = _mm512_mask3_fmadd_ps(dot, first, sums[i][0], low);
            sums[i][1] = _mm512_mask3_fmadd_ps(dot, second, sums[i][1], high);
        }
    }
    if let ([codes], [absmax]) = (last, last_absmax) {
        let (x, units) = (&x[pairs.len()], &units[pairs.len()]);
        // SAFETY: 32 readable bytes.
        let words = unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) };
        let weights = look_up(_mm512_zextsi256_si512(words), table);
        for i in 0..M {
            let dot = _mm512_mul_ps(dot(weights, &x[i]), _mm512_set1_ps(units[i]));
            sums[i][0] = _mm512_mask3_fmadd_ps(dot, _mm512_set1_ps(*absmax), sums[i][0], low);
        }
    }
    let mut dots = [0.0; M];
    for (dot, [a, b]) in dots.iter_mut().zip(sums) {
        *dot = _mm512_reduce_add_ps(_mm512_add_ps(a, b));
    }
    dots
}

/// The weights of four codes in each word, from the lowest bits on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn look_up(words: __m512i, table: __m512i) -> [__m512i; 4] {
    [
        _mm512_permutexvar_epi16(words, table),
        _mm512_permutexvar_epi16(_mm512_srli_epi16::<4>(words), table),
        _mm512_permutexvar_epi16(_mm512_srli_epi16::<8>(words), table),
        _mm512_permutexvar_epi16(_mm512_srli_epi16::<12>(words), table),
    ]
}

/// Products with a piece, summed in lanes: the lower eight are of its first run.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn dot([a, b, c, d]: [__m512i; 4], x: &Piece) -> __m512 {
    let mut sum = _mm512_setzero_si512();
    // SAFETY: 256 readable bytes. From intrinsics the compiler would make two instructions each.
    unsafe {
        asm!(
            "vpdpwssd {sum}, {a}, [{x}]",
            "vpdpwssd {sum}, {b}, [{x} + 64]",
            "vpdpwssd {sum}, {c}, [{x} + 128]",
            "vpdpwssd {sum}, {d}, [{x} + 192]",
            sum = inout(zmm_reg) sum,
            a = in(zmm_reg) a,
            b = in(zmm_reg) b,
            c = in(zmm_reg) c,
            d = in(zmm_reg) d,
            x = in(reg) x.as_ptr(),
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    _mm512_cvtepi32_ps(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_nearer_to_the_weights_than_bf16() {
        for quant_type in [nf4::QuantType::Nf4, nf4::QuantType::Fp4] {
            let codebook = quant_type.values();
            let pairs = codebook.iter().zip(table(codebook));
            let errors = pairs.map(|(x, i)| {
                [f32::from(i) / WEIGHT, bf16::from_f32(*x).to_f32()].map(|y| (y - x).abs())
            });
            let [integers, bf16s] = errors
                .fold([0.0_f32; 2], |worst, error| array::from_fn(|i| worst[i].max(error[i])));
            assert!(integers < bf16s / 8.0, "{quant_type:?}: {integers} against {bf16s}");
            assert!(
                quant_type != nf4::QuantType::Fp4 || integers < 1e-7,
                "FP4 is not exact: {integers}"
            );
        }
    }
}
