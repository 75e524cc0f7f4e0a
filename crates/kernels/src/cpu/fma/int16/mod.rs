//! Products of bf16 in integers of 16 bits, where there is no matrix unit: one instruction multiplies twice as many of them
//! as an FMA does of f32.
//!
//! Of each 64 elements along the depth, those of a row count in parts of their largest, and so do those of a column
//! of the right side. A sum over 64 products fits a word, so it is exact; sums of these are in f32, in the order of
//! the depth. An element has 12 bits and a weight 13 below the largest, where bf16 has 8 of its own.

#![cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "nothing is multiplied there"))]

#[cfg(target_arch = "x86_64")]
mod few;
#[cfg(target_arch = "x86_64")]
mod kernel;
#[cfg(not(target_arch = "x86_64"))]
mod kernel {
    use std::ops::Range;

    use super::{Panel, Rows};
    use crate::cpu::fma::strips::Out;

    pub(in crate::cpu) const fn available() -> bool {
        false
    }

    pub(in crate::cpu::fma) fn strips(
        _: Rows<'_>,
        _: Range<usize>,
        _: usize,
        _: Panel<'_>,
        _: &mut Out<'_>,
    ) {
        unreachable!("no rows are made where there are no kernels")
    }
}
mod panel;
mod rows;

#[cfg(target_arch = "x86_64")]
pub(super) use self::few::{FewRows, multiply as multiply_few};
pub(in crate::cpu) use self::kernel::available;
pub(super) use self::kernel::strips;
pub(super) use self::panel::Panel;
pub(in crate::cpu) use self::panel::Space;
pub(in crate::cpu) use self::rows::{MadeRows, OwnRows, Rows};

use std::ops::Range;

use super::panel::Source;
use super::strips::Out;
use super::{DEPTH, Mat, parts};
use crate::cpu::four_bit::RUN;

/// Most columns that are multiplied by at a time by one thread.
const COLS: usize = 512;

/// The integer of the largest element of a run of a row.
const ELEMENT: f32 = 4096.0;
/// That of a run of a column of the right side: a multiple of 192, in whose parts FP4's values come.
const WEIGHT: f32 = 8064.0;
const _: () = assert!(RUN as f64 * ELEMENT as f64 * WEIGHT as f64 <= i32::MAX as f64);

/// The number with these bits, which is not negative, or what an infinite factor would not come of if it is less. What is
/// not a number stays so.
#[inline(always)]
const fn at_least(bits: u32) -> f32 {
    const LEAST: f32 = 1e-30;
    if bits < LEAST.to_bits() { LEAST } else { f32::from_bits(bits) }
}

/// The integer next to `x * factor`, which is no larger than 2^15.
#[inline(always)]
const fn round(x: f32, factor: f32) -> i16 {
    /// Where it is added, the last bit of a sum counts one, and the lowest are those of the other summand.
    const UNIT: f32 = 1.5 * (1 << 23) as f32;
    (x * factor + UNIT).to_bits() as i16
}

/// `out [m, columns] = [out +] rows . right`, of some columns and some of the depth, which starts at a multiple of 64 and
/// is all that the rows have; by this thread.
pub(in crate::cpu) fn gemm(
    space: &mut Space,
    out: &mut [f32],
    accumulate: bool,
    rows: Rows<'_>,
    right: Source<'_>,
    (cols, depth): (Range<usize>, Range<usize>),
) {
    let (m, width) = (out.len() / cols.len(), cols.len());
    for some in parts(width, COLS, 1) {
        for part in parts(depth.len(), DEPTH, RUN) {
            let [first, end] = [part.start, part.end].map(|i| depth.start + i);
            let cols_of_panel = cols.start + some.start..cols.start + some.end;
            let panel = Panel::fill(space, right, cols_of_panel, first..end);
            let values = &mut out[some.start..];
            let keep = accumulate || part.start > 0;
            strips(rows, 0..m, part.start / RUN, panel, &mut Out { values, stride: width, keep });
        }
    }
}

/// Multiplies rows and a panel that stay in the L1 cache, so many times: floating-point operations that these stand for.
pub(in crate::cpu) fn multiply_from_l1(times: usize) -> usize {
    const M: usize = 24;
    const N: usize = 32;
    const DEPTH: usize = 3 * RUN;
    let (values, mut sums) = (vec![1.0; DEPTH * N], vec![0.0; M * N]);
    let (mut rows, mut space) = (OwnRows::default(), Space::default());
    let rows = rows.set(&values[..M * DEPTH], DEPTH);
    let right = Mat::new(&values, DEPTH, N);
    let panel = Panel::fill(&mut space, Source::of(&right), 0..N, 0..DEPTH);
    for _ in 0..times {
        strips(rows, 0..M, 0, panel, &mut Out { values: &mut sums, stride: N, keep: true });
    }
    let sum = (times * DEPTH) as f32;
    assert!(sums.iter().all(|got| (got - sum).abs() < 1e-3 * sum));
    2 * M * N * DEPTH * times
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use proptest::prelude::*;

    use super::*;
    use crate::cpu::Cpu;
    use crate::cpu::view::FloatRef;

    proptest! {
        #[test]
        fn products_of_any_shape_are_within_their_parts(
            (m, n, depth) in (1..50_usize, 1..70_usize, 1..200_usize),
            transposed in any::<bool>(),
            seed in 0..1000_usize,
        ) {
            if !available() {
                return Ok(());
            }
            let number = |i: usize| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0;
            let x: Vec<bf16> = (0..m * depth).map(|i| bf16::from_f32(number(i))).collect();
            let w: Vec<f32> = (0..n * depth).map(|i| number(i + m * depth)).collect();
            let cpu = Cpu::new();
            let rows = MadeRows::new(&cpu, FloatRef::Bf16(&x), depth).unwrap().expect("rows of bf16");
            let right = if transposed { Mat::new(&w, n, depth).t() } else { Mat::new(&w, depth, n) };
            let mut out = vec![f32::NAN; m * n];
            let right = Source::of(&right);
            gemm(&mut Space::default(), &mut out, false, rows.rows(), right, (0..n, 0..depth));
            for (i, out) in out.iter().enumerate() {
                let (row, col) = (i / n, i % n);
                let product = |d: usize| {
                    let w = if transposed { w[col * depth + d] } else { w[d * n + col] };
                    f64::from(x[row * depth + d].to_f32()) * f64::from(w)
                };
                let sum: f64 = (0..depth).map(product).sum();
                let error = (f64::from(*out) - sum).abs();
                let parts = 0.5 / f64::from(ELEMENT) + 0.5 / f64::from(WEIGHT);
                prop_assert!(error <= 1.01 * parts * depth as f64, "{error} of {sum}");
            }
        }
    }
}
