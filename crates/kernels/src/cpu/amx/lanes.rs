//! Registers of 16 f32 values.

#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m256bh, __m256i, __m512, __m512bh, __m512i, _CMP_NLT_UQ, _MM_FROUND_NO_EXC,
    _MM_FROUND_TO_NEAREST_INT, _mm512_castsi512_ps, _mm512_cmp_ps_mask, _mm512_cvtepu16_epi32,
    _mm512_cvtne2ps_pbh, _mm512_cvtneps_pbh, _mm512_fmadd_ps, _mm512_maskz_scalef_ps,
    _mm512_roundscale_ps, _mm512_set1_ps, _mm512_slli_epi32, _mm512_sub_ps,
};
use std::mem::transmute;

use half::bf16;

/// Elements of a register.
pub(super) const LANES: usize = 16;
/// bf16 values of a cache line.
pub(super) const LINE: usize = 2 * LANES;

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn from(x: &[f32; LANES]) -> __m512 {
    // SAFETY: both are 64 bytes of plain bits.
    unsafe { transmute::<[f32; LANES], __m512>(*x) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn to(x: __m512) -> [f32; LANES] {
    // SAFETY: as above.
    unsafe { transmute::<__m512, [f32; LANES]>(x) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn widen(x: &[bf16; LANES]) -> __m512 {
    // SAFETY: both are 32 bytes of plain bits.
    let words = unsafe { transmute::<[bf16; LANES], __m256i>(*x) };
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(words)))
}

/// The nearest bf16 values, even where there are two; zeros for subnormal ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn narrow(x: __m512) -> [bf16; LANES] {
    // SAFETY: both are 32 bytes of plain bits.
    unsafe { transmute::<__m256bh, [bf16; LANES]>(_mm512_cvtneps_pbh(x)) }
}

/// As [`narrow`], of two registers.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn narrow_line(x: [__m512; 2]) -> [bf16; LINE] {
    line(round(x))
}

/// The values of a register.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn line(x: __m512i) -> [bf16; LINE] {
    // SAFETY: both are 64 bytes of plain bits.
    unsafe { transmute::<__m512i, [bf16; LINE]>(x) }
}

/// As [`narrow_line`], in a register.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn round([low, high]: [__m512; 2]) -> __m512i {
    // SAFETY: as above.
    unsafe { transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

/// `2^x` to 1.7e-7 of it, infinities included; NaN stays NaN. Results below the smallest normal number are 0.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn exp2(x: __m512) -> __m512 {
    exp2_in(u16::MAX, x)
}

/// As [`exp2`]; 0 but for the lanes.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn exp2_in(lanes: u16, x: __m512) -> __m512 {
    /// The polynomial of degree 5 that is 1 at 0 with the least relative error over half an octave either
    /// side, 9e-8.
    #[expect(clippy::approx_constant, reason = "fitted, not the logarithm")]
    const P: [f32; 5] = [1.326_472_7e-3, 9.671_513e-3, 5.550_733_6e-2, 0.240_222_42, 0.693_147];
    let normal = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(-126.0));
    let n = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
    let r = _mm512_sub_ps(x, n);
    let mut p = _mm512_set1_ps(P[0]);
    for c in &P[1..] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(*c));
    }
    let p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0));
    _mm512_maskz_scalef_ps(normal & lanes, p, n)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `2^x` of a lane each.
    fn powers(x: [f32; LANES]) -> [f32; LANES] {
        #[target_feature(enable = "avx512f")]
        fn powers(x: [f32; LANES]) -> [f32; LANES] {
            to(exp2(from(&x)))
        }
        // SAFETY: only called where the tiles are available.
        unsafe { powers(x) }
    }

    #[test]
    fn powers_of_two_are_close() {
        if !super::super::available() {
            return;
        }
        // Every 97th f32 of either sign up to 2^7, and beyond.
        let bits = (0..f32::to_bits(130.0)).step_by(97);
        let values: Vec<f32> =
            bits.flat_map(|bits| [f32::from_bits(bits), -f32::from_bits(bits)]).collect();
        let mut worst = 0.0_f64;
        for x in values.as_chunks::<LANES>().0 {
            for (x, got) in x.iter().zip(powers(*x)) {
                let truth = f64::from(*x).exp2();
                if *x < -126.0 {
                    assert!(got == 0.0 || f64::from(got) <= 2.0 * truth, "2^{x} is {got}");
                } else if *x >= 128.0 {
                    assert!(got == f32::INFINITY, "2^{x} is {got}");
                } else {
                    worst = worst.max((f64::from(got) / truth - 1.0).abs());
                }
            }
        }
        assert!(worst < 1.7e-7, "{worst:e}");
        let special =
            powers([f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0].repeat(4).try_into().unwrap());
        assert!(special[0].is_nan());
        assert_eq!(special[1..4], [f32::INFINITY, 0.0, 1.0]);
    }
}
