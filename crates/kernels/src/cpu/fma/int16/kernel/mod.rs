//! The micro-kernels, and the loop over rows and columns.

#![allow(unsafe_code)]

mod ymm;
mod zmm;

use std::ops::Range;
use std::sync::LazyLock;

use super::panel::{Panel, WIDTH};
use super::rows::Rows;
use crate::cpu::fma::strips::Out;
use crate::cpu::four_bit::RUN;
use crate::cpu::level::{CpuLevel, level};

/// Most rows, and columns, of any micro-kernel.
const MOST: [usize; 2] = [8, 2 * WIDTH];

/// The micro-kernels of a processor.
struct Kernels {
    rows: usize,
    slivers: usize,
    /// Safety: both sides can be read to their last run, and nobody else accesses the output; rows and slivers are no more
    /// than these.
    multiply: unsafe fn(rows: usize, slivers: usize, Operands),
}

impl Kernels {
    /// Those for this process's level, if there are any.
    fn get() -> Option<&'static Self> {
        static KERNELS: LazyLock<Option<&Kernels>> = LazyLock::new(|| match level() {
            CpuLevel::Avx2 if is_x86_feature_detected!("avxvnni") => Some(&ymm::VNNI_KERNELS),
            CpuLevel::Avx2 => Some(&ymm::KERNELS),
            CpuLevel::Avx512 if is_x86_feature_detected!("avx512vnni") => Some(&zmm::KERNELS),
            _ => None,
        });
        *KERNELS
    }
}

/// Whether rows of bf16 are multiplied in integers on this process's level.
pub(in crate::cpu) fn available() -> bool {
    Kernels::get().is_some()
}

/// Rows by slivers of 16 columns.
#[derive(Clone, Copy)]
struct Operands {
    runs: usize,
    left: *const i16,
    left_stride: usize,
    left_units: *const f32,
    left_units_stride: usize,
    right: *const i16,
    /// Elements from sliver to sliver.
    right_stride: usize,
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
    let kernels = Kernels::get().expect("rows are made where there are kernels");
    assert!(first_run + panel.runs <= left.runs(), "more than the rows have");
    assert!(out.stride >= panel.cols, "rows of the output overlap");
    let pieces = rows.len().div_ceil(kernels.rows);
    for piece in 0..pieces {
        let [first, end] = [piece, piece + 1].map(|i| i * rows.len() / pieces);
        let (left_stride, left_values) = left.values(rows.start + first, first_run);
        let (left_units_stride, left_units) = left.units(rows.start + first, first_run);
        let count = end - first;
        assert!((count - 1) * left_stride + panel.runs * RUN <= left_values.len());
        assert!((count - 1) * left_units_stride + panel.runs <= left_units.len());
        for col in (0..panel.cols).step_by(kernels.slivers * WIDTH) {
            let cols = (kernels.slivers * WIDTH).min(panel.cols - col);
            let slivers = cols.div_ceil(WIDTH);
            let (right_stride, right) = panel.slivers(col, slivers);
            let (right_units_stride, right_units) = panel.units(col);
            let last_units = (panel.runs.max(1) - 1) * right_units_stride;
            assert!(last_units + slivers * WIDTH <= right_units.len());
            let out_values = &mut out.values[first * out.stride + col..];
            assert!((count - 1) * out.stride + cols <= out_values.len());
            let operands = Operands {
                runs: panel.runs,
                left: left_values.as_ptr(),
                left_stride,
                left_units: left_units.as_ptr(),
                left_units_stride,
                right: right.as_ptr(),
                right_stride,
                right_units: right_units.as_ptr(),
                right_units_stride,
                out: out_values.as_mut_ptr(),
                out_stride: out.stride,
                keep: out.keep,
            };
            if cols == slivers * WIDTH {
                // SAFETY: the kernels are of instructions that the processor has. The asserts above, and
                // `slivers`, have all of the left side, the right side and its units readable, and hold the output to
                // its slice, which is borrowed exclusively.
                unsafe { (kernels.multiply)(count, slivers, operands) };
            } else {
                edge(kernels, (count, slivers), operands, out_values, cols);
            }
        }
    }
}

/// Of columns that end within the kernel's.
fn edge(
    kernels: &Kernels,
    (rows, slivers): (usize, usize),
    operands: Operands,
    out: &mut [f32],
    cols: usize,
) {
    let mut whole = [0.0; MOST[0] * MOST[1]];
    let width = slivers * WIDTH;
    assert!(rows <= MOST[0] && width <= MOST[1]);
    for (row, whole) in whole.chunks_exact_mut(width).take(rows).enumerate() {
        whole[..cols].copy_from_slice(&out[row * operands.out_stride..][..cols]);
    }
    let within = Operands { out: whole.as_mut_ptr(), out_stride: width, ..operands };
    // SAFETY: as in `strips`, and the kernel's rows and columns fit `whole`.
    unsafe { (kernels.multiply)(rows, slivers, within) };
    for (row, whole) in whole.chunks_exact(width).take(rows).enumerate() {
        out[row * operands.out_stride..][..cols].copy_from_slice(&whole[..cols]);
    }
}
