//! Micro-kernels on vectors of 8 words.
//!
//! Measured on one core of an EPYC that shows AVX2 (Zen 4): 133 GFLOP/s from warm caches with a strip of 5 or 6 rows, where
//! FMAs make 90. A pair of `vpmaddwd` and `vpaddd` takes 0.62 ticks, an FMA 0.5: additions that wait for products take time
//! from them, in any order.
//! AVX-VNNI has both in one instruction, which has run on an emulator only and is not timed.
//!
//! Rejected: integers shifted to start at zero, so that a sum of two products is less than 2^24 and its bits are a float
//! that is as many times the least one. Additions of floats take no time from `vpmaddwd` on Zen 4, which makes 178 GFLOP/s
//! instead of 148 from the L1 cache and 3 % of a step, but an element has 11 bits then and a weight 10. (x1 + w2) (x2 + w1),
//! from which x1 x2 and w1 w2 are taken once a run, multiplies half as often and is exact, but is no faster.

use std::arch::asm;
use std::arch::x86_64::{
    __m256i, _mm256_cvtepi32_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256,
    _mm256_mul_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_setzero_si256, _mm256_storeu_ps,
};

use super::{Kernels, Operands};
use crate::cpu::fma::int16::panel::{STEP, WIDTH};
use crate::cpu::four_bit::RUN;

/// Most rows: with two vectors of columns they take 12 registers for sums, two for the right side, and two for products.
const ROWS: usize = 6;

pub(super) const KERNELS: Kernels = Kernels { rows: ROWS, slivers: 1, multiply: multiply::<false> };
/// With AVX-VNNI.
pub(super) const VNNI_KERNELS: Kernels =
    Kernels { rows: ROWS, slivers: 1, multiply: multiply::<true> };

/// Safety: as [`Kernels::multiply`], and the processor has AVX-VNNI where that is used.
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply<const VNNI: bool>(rows: usize, _: usize, operands: Operands) {
    // SAFETY: by the caller's contract.
    unsafe {
        match rows {
            1 => multiply_rows::<1, VNNI>(operands),
            2 => multiply_rows::<2, VNNI>(operands),
            3 => multiply_rows::<3, VNNI>(operands),
            4 => multiply_rows::<4, VNNI>(operands),
            5 => multiply_rows::<5, VNNI>(operands),
            ROWS => multiply_rows::<ROWS, VNNI>(operands),
            _ => unreachable!("{rows} rows are more than a kernel has"),
        }
    }
}

/// Safety: as [`multiply`].
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_rows<const R: usize, const VNNI: bool>(operands: Operands) {
    let Operands { runs, left, left_stride, right, out, out_stride, keep, .. } = operands;
    // SAFETY: by the caller's contract.
    unsafe {
        for run in 0..runs {
            let right_units = operands.right_units.add(run * operands.right_units_stride);
            let columns = [_mm256_loadu_ps(right_units), _mm256_loadu_ps(right_units.add(8))];
            let (left, right) = (left.add(run * RUN), right.add(run * RUN * WIDTH));
            let sums = run_sums::<R, VNNI>(left, left_stride, right);
            for (row, sums) in sums.into_iter().enumerate() {
                let unit = *operands.left_units.add(row * operands.left_units_stride + run);
                for (i, sum) in sums.into_iter().enumerate() {
                    let out = out.add(row * out_stride + i * 8);
                    let before =
                        if keep || run > 0 { _mm256_loadu_ps(out) } else { _mm256_setzero_ps() };
                    let unit = _mm256_mul_ps(_mm256_set1_ps(unit), columns[i]);
                    _mm256_storeu_ps(out, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), unit, before));
                }
            }
        }
    }
}

/// Exact sums over a run. Safety: as [`multiply`].
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_sums<const R: usize, const VNNI: bool>(
    left: *const i16,
    left_stride: usize,
    mut right: *const i16,
) -> [[__m256i; 2]; R] {
    let mut sums = [[_mm256_setzero_si256(); 2]; R];
    let mut rows = [left; R];
    // SAFETY: by the caller's contract.
    unsafe {
        for (i, row) in rows.iter_mut().enumerate() {
            *row = left.add(i * left_stride);
        }
        for _ in 0..RUN / 8 {
            macro_rules! steps {
                ($($step:literal)*) => {$(
                    let pairs = right.add($step * STEP);
                    let columns = [
                        _mm256_loadu_si256(pairs.cast()),
                        _mm256_loadu_si256(pairs.add(STEP / 2).cast()),
                    ];
                    for (sums, row) in sums.iter_mut().zip(rows) {
                        add_products::<{ 4 * $step }, VNNI>(sums, row, columns);
                    }
                )*};
            }
            steps!(0 1 2 3);
            for row in &mut rows {
                *row = row.add(8);
            }
            right = right.add(4 * STEP);
        }
    }
    sums
}

/// Adds products of the pair of a row that lies `BYTES` on. Left to itself the compiler loads and multiplies ahead until
/// sums no longer fit the registers, at half the rate.
///
/// Safety: the pair can be read, and the processor has AVX-VNNI where that is used.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_products<const BYTES: i32, const VNNI: bool>(
    [first, second]: &mut [__m256i; 2],
    row: *const i16,
    columns: [__m256i; 2],
) {
    // SAFETY: by the caller's contract.
    unsafe {
        if VNNI {
            asm!(
                "vpbroadcastd {x}, dword ptr [{row} + {bytes}]",
                "{{vex}} vpdpwssd {first}, {x}, {a}",
                "{{vex}} vpdpwssd {second}, {x}, {b}",
                x = out(ymm_reg) _,
                row = in(reg) row,
                bytes = const BYTES,
                a = in(ymm_reg) columns[0],
                b = in(ymm_reg) columns[1],
                first = inout(ymm_reg) *first,
                second = inout(ymm_reg) *second,
                options(pure, readonly, nostack, preserves_flags)
            );
        } else {
            asm!(
                "vpbroadcastd {x}, dword ptr [{row} + {bytes}]",
                "vpmaddwd {product}, {x}, {a}",
                "vpmaddwd {x}, {x}, {b}",
                "vpaddd {first}, {first}, {product}",
                "vpaddd {second}, {second}, {x}",
                x = out(ymm_reg) _,
                product = out(ymm_reg) _,
                row = in(reg) row,
                bytes = const BYTES,
                a = in(ymm_reg) columns[0],
                b = in(ymm_reg) columns[1],
                first = inout(ymm_reg) *first,
                second = inout(ymm_reg) *second,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
    }
}
