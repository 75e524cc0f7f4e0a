//! The loop over a product: strips of rows by slivers of columns, one micro-kernel each.

#![allow(unsafe_code)]

use super::Mat;
use super::kernel::{Kernels, MOST_COLS, MOST_ROWS, Operands, Sliver};
use super::mat::end;

/// The right side of a product as micro-kernels read it.
#[derive(Clone, Copy)]
pub(super) struct Right<'a> {
    pub(super) values: &'a [f32],
    /// Elements from step to step of the depth; nothing where it is packed.
    pub(super) stride: Option<usize>,
    pub(super) depth: usize,
    pub(super) cols: usize,
}

/// Where a product goes: rows so far apart, of which those before may be added to.
pub(super) struct Out<'a> {
    pub(super) values: &'a mut [f32],
    pub(super) stride: usize,
    pub(super) keep: bool,
}

/// `out = [out +] alpha * left . right`. `left` is as wide as `right` is deep.
pub(super) fn strips(
    kernels: &Kernels,
    left: Mat<'_>,
    right: Right<'_>,
    out: &mut Out<'_>,
    alpha: f32,
) {
    let fits = |rows, cols, stride, len| end(rows, cols, stride).is_some_and(|end| end <= len);
    let (depth, padded) = (right.depth, kernels.padded(right.cols));
    assert!(left.cols == depth, "inner dimensions differ");
    assert!(out.stride >= right.cols && fits(left.rows, right.cols, out.stride, out.values.len()));
    assert!(match right.stride {
        None => depth * padded <= right.values.len(),
        Some(stride) => padded == right.cols && fits(depth, padded, stride, right.values.len()),
    });
    let pieces = left.rows.div_ceil(kernels.rows);
    for piece in 0..pieces {
        let [row, past] = [piece, piece + 1].map(|i| i * left.rows / pieces);
        let left = left.some_rows(row, past - row);
        for sliver in kernels.slivers(right.cols) {
            let at = row * out.stride + sliver.col;
            let operands = Operands {
                depth,
                left: left.data.as_ptr(),
                left_stride: left.stride,
                right: match right.stride {
                    None => right.values[sliver.col * depth..].as_ptr(),
                    Some(_) => right.values[sliver.col.min(right.values.len())..].as_ptr(),
                },
                right_stride: right.stride.unwrap_or(sliver.width),
                out: out.values[at..].as_mut_ptr(),
                out_stride: out.stride,
                keep: out.keep,
                alpha,
            };
            let kernel = kernels.of(left.rows, sliver.vectors, !left.transposed);
            if sliver.col + sliver.width <= right.cols {
                // SAFETY: the kernels are those of the process's level, which the processor has. A `Mat`
                // lies within its slice, and the asserts above have the right side readable to the end
                // of the last vector of the last step, and hold the rows of the output to its slice,
                // which is borrowed exclusively.
                unsafe { kernel(operands) };
            } else {
                let width = right.cols - sliver.col;
                edge(kernel, operands, &mut out.values[at..], (left.rows, width), sliver);
            }
        }
    }
}

/// A kernel whose last vector goes beyond the output's columns.
fn edge(
    kernel: super::kernel::Kernel,
    operands: Operands,
    out: &mut [f32],
    (rows, width): (usize, usize),
    sliver: Sliver,
) {
    let mut whole = [0.0; MOST_ROWS * MOST_COLS];
    let stride = operands.out_stride;
    assert!(rows <= MOST_ROWS && sliver.width <= MOST_COLS);
    if operands.keep {
        for (row, whole) in whole.chunks_exact_mut(sliver.width).take(rows).enumerate() {
            whole[..width].copy_from_slice(&out[row * stride..][..width]);
        }
    }
    let operands = Operands { out: whole.as_mut_ptr(), out_stride: sliver.width, ..operands };
    // SAFETY: as in `strips`, and the kernel's rows and columns fit `whole`.
    unsafe { kernel(operands) };
    for (row, whole) in whole.chunks_exact(sliver.width).take(rows).enumerate() {
        out[row * stride..][..width].copy_from_slice(&whole[..width]);
    }
}
