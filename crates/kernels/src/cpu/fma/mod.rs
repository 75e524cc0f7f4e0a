//! Products of f32 by fused multiplications and additions, on the vectors of this process's level.
//!
//! The right side is packed into a panel that stays in the L2 cache, 4-bit and bf16 weights straight from
//! what they are stored as, and strips of a few rows of the left side, which is read where it lies, pass by
//! it. Every output element is summed in the order of the depth, in parts of a fixed length, however the rest
//! is cut: neither the number of threads nor the size of a task changes a bit.
//!
//! On AVX2, and on AVX-512 with VNNI, those of bf16 are in integers (`int16`); few rows meet the right side without
//! a panel (`few`).
//!
//! Measured apart, on one core of a shared Xeon with AVX-512 at the shapes of `SmolLM2-135M`: the micro-kernels reach
//! 146 to 187 GFLOP/s on AVX-512 and 91 to 117 on AVX2, packing included; the `gemm` crate 151 to 181 on AVX-512. In
//! training in f32 three quarters of the user time is theirs.
//!
//! Rejected: packing the left side (mostly a tenth slower on AVX2).

mod few;
mod grid;
pub(super) mod int16;
mod kernel;
mod mat;
mod panel;
mod product;
mod strips;
mod vector;

use std::cell::RefCell;
use std::ops::Range;

#[cfg(amx)]
pub(super) use self::few::FEW_ROWS;
pub(super) use self::few::{few_rows, multiply_few};
use self::kernel::Kernels;
pub(super) use self::mat::Mat;
use self::panel::Panel;
pub(super) use self::panel::{Source, Stored};
pub(super) use self::product::{Left, LowRank, Term, multiply};
use self::strips::{Out, Right, strips};
use super::lines::Lines;

/// Most of the depth that is multiplied by at a time.
const DEPTH: usize = 576;

/// Rows for which it would take longer to pack the right side than to read it as it lies.
const FEW: usize = 24;

thread_local! {
    static PANEL: RefCell<Lines> = RefCell::default();
}

/// `out = [out +] alpha * a . b` for contiguous row-major `out`, by this thread. The order of additions
/// depends on the shapes alone.
pub(super) fn gemm(out: &mut [f32], accumulate: bool, alpha: f32, a: Mat<'_>, b: Mat<'_>) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert_eq!(k, b.rows, "inner dimensions differ");
    assert_eq!(Some(out.len()), m.checked_mul(n), "output shape differs");
    if m == 0 || n == 0 {
        return;
    }
    let kernels = Kernels::get();
    let packed = b.transposed || m > FEW || n != kernels.padded(n);
    for depth in parts(k, DEPTH, 1) {
        let mut out = Out { values: &mut *out, stride: n, keep: accumulate || depth.start > 0 };
        let a = a.some_cols(depth.start, depth.len());
        if packed {
            PANEL.with_borrow_mut(|lines| {
                let panel = Panel::fill(kernels, lines, Source::of(&b), 0..n, depth);
                strips(kernels, a, panel.right(), &mut out, alpha);
            });
        } else {
            let values = &b.data[(depth.start * b.stride).min(b.data.len())..];
            let right = Right { values, stride: Some(b.stride), depth: depth.len(), cols: n };
            strips(kernels, a, right, &mut out, alpha);
        }
    }
}

/// Multiplies rows and a panel that stay in the L1 cache, so many times: floating-point operations.
pub(super) fn multiply_from_l1(times: usize) -> usize {
    const DEPTH: usize = 96;
    let kernels = Kernels::get();
    let (m, n) = (2 * kernels.rows, kernels.vectors * kernels.lanes);
    let (values, mut sums) = (vec![1.0; DEPTH * m.max(n)], vec![0.0; m * n]);
    let right = Mat::new(&values[..DEPTH * n], DEPTH, n);
    PANEL.with_borrow_mut(|lines| {
        let panel = Panel::fill(kernels, lines, Source::of(&right), 0..n, 0..DEPTH).right();
        for _ in 0..times {
            let mut out = Out { values: &mut sums, stride: n, keep: true };
            strips(kernels, Mat::new(&values[..m * DEPTH], m, DEPTH), panel, &mut out, 1.0);
        }
    });
    assert_eq!(sums, vec![(times * DEPTH) as f32; m * n]);
    2 * m * n * DEPTH * times
}

/// About equal ranges of at most `most`, whose starts are multiples of `unit`; an empty one of nothing.
fn parts(len: usize, most: usize, unit: usize) -> impl Iterator<Item = Range<usize>> {
    let step = len.div_ceil(len.div_ceil(most).max(1)).next_multiple_of(unit).max(1);
    (0..len.max(1)).step_by(step).map(move |start| start..len.min(start + step))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn strides_transposes_and_accumulation() {
        // a = [[1, 2, 3], [4, 5, 6]] in rows of 4, b = [[1, 0], [0, 1], [1, 1]] as a transpose.
        let a = [1.0, 2.0, 3.0, 9.0, 4.0, 5.0, 6.0];
        let b = [1.0, 0.0, 1.0, 0.0, 1.0, 1.0];
        let mut out = [100.0; 4];
        let a = Mat::strided(&a, 2, 3, 4);
        let b = Mat::new(&b, 2, 3).t();
        gemm(&mut out, false, 2.0, a, b);
        assert_eq!(out, [8.0, 10.0, 20.0, 22.0]);
        gemm(&mut out, true, 1.0, a, b);
        assert_eq!(out, [12.0, 15.0, 30.0, 33.0]);
    }

    /// Small whole numbers, whose products are exact in any order.
    fn numbers(seed: usize, len: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 31 + seed * 7) % 17) as f32 - 8.0).collect()
    }

    /// `rows x cols`, stored so, or transposed, with some elements between rows.
    fn stored(data: &[f32], (rows, cols): (usize, usize), gap: usize, transposed: bool) -> Mat<'_> {
        if transposed {
            Mat::strided(data, cols, rows, rows + gap).t()
        } else {
            Mat::strided(data, rows, cols, cols + gap)
        }
    }

    fn at(mat: Mat<'_>, row: usize, col: usize) -> f32 {
        let (row, col) = if mat.transposed { (col, row) } else { (row, col) };
        mat.data[row * mat.stride + col]
    }

    proptest! {
        #[test]
        fn products_of_any_shape_are_exact(
            (m, n, k) in (0..40_usize, 0..120_usize, prop_oneof![0..70_usize, 570..600_usize]),
            gap in 0..3_usize,
            (left, right, accumulate) in any::<(bool, bool, bool)>(),
        ) {
            let a = numbers(1, (m.max(k) + gap) * m.max(k));
            let b = numbers(2, (n.max(k) + gap) * n.max(k));
            let (a, b) = (stored(&a, (m, k), gap, left), stored(&b, (k, n), gap, right));
            let before = numbers(3, m * n);
            let mut out = if accumulate { before.clone() } else { vec![f32::NAN; m * n] };
            gemm(&mut out, accumulate, 0.5, a, b);
            for (i, out) in out.iter().enumerate() {
                let dot: f32 = (0..k).map(|x| at(a, i / n, x) * at(b, x, i % n)).sum();
                prop_assert_eq!(*out, 0.5 * dot + if accumulate { before[i] } else { 0.0 });
            }
        }
    }
}
