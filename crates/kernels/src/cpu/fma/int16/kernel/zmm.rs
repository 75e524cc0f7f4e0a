//! Micro-kernels on vectors of 16 words, with AVX512-VNNI: `vpdpwssd` multiplies twice as many integers as an FMA does
//! floats, and takes as long on one core of a Xeon with AMX (0.39 ticks each). That is all that has been measured: the
//! kernels have run on an emulator only.

use std::arch::asm;
use std::arch::x86_64::{
    __m512i, _mm512_cvtepi32_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_storeu_ps,
};

use super::{Kernels, Operands};
use crate::cpu::fma::int16::panel::{STEP, WIDTH};
use crate::cpu::four_bit::RUN;

/// Most rows: with two slivers of columns they have 16 sums, more than are in flight at two `vpdpwssd` a tick, and a
/// general register each.
const ROWS: usize = 8;
/// Most slivers.
const SLIVERS: usize = 2;

pub(super) const KERNELS: Kernels = Kernels { rows: ROWS, slivers: SLIVERS, multiply };

/// Safety: as [`Kernels::multiply`].
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn multiply(rows: usize, slivers: usize, operands: Operands) {
    macro_rules! multiply {
        ($($rows:literal)*) => {
            match (rows, slivers) {
                $(
                    ($rows, 1) => multiply_rows::<$rows, 1>(operands),
                    ($rows, SLIVERS) => multiply_rows::<$rows, SLIVERS>(operands),
                )*
                _ => unreachable!("{rows} rows and {slivers} slivers are more than a kernel has"),
            }
        };
    }
    // SAFETY: by the caller's contract.
    unsafe { multiply!(1 2 3 4 5 6 7 8) }
}

/// Safety: as [`Kernels::multiply`].
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn multiply_rows<const R: usize, const S: usize>(operands: Operands) {
    let Operands { runs, left, left_stride, right, right_stride, out, out_stride, keep, .. } =
        operands;
    // SAFETY: by the caller's contract.
    unsafe {
        for run in 0..runs {
            let right_units = operands.right_units.add(run * operands.right_units_stride);
            let right = (right.add(run * RUN * WIDTH), right_stride);
            let sums = run_sums::<R, S>(left.add(run * RUN), left_stride, right);
            for (row, sums) in sums.into_iter().enumerate() {
                let unit = *operands.left_units.add(row * operands.left_units_stride + run);
                for (i, sum) in sums.into_iter().enumerate() {
                    let out = out.add(row * out_stride + i * WIDTH);
                    let before =
                        if keep || run > 0 { _mm512_loadu_ps(out) } else { _mm512_setzero_ps() };
                    let columns = _mm512_loadu_ps(right_units.add(i * WIDTH));
                    let unit = _mm512_mul_ps(_mm512_set1_ps(unit), columns);
                    _mm512_storeu_ps(out, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), unit, before));
                }
            }
        }
    }
}

/// Exact sums over a run. Safety: as [`Kernels::multiply`].
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn run_sums<const R: usize, const S: usize>(
    left: *const i16,
    left_stride: usize,
    (mut right, right_stride): (*const i16, usize),
) -> [[__m512i; S]; R] {
    let mut sums = [[_mm512_setzero_si512(); S]; R];
    let mut rows = [left; R];
    // SAFETY: by the caller's contract.
    unsafe {
        for (i, row) in rows.iter_mut().enumerate() {
            *row = left.add(i * left_stride);
        }
        for _ in 0..RUN / 8 {
            macro_rules! steps {
                ($($step:literal)*) => {$(
                    let mut columns = [_mm512_setzero_si512(); S];
                    for (i, columns) in columns.iter_mut().enumerate() {
                        let pairs = right.add(i * right_stride + $step * STEP);
                        *columns = _mm512_loadu_si512(pairs.cast());
                    }
                    for (sums, row) in sums.iter_mut().zip(rows) {
                        add_products::<{ 4 * $step }, S>(sums, row, columns);
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

/// Adds products of the pair of a row that lies `BYTES` on. From intrinsics the compiler would make two instructions each.
///
/// Safety: the pair can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn add_products<const BYTES: i32, const S: usize>(
    sums: &mut [__m512i; S],
    row: *const i16,
    columns: [__m512i; S],
) {
    // SAFETY: by the caller's contract.
    unsafe {
        if S == 1 {
            asm!(
                "vpdpwssd {sum}, {a}, dword ptr [{row} + {bytes}]{{1to16}}",
                row = in(reg) row,
                bytes = const BYTES,
                a = in(zmm_reg) columns[0],
                sum = inout(zmm_reg) sums[0],
                options(pure, readonly, nostack, preserves_flags)
            );
        } else {
            asm!(
                "vpbroadcastd {x}, dword ptr [{row} + {bytes}]",
                "vpdpwssd {first}, {x}, {a}",
                "vpdpwssd {second}, {x}, {b}",
                x = out(zmm_reg) _,
                row = in(reg) row,
                bytes = const BYTES,
                a = in(zmm_reg) columns[0],
                b = in(zmm_reg) columns[S - 1],
                first = inout(zmm_reg) sums[0],
                second = inout(zmm_reg) sums[S - 1],
                options(pure, readonly, nostack, preserves_flags)
            );
        }
    }
}
