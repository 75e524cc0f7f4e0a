//! The micro-kernel, and the loop over rows and columns.

#![allow(unsafe_code)]

use std::arch::asm;
use std::arch::x86_64::{
    __m256i, _mm256_cvtepi32_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256,
    _mm256_mul_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_setzero_si256, _mm256_storeu_ps,
};
use std::ops::Range;

use super::panel::{Panel, STEP, WIDTH};
use super::rows::Rows;
use crate::cpu::fma::strips::Out;
use crate::cpu::four_bit::RUN;

/// Most rows: with two vectors of columns they take 12 registers for sums, two for the right side, and two for products.
const ROWS: usize = 6;

/// Rows by 16 columns.
#[derive(Clone, Copy)]
struct Operands {
    runs: usize,
    left: *const i16,
    left_stride: usize,
    left_units: *const f32,
    left_units_stride: usize,
    right: *const i16,
    right_units: *const f32,
    right_units_stride: usize,
    out: *mut f32,
    out_stride: usize,
    /// Whether the output is added to.
    keep: bool,
}

/// `out = [out +] rows . panel` for some rows, from a run on.
pub(in crate::cpu::fma) fn strips(
    left: Rows<'_>,
    rows: Range<usize>,
    first_run: usize,
    panel: Panel<'_>,
    out: &mut Out<'_>,
) {
    assert!(first_run + panel.runs <= left.runs(), "more than the rows have");
    assert!(out.stride >= panel.cols, "rows of the output overlap");
    let pieces = rows.len().div_ceil(ROWS);
    for piece in 0..pieces {
        let [first, end] = [piece, piece + 1].map(|i| i * rows.len() / pieces);
        let (left_stride, left_values) = left.values(rows.start + first, first_run);
        let (left_units_stride, left_units) = left.units(rows.start + first, first_run);
        let count = end - first;
        assert!((count - 1) * left_stride + panel.runs * RUN <= left_values.len());
        assert!((count - 1) * left_units_stride + panel.runs <= left_units.len());
        for col in (0..panel.cols).step_by(WIDTH) {
            let (right_units_stride, right_units) = panel.units(col);
            assert!((panel.runs.max(1) - 1) * right_units_stride + WIDTH <= right_units.len());
            let out_values = &mut out.values[first * out.stride + col..];
            let cols = WIDTH.min(panel.cols - col);
            assert!((count - 1) * out.stride + cols <= out_values.len());
            let operands = Operands {
                runs: panel.runs,
                left: left_values.as_ptr(),
                left_stride,
                left_units: left_units.as_ptr(),
                left_units_stride,
                right: panel.values(col).as_ptr(),
                right_units: right_units.as_ptr(),
                right_units_stride,
                out: out_values.as_mut_ptr(),
                out_stride: out.stride,
                keep: out.keep,
            };
            if cols == WIDTH {
                // SAFETY: rows in integers are made on the level AVX2 alone. The asserts above, and `values`, have all
                // of the left side, the right side and its units readable, and hold the output to its slice, which is
                // borrowed exclusively.
                unsafe { multiply(count, operands) };
            } else {
                edge(count, operands, out_values, cols);
            }
        }
    }
}

/// Of columns that end within the kernel's.
fn edge(rows: usize, operands: Operands, out: &mut [f32], cols: usize) {
    let mut whole = [0.0; ROWS * WIDTH];
    for (row, whole) in whole.chunks_exact_mut(WIDTH).take(rows).enumerate() {
        whole[..cols].copy_from_slice(&out[row * operands.out_stride..][..cols]);
    }
    let within = Operands { out: whole.as_mut_ptr(), out_stride: WIDTH, ..operands };
    // SAFETY: as in `strips`, and the kernel's rows and columns fit `whole`.
    unsafe { multiply(rows, within) };
    for (row, whole) in whole.chunks_exact(WIDTH).take(rows).enumerate() {
        out[row * operands.out_stride..][..cols].copy_from_slice(&whole[..cols]);
    }
}

/// Safety: as [`multiply_rows`].
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply(rows: usize, operands: Operands) {
    // SAFETY: by the caller's contract.
    unsafe {
        match rows {
            1 => multiply_rows::<1>(operands),
            2 => multiply_rows::<2>(operands),
            3 => multiply_rows::<3>(operands),
            4 => multiply_rows::<4>(operands),
            5 => multiply_rows::<5>(operands),
            ROWS => multiply_rows::<ROWS>(operands),
            _ => unreachable!("{rows} rows are more than a kernel has"),
        }
    }
}

/// Safety: both sides can be read to their last run, and nobody else accesses the output.
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_rows<const R: usize>(operands: Operands) {
    let Operands { runs, left, left_stride, right, out, out_stride, keep, .. } = operands;
    // SAFETY: by the caller's contract.
    unsafe {
        for run in 0..runs {
            let right_units = operands.right_units.add(run * operands.right_units_stride);
            let columns = [_mm256_loadu_ps(right_units), _mm256_loadu_ps(right_units.add(8))];
            let sums =
                run_sums::<R>(left.add(run * RUN), left_stride, right.add(run * RUN * WIDTH));
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

/// Exact sums over a run. Safety: as [`multiply_rows`].
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_sums<const R: usize>(
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
                        add_products::<{ 4 * $step }>(sums, row, columns);
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
/// Safety: the pair can be read.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_products<const BYTES: i32>(
    [first, second]: &mut [__m256i; 2],
    row: *const i16,
    columns: [__m256i; 2],
) {
    // SAFETY: by the caller's contract.
    unsafe {
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
