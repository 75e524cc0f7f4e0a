//! Vectors of f32 as the micro-kernels use them.

#![allow(unsafe_code)]
#![expect(
    clippy::inline_always,
    reason = "an instruction is compiled for the instruction set of the function it is inlined into"
)]

use std::array;

use half::bf16;

use crate::cpu::four_bit::{Codebook, RUN};

/// A register of f32, and how many of them a micro-kernel of its instruction set uses.
///
/// # Safety
///
/// Methods may only be called where the processor has the instruction set, and inlined into a function
/// that is compiled for it; pointers must be good for as many elements as are read or written.
pub(super) trait Vector: Copy {
    /// Elements of a register.
    const LANES: usize;
    /// 64 elements, in order.
    type Run: Copy + AsRef<[Self]>;

    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `self * factor + sum`; rounded once, but for [`Portable`].
    unsafe fn mul_add(self, factor: Self, sum: Self) -> Self;
    unsafe fn mul(self, factor: Self) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    /// The sum of its elements.
    unsafe fn sum(self) -> f32;
    /// The transpose of as many rows as a register has elements, of as many columns; strides are
    /// elements from row to row.
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize);
    /// The values of codes, of which a byte has the first in its high half.
    unsafe fn look_up(codes: &[u8; RUN / 2], codebook: &Codebook) -> Self::Run;
    unsafe fn widen(values: &[bf16; RUN]) -> Self::Run;
    unsafe fn load_run(values: &[f32; RUN]) -> Self::Run;
}

/// What any processor computes; four lanes are a register of most.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; 4]);

impl Vector for Portable {
    const LANES: usize = 4;
    type Run = [Self; RUN / 4];

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; 4])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: by the caller's contract.
        Self(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: by the caller's contract.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, sum: Self) -> Self {
        // A fused one would be a call where the processor has none.
        let mut out = sum.0;
        for (out, (x, factor)) in out.iter_mut().zip(self.0.iter().zip(factor.0)) {
            *out += x * factor;
        }
        Self(out)
    }

    #[inline(always)]
    unsafe fn mul(self, factor: Self) -> Self {
        Self(array::from_fn(|i| self.0[i] * factor.0[i]))
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(array::from_fn(|i| self.0[i] + other.0[i]))
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let [a, b, c, d] = self.0;
        (a + b) + (c + d)
    }

    #[inline(always)]
    unsafe fn look_up(codes: &[u8; RUN / 2], codebook: &Codebook) -> Self::Run {
        array::from_fn(|i| {
            let [a, b] = [codes[2 * i], codes[2 * i + 1]];
            Self([a >> 4, a & 15, b >> 4, b & 15].map(|code| codebook.values[usize::from(code)]))
        })
    }

    #[inline(always)]
    unsafe fn widen(values: &[bf16; RUN]) -> Self::Run {
        array::from_fn(|i| Self(array::from_fn(|j| values[4 * i + j].to_f32())))
    }

    #[inline(always)]
    unsafe fn load_run(values: &[f32; RUN]) -> Self::Run {
        array::from_fn(|i| Self(array::from_fn(|j| values[4 * i + j])))
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        for (row, col) in (0..4).flat_map(|row| (0..4).map(move |col| (row, col))) {
            // SAFETY: by the caller's contract.
            unsafe { *to.add(col * to_stride + row) = *from.add(row * from_stride + col) };
        }
    }
}

/// Implements [`Vector`] by functions of an instruction set, those of one vector named as intrinsics are.
macro_rules! vector {
    (
        $vector:ty, $lanes:literal, $splat:ident, $load:ident, $store:ident, $mul:ident, $add:ident, $sum:ident,
        $transpose:ident, $look_up:ident, $widen:ident, |$x:ident, $factor:ident, $sums:ident| $mul_add:expr
    ) => {
        impl Vector for $vector {
            const LANES: usize = $lanes;
            type Run = [Self; RUN / $lanes];

            #[inline(always)]
            unsafe fn splat(x: f32) -> Self {
                // SAFETY: by the caller's contract.
                unsafe { $splat(x) }
            }

            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: by the caller's contract.
                unsafe { $load(from) }
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: by the caller's contract.
                unsafe { $store(to, self) }
            }

            #[inline(always)]
            unsafe fn mul_add(self, $factor: Self, $sums: Self) -> Self {
                let $x = self;
                // SAFETY: by the caller's contract.
                unsafe { $mul_add }
            }

            #[inline(always)]
            unsafe fn mul(self, factor: Self) -> Self {
                // SAFETY: by the caller's contract.
                unsafe { $mul(self, factor) }
            }

            #[inline(always)]
            unsafe fn add(self, other: Self) -> Self {
                // SAFETY: by the caller's contract.
                unsafe { $add(self, other) }
            }

            #[inline(always)]
            unsafe fn sum(self) -> f32 {
                // SAFETY: by the caller's contract.
                unsafe { $sum(self) }
            }

            #[inline(always)]
            unsafe fn transpose(
                from: *const f32,
                from_stride: usize,
                to: *mut f32,
                to_stride: usize,
            ) {
                // SAFETY: by the caller's contract.
                unsafe { $transpose(from, from_stride, to, to_stride) }
            }

            #[inline(always)]
            unsafe fn look_up(codes: &[u8; RUN / 2], codebook: &Codebook) -> Self::Run {
                // SAFETY: by the caller's contract.
                unsafe { $look_up(codes, codebook) }
            }

            #[inline(always)]
            unsafe fn widen(values: &[bf16; RUN]) -> Self::Run {
                // SAFETY: by the caller's contract.
                unsafe { $widen(values) }
            }

            #[inline(always)]
            unsafe fn load_run(values: &[f32; RUN]) -> Self::Run {
                // SAFETY: by the caller's contract; a vector lies in its run.
                unsafe {
                    let mut run = [Self::splat(0.0); RUN / $lanes];
                    for (i, out) in run.iter_mut().enumerate() {
                        *out = Self::load(values.as_ptr().add(i * $lanes));
                    }
                    run
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m512, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_loadu_ps, _mm_loadu_si128,
        _mm_movehdup_ps, _mm_movehl_ps, _mm256_add_ps, _mm256_and_si256,
        _mm256_broadcastsi128_si256, _mm256_castpd_ps, _mm256_castps_pd, _mm256_castps128_ps256,
        _mm256_castps256_ps128, _mm256_castsi256_ps, _mm256_cvtepu16_epi32, _mm256_extractf128_ps,
        _mm256_fmadd_ps, _mm256_insertf128_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_mul_ps,
        _mm256_permute4x64_epi64, _mm256_set_epi8, _mm256_set1_epi8, _mm256_set1_ps,
        _mm256_setzero_ps, _mm256_shuffle_epi8, _mm256_slli_epi32, _mm256_srli_epi16,
        _mm256_storeu_ps, _mm256_unpackhi_epi8, _mm256_unpackhi_epi16, _mm256_unpackhi_pd,
        _mm256_unpackhi_ps, _mm256_unpacklo_epi8, _mm256_unpacklo_epi16, _mm256_unpacklo_pd,
        _mm256_unpacklo_ps, _mm512_add_epi32, _mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd,
        _mm512_castps128_ps512, _mm512_castsi512_ps, _mm512_cvtepu8_epi32, _mm512_cvtepu16_epi32,
        _mm512_fmadd_ps, _mm512_insertf32x4, _mm512_loadu_ps, _mm512_mul_ps,
        _mm512_permutex2var_ps, _mm512_permutexvar_ps, _mm512_reduce_add_ps, _mm512_set_epi32,
        _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32, _mm512_srli_epi32,
        _mm512_storeu_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd,
        _mm512_unpacklo_ps,
    };

    use half::bf16;

    use super::Vector;
    use crate::cpu::four_bit::{Codebook, RUN};

    vector!(
        __m256,
        8,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_mul_ps,
        _mm256_add_ps,
        sum_8,
        transpose_8,
        look_up_8,
        widen_8,
        |x, factor, sum| _mm256_fmadd_ps(x, factor, sum)
    );
    vector!(
        __m512,
        16,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_mul_ps,
        _mm512_add_ps,
        _mm512_reduce_add_ps,
        transpose_16,
        look_up_16,
        widen_16,
        |x, factor, sum| _mm512_fmadd_ps(x, factor, sum)
    );

    /// As [`Vector::transpose`]: quarters of a register take every fourth row, and are transposed in
    /// themselves.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn transpose_16(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: by the caller's contract.
        unsafe {
            for col in (0..16).step_by(4) {
                // Closures would be compiled without the vectors that this function is for.
                let mut rows = [_mm512_setzero_ps(); 4];
                for (i, row) in rows.iter_mut().enumerate() {
                    let (from, four) = (from.add(i * from_stride + col), 4 * from_stride);
                    let x = _mm512_castps128_ps512(_mm_loadu_ps(from));
                    let x = _mm512_insertf32x4::<1>(x, _mm_loadu_ps(from.add(four)));
                    let x = _mm512_insertf32x4::<2>(x, _mm_loadu_ps(from.add(2 * four)));
                    *row = _mm512_insertf32x4::<3>(x, _mm_loadu_ps(from.add(3 * four)));
                }
                let [a, b, c, d] = rows;
                let (ab, cd) = (_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d));
                let (low, high) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
                let (ab, cd) = (_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d));
                let (more_low, more_high) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
                let columns = [
                    _mm512_unpacklo_pd(low, high),
                    _mm512_unpackhi_pd(low, high),
                    _mm512_unpacklo_pd(more_low, more_high),
                    _mm512_unpackhi_pd(more_low, more_high),
                ];
                for (i, column) in columns.into_iter().enumerate() {
                    _mm512_storeu_ps(to.add((col + i) * to_stride), _mm512_castpd_ps(column));
                }
            }
        }
    }

    /// As [`Vector::look_up`], 32 elements at a time.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn look_up_16(codes: &[u8; RUN / 2], codebook: &Codebook) -> [__m512; RUN / 16] {
        let first = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
        let second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
        // SAFETY: as many readable values as a register has.
        let values = unsafe { _mm512_loadu_ps(codebook.values.as_ptr()) };
        let mut run = [_mm512_setzero_ps(); RUN / 16];
        for (codes, out) in codes.as_chunks::<16>().0.iter().zip(run.as_chunks_mut().0) {
            // SAFETY: 16 readable bytes.
            let bytes = _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(codes.as_ptr().cast()) });
            // Only the lowest four bits of an index count.
            let high = _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(bytes), values);
            let low = _mm512_permutexvar_ps(bytes, values);
            *out = [
                _mm512_permutex2var_ps(high, first, low),
                _mm512_permutex2var_ps(high, second, low),
            ];
        }
        run
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn widen_16(values: &[bf16; RUN]) -> [__m512; RUN / 16] {
        let mut run = [_mm512_setzero_ps(); RUN / 16];
        for (values, out) in values.as_chunks::<16>().0.iter().zip(&mut run) {
            // SAFETY: 32 readable bytes.
            let halves = unsafe { _mm256_loadu_si256(values.as_ptr().cast()) };
            let words = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves));
            *out = _mm512_castsi512_ps(words);
        }
        run
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn sum_8(x: __m256) -> f32 {
        let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
    }

    /// As [`Vector::look_up`]: a shuffle finds a byte of each of 32 values.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn look_up_8(codes: &[u8; RUN / 2], codebook: &Codebook) -> [__m256; RUN / 8] {
        // SAFETY: 32 readable bytes.
        let codes = unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) };
        // Four elements are two bytes of codes. Every second four go to the upper half, as they are to lie in a register.
        let even_first = _mm256_set_epi8(
            15, 14, 11, 10, 7, 6, 3, 2, 13, 12, 9, 8, 5, 4, 1, 0, 15, 14, 11, 10, 7, 6, 3, 2, 13,
            12, 9, 8, 5, 4, 1, 0,
        );
        let codes =
            _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_shuffle_epi8(codes, even_first));
        let half = _mm256_set1_epi8(15);
        let low = _mm256_and_si256(codes, half);
        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), half);
        let mut run = [_mm256_setzero_ps(); RUN / 8];
        let [first, second] = [_mm256_unpacklo_epi8(high, low), _mm256_unpackhi_epi8(high, low)];
        for (codes, out) in [first, second].into_iter().zip(run.as_chunks_mut().0) {
            let mut bytes = [codes; 4];
            for (bytes, plane) in bytes.iter_mut().zip(&codebook.planes) {
                // SAFETY: 16 readable bytes.
                let plane = unsafe { _mm_loadu_si128(plane.as_ptr().cast()) };
                *bytes = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(plane), *bytes);
            }
            let [a, b, c, d] = bytes;
            let (ab, cd) = (_mm256_unpacklo_epi8(a, b), _mm256_unpacklo_epi8(c, d));
            let (more_ab, more_cd) = (_mm256_unpackhi_epi8(a, b), _mm256_unpackhi_epi8(c, d));
            *out = [
                _mm256_castsi256_ps(_mm256_unpacklo_epi16(ab, cd)),
                _mm256_castsi256_ps(_mm256_unpackhi_epi16(ab, cd)),
                _mm256_castsi256_ps(_mm256_unpacklo_epi16(more_ab, more_cd)),
                _mm256_castsi256_ps(_mm256_unpackhi_epi16(more_ab, more_cd)),
            ];
        }
        run
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn widen_8(values: &[bf16; RUN]) -> [__m256; RUN / 8] {
        let mut run = [_mm256_setzero_ps(); RUN / 8];
        for (values, out) in values.as_chunks::<8>().0.iter().zip(&mut run) {
            // SAFETY: 16 readable bytes.
            let halves = unsafe { _mm_loadu_si128(values.as_ptr().cast()) };
            let words = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves));
            *out = _mm256_castsi256_ps(words);
        }
        run
    }

    /// As [`transpose_16`], with halves of a register.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn transpose_8(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: by the caller's contract.
        unsafe {
            for col in [0, 4] {
                let mut rows = [_mm256_setzero_ps(); 4];
                for (i, row) in rows.iter_mut().enumerate() {
                    let from = from.add(i * from_stride + col);
                    let x = _mm256_castps128_ps256(_mm_loadu_ps(from));
                    *row = _mm256_insertf128_ps::<1>(x, _mm_loadu_ps(from.add(4 * from_stride)));
                }
                let [a, b, c, d] = rows;
                let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
                let (low, high) = (_mm256_castps_pd(ab), _mm256_castps_pd(cd));
                let (ab, cd) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
                let (more_low, more_high) = (_mm256_castps_pd(ab), _mm256_castps_pd(cd));
                let columns = [
                    _mm256_unpacklo_pd(low, high),
                    _mm256_unpackhi_pd(low, high),
                    _mm256_unpacklo_pd(more_low, more_high),
                    _mm256_unpackhi_pd(more_low, more_high),
                ];
                for (i, column) in columns.into_iter().enumerate() {
                    _mm256_storeu_ps(to.add((col + i) * to_stride), _mm256_castpd_ps(column));
                }
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use std::arch::aarch64::{
        float32x4_t, vaddq_f32, vaddvq_f32, vandq_u8, vdupq_n_f32, vdupq_n_u8, vfmaq_f32, vld1_u16,
        vld1q_f32, vld1q_u8, vmulq_f32, vqtbl1q_u8, vreinterpretq_f32_u8, vreinterpretq_f32_u32,
        vreinterpretq_u8_u16, vreinterpretq_u16_u8, vshll_n_u16, vshrq_n_u8, vst1q_f32, vzip1q_f32,
        vzip1q_u8, vzip1q_u16, vzip2q_f32, vzip2q_u8, vzip2q_u16,
    };

    use half::bf16;

    use super::Vector;
    use crate::cpu::four_bit::{Codebook, RUN};

    vector!(
        float32x4_t,
        4,
        vdupq_n_f32,
        vld1q_f32,
        vst1q_f32,
        vmulq_f32,
        vaddq_f32,
        vaddvq_f32,
        transpose_4,
        look_up_4,
        widen_4,
        |x, factor, sum| vfmaq_f32(sum, x, factor)
    );

    /// As [`Vector::look_up`]: a shuffle finds a byte of each of 16 values.
    #[inline]
    #[target_feature(enable = "neon")]
    fn look_up_4(codes: &[u8; RUN / 2], codebook: &Codebook) -> [float32x4_t; RUN / 4] {
        let mut run = [vdupq_n_f32(0.0); RUN / 4];
        for (codes, out) in codes.as_chunks::<16>().0.iter().zip(run.as_chunks_mut::<8>().0) {
            // SAFETY: 16 readable bytes.
            let codes = unsafe { vld1q_u8(codes.as_ptr()) };
            let (high, low) = (vshrq_n_u8::<4>(codes), vandq_u8(codes, vdupq_n_u8(15)));
            let codes = [vzip1q_u8(high, low), vzip2q_u8(high, low)];
            for (codes, out) in codes.into_iter().zip(out.as_chunks_mut::<4>().0) {
                let mut bytes = [codes; 4];
                for (bytes, plane) in bytes.iter_mut().zip(&codebook.planes) {
                    // SAFETY: 16 readable bytes.
                    *bytes = vqtbl1q_u8(unsafe { vld1q_u8(plane.as_ptr()) }, *bytes);
                }
                let [a, b, c, d] = bytes;
                let [ab, cd] = [(a, b), (c, d)].map(|(a, b)| vreinterpretq_u16_u8(vzip1q_u8(a, b)));
                let [more_ab, more_cd] =
                    [(a, b), (c, d)].map(|(a, b)| vreinterpretq_u16_u8(vzip2q_u8(a, b)));
                *out = [
                    vzip1q_u16(ab, cd),
                    vzip2q_u16(ab, cd),
                    vzip1q_u16(more_ab, more_cd),
                    vzip2q_u16(more_ab, more_cd),
                ]
                .map(|x| vreinterpretq_f32_u8(vreinterpretq_u8_u16(x)));
            }
        }
        run
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn widen_4(values: &[bf16; RUN]) -> [float32x4_t; RUN / 4] {
        let mut run = [vdupq_n_f32(0.0); RUN / 4];
        for (values, out) in values.as_chunks::<4>().0.iter().zip(&mut run) {
            // SAFETY: 8 readable bytes.
            let halves = unsafe { vld1_u16(values.as_ptr().cast()) };
            *out = vreinterpretq_f32_u32(vshll_n_u16::<16>(halves));
        }
        run
    }

    /// As [`Vector::transpose`].
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn transpose_4(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: by the caller's contract.
        unsafe {
            let (a, b) = (vld1q_f32(from), vld1q_f32(from.add(from_stride)));
            let from = from.add(2 * from_stride);
            let (c, d) = (vld1q_f32(from), vld1q_f32(from.add(from_stride)));
            let (low, more_low) = (vzip1q_f32(a, c), vzip1q_f32(b, d));
            let (high, more_high) = (vzip2q_f32(a, c), vzip2q_f32(b, d));
            let columns = [
                vzip1q_f32(low, more_low),
                vzip2q_f32(low, more_low),
                vzip1q_f32(high, more_high),
                vzip2q_f32(high, more_high),
            ];
            for (i, column) in columns.into_iter().enumerate() {
                vst1q_f32(to.add(i * to_stride), column);
            }
        }
    }
}
