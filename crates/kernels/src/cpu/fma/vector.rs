//! Vectors of f32 as the micro-kernels use them.

#![allow(unsafe_code)]
#![expect(
    clippy::inline_always,
    reason = "an instruction is compiled for the instruction set of the function it is inlined into"
)]

/// A register of f32, and how many of them a micro-kernel of its instruction set uses.
///
/// # Safety
///
/// Methods may only be called where the processor has the instruction set, and inlined into a function
/// that is compiled for it; pointers must be good for as many elements as are read or written.
pub(super) trait Vector: Copy {
    /// Elements of a register.
    const LANES: usize;

    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `self * factor + sum`; rounded once, but for [`Portable`].
    unsafe fn mul_add(self, factor: Self, sum: Self) -> Self;
    /// The transpose of as many rows as a register has elements, of as many columns; strides are
    /// elements from row to row.
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize);
    /// Sets 64 elements to the values of their codes, of which a byte has the first in its high half.
    #[inline(always)]
    unsafe fn look_up(codes: &[u8; 32], values: &[f32; 16], to: *mut f32) {
        for (i, code) in codes.iter().enumerate() {
            let [high, low] = [code >> 4, code & 15].map(|code| values[usize::from(code)]);
            // SAFETY: by the caller's contract.
            unsafe { to.add(2 * i).cast::<[f32; 2]>().write_unaligned([high, low]) };
        }
    }
}

/// What any processor computes; four lanes are a register of most.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; 4]);

impl Vector for Portable {
    const LANES: usize = 4;

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
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        for (row, col) in (0..4).flat_map(|row| (0..4).map(move |col| (row, col))) {
            // SAFETY: by the caller's contract.
            unsafe { *to.add(col * to_stride + row) = *from.add(row * from_stride + col) };
        }
    }
}

/// Implements [`Vector`] by the intrinsics of an instruction set.
macro_rules! vector {
    ($vector:ty, $lanes:literal, $splat:ident, $load:ident, $store:ident, $transpose:ident, $($look_up:ident,)? |$x:ident, $factor:ident, $sum:ident| $mul_add:expr) => {
        impl Vector for $vector {
            const LANES: usize = $lanes;

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
            unsafe fn mul_add(self, $factor: Self, $sum: Self) -> Self {
                let $x = self;
                // SAFETY: by the caller's contract.
                unsafe { $mul_add }
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

            $(
                #[inline(always)]
                unsafe fn look_up(codes: &[u8; 32], values: &[f32; 16], to: *mut f32) {
                    // SAFETY: by the caller's contract.
                    unsafe { $look_up(codes, values, to) }
                }
            )?
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m512, _mm_loadu_ps, _mm_loadu_si128, _mm256_castpd_ps, _mm256_castps_pd,
        _mm256_castps128_ps256, _mm256_fmadd_ps, _mm256_insertf128_ps, _mm256_loadu_ps,
        _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps, _mm256_unpackhi_pd,
        _mm256_unpackhi_ps, _mm256_unpacklo_pd, _mm256_unpacklo_ps, _mm512_add_epi32,
        _mm512_castpd_ps, _mm512_castps_pd, _mm512_castps128_ps512, _mm512_cvtepu8_epi32,
        _mm512_fmadd_ps, _mm512_insertf32x4, _mm512_loadu_ps, _mm512_permutex2var_ps,
        _mm512_permutexvar_ps, _mm512_set_epi32, _mm512_set1_epi32, _mm512_set1_ps,
        _mm512_setzero_ps, _mm512_srli_epi32, _mm512_storeu_ps, _mm512_unpackhi_pd,
        _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
    };

    use super::Vector;

    vector!(
        __m256,
        8,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        transpose_8,
        |x, factor, sum| _mm256_fmadd_ps(x, factor, sum)
    );
    vector!(
        __m512,
        16,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        transpose_16,
        look_up_16,
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
    unsafe fn look_up_16(codes: &[u8; 32], values: &[f32; 16], to: *mut f32) {
        let first = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
        let second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
        // SAFETY: by the caller's contract; half of the codes is 16 bytes.
        unsafe {
            let values = _mm512_loadu_ps(values.as_ptr());
            for half in 0..2 {
                let bytes = _mm_loadu_si128(codes.as_ptr().add(16 * half).cast());
                let bytes = _mm512_cvtepu8_epi32(bytes);
                // Only the lowest four bits of an index count.
                let high = _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(bytes), values);
                let low = _mm512_permutexvar_ps(bytes, values);
                let to = to.add(32 * half);
                _mm512_storeu_ps(to, _mm512_permutex2var_ps(high, first, low));
                _mm512_storeu_ps(to.add(16), _mm512_permutex2var_ps(high, second, low));
            }
        }
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
        float32x4_t, vdupq_n_f32, vfmaq_f32, vld1q_f32, vst1q_f32, vzip1q_f32, vzip2q_f32,
    };

    use super::Vector;

    vector!(float32x4_t, 4, vdupq_n_f32, vld1q_f32, vst1q_f32, transpose_4, |x, factor, sum| {
        vfmaq_f32(sum, x, factor)
    });

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
