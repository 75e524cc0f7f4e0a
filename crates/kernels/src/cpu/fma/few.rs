//! Products of few rows, as in generation: each weight is read once and meets all rows in registers.
//!
//! Rows of bf16 and 4-bit weights are multiplied in integers where there are tiles (`amx::integers`) and on AVX2 (`int16`),
//! others in f32.

#![allow(unsafe_code)]
#![expect(
    clippy::inline_always,
    reason = "a loop is compiled for the instruction set of the function it is inlined into"
)]

use half::bf16;

#[cfg(target_arch = "x86_64")]
use super::int16;
use super::kernel::Kernels;
use super::vector::Vector;
#[cfg(amx)]
use crate::cpu::amx::{IntegerRows, IntegerWeight};
use crate::cpu::four_bit::{FourBit, RUN};
use crate::cpu::level::has_amx;
use crate::cpu::prefetch;
use crate::cpu::team;
use crate::cpu::tiles::{Tile, tiles};
use crate::cpu::view::{FloatMut, FloatRef};
use crate::cpu::weight::WeightRef;

/// Most rows.
pub(in crate::cpu) const FEW_ROWS: usize = 4;
/// Most rows where there are tiles for them: there three and four rows and 4096 x 4096 in 4 bits took 0.92 and 0.94 ms,
/// in f32 1.30 and 1.62.
const ROWS_BESIDE_TILES: usize = 2;
/// Outputs of a task.
const OUTPUTS: usize = 48;
/// Bytes from weights to those that are fetched meanwhile: a processor's own prefetcher begins anew with every 4 KiB.
const AHEAD: usize = 2048;

/// Most rows like those of `x` that [`multiply_few`] multiplies by a weight.
pub(in crate::cpu) fn few_rows(x: FloatRef<'_>, weight: WeightRef<'_>) -> usize {
    match (x, weight) {
        (FloatRef::Bf16(_), WeightRef::Dense(_)) if has_amx() => ROWS_BESIDE_TILES,
        _ => FEW_ROWS,
    }
}

/// `out = finish(x [m, k] . W^T)` for up to [`few_rows`] rows and a weight `[n, k]`, where `finish` is given the
/// f32 sums of all rows and some columns and the tile to store them to. False, and nothing done, unless `k` is
/// a multiple of 64 and blocks of 4 bits have at least 64.
pub(in crate::cpu) fn multiply_few(
    x: FloatRef<'_>,
    weight: WeightRef<'_>,
    out: &mut FloatMut<'_>,
    (m, n, k): (usize, usize, usize),
    finish: impl Fn(&mut [f32], &mut Tile<'_>) + Sync,
) -> bool {
    let few = (1..=few_rows(x, weight)).contains(&m);
    if !few || n == 0 || k == 0 || !k.is_multiple_of(RUN) {
        return false;
    }
    let Some(weight) = Runs::of(weight, n, k) else { return false };
    let in_integers = match (&weight, x, &*out) {
        (Runs::FourBit(weight), FloatRef::Bf16(x), FloatMut::Bf16(_)) => {
            Meeting::in_integers(x, weight, m)
        }
        _ => None,
    };
    let mut wide = Vec::new();
    let meeting = in_integers.unwrap_or_else(|| {
        let x = x.slice(0..m * k).widen(&mut wide);
        Meeting::Floats { x, k, weight: &weight }
    });
    team::for_each_init(
        tiles(out.reborrow(), n, 0..n, m, OUTPUTS),
        Vec::new,
        |absmax, mut tile| {
            let mut sums = [0.0; FEW_ROWS * OUTPUTS];
            let sums = &mut sums[..m * tile.cols];
            meeting.multiply(tile.col, absmax, sums);
            finish(sums, &mut tile);
        },
    );
    true
}

/// Few rows, and the weight that they meet.
enum Meeting<'a> {
    #[cfg(amx)]
    IntegersOfAvx512(IntegerRows, IntegerWeight<'a>),
    #[cfg(target_arch = "x86_64")]
    IntegersOfAvx2(int16::FewRows, &'a FourBit<'a>),
    Floats {
        x: &'a [f32],
        k: usize,
        weight: &'a Runs<'a>,
    },
}

impl<'a> Meeting<'a> {
    /// Of rows `[m, k]`, if they are multiplied so.
    #[cfg(target_arch = "x86_64")]
    fn in_integers(x: &[bf16], weight: &'a FourBit<'a>, m: usize) -> Option<Self> {
        #[cfg(amx)]
        if has_amx() {
            let x = IntegerRows::new(x, m, weight.k)?;
            return Some(Self::IntegersOfAvx512(x, IntegerWeight::new(weight)));
        }
        Some(Self::IntegersOfAvx2(int16::FewRows::new(x, m, weight.k)?, weight))
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn in_integers(_: &[bf16], _: &'a FourBit<'a>, _: usize) -> Option<Self> {
        None
    }

    /// `sums [m, outputs]`: products with as many outputs, from the `first` on. `absmax` is scratch.
    fn multiply(&self, first: usize, absmax: &mut Vec<f32>, sums: &mut [f32]) {
        match self {
            #[cfg(amx)]
            Self::IntegersOfAvx512(x, weight) => weight.multiply(x, first, absmax, sums),
            #[cfg(target_arch = "x86_64")]
            Self::IntegersOfAvx2(x, weight) => {
                int16::multiply_few(weight, x, first, absmax, sums);
            }
            Self::Floats { x, k, weight } => {
                Kernels::get().multiply_few(weight, first, (x, *k), absmax, sums);
            }
        }
    }
}

/// A weight whose rows are made of runs.
pub(super) enum Runs<'a> {
    FourBit(FourBit<'a>),
    Bf16(&'a [bf16]),
    F32(&'a [f32]),
}

impl<'a> Runs<'a> {
    fn of(weight: WeightRef<'a>, n: usize, k: usize) -> Option<Self> {
        Some(match weight {
            WeightRef::Quantized(weight) => Self::FourBit(FourBit::new(weight, n, k)?),
            WeightRef::Dense(FloatRef::Bf16(values)) => Self::Bf16(values),
            WeightRef::Dense(FloatRef::F32(values)) => Self::F32(values),
        })
    }
}

/// `sums [m, outputs]`: products of rows `[m, k]` with as many outputs, from the `first` on. `absmax` is scratch.
///
/// Safety: the processor has the instruction set of `V`, for which the function that this is inlined into is compiled.
#[inline(always)]
pub(super) unsafe fn multiply<V: Vector>(
    weight: &Runs<'_>,
    first: usize,
    (x, k): (&[f32], usize),
    absmax: &mut Vec<f32>,
    sums: &mut [f32],
) {
    // SAFETY: by the caller's contract.
    unsafe {
        match x.len() / k {
            1 => multiply_by::<V, 1>(weight, first, (x, k), absmax, sums),
            2 => multiply_by::<V, 2>(weight, first, (x, k), absmax, sums),
            3 => multiply_by::<V, 3>(weight, first, (x, k), absmax, sums),
            4 => multiply_by::<V, FEW_ROWS>(weight, first, (x, k), absmax, sums),
            m => unreachable!("{m} rows are not few"),
        }
    }
}

/// Safety: as [`multiply`].
#[inline(always)]
unsafe fn multiply_by<V: Vector, const M: usize>(
    weight: &Runs<'_>,
    first: usize,
    (x, k): (&[f32], usize),
    absmax: &mut Vec<f32>,
    sums: &mut [f32],
) {
    let (outputs, runs) = (sums.len() / M, k / RUN);
    let range = first * runs..(first + outputs) * runs;
    // Closures would be compiled without the vectors that this is for.
    macro_rules! rows {
        ($rows:expr, |$run:pat_param| $ahead:expr, $values:expr, $scale:expr) => {
            for (col, row) in $rows.enumerate() {
                // SAFETY: by the caller's contract.
                unsafe {
                    let mut dots = Dots::<V, M>::new(x, k);
                    for (i, $run) in row.into_iter().enumerate() {
                        prefetch::to_read_beyond($ahead, AHEAD);
                        dots.add(i, $values, $scale);
                    }
                    dots.store(sums, outputs, col);
                }
            }
        };
    }
    match weight {
        Runs::FourBit(weight) => {
            absmax.resize(range.len(), 0.0);
            weight.absmax(range.start, absmax);
            let codes = weight.codes(range).chunks_exact(runs);
            let rows = codes
                .zip(absmax.chunks_exact(runs))
                .map(|(codes, absmax)| codes.iter().zip(absmax));
            let codebook = weight.codebook();
            rows!(rows, |(codes, absmax)| codes, V::look_up(codes, codebook), *absmax);
        }
        Runs::Bf16(values) => {
            let rows = values.as_chunks().0[range].chunks_exact(runs);
            rows!(rows, |values| values, V::widen(values), 1.0);
        }
        Runs::F32(values) => {
            let rows = values.as_chunks().0[range].chunks_exact(runs);
            rows!(rows, |values| values, V::load_run(values), 1.0);
        }
    }
}

/// Products of rows `x` `[M, k]` with a row of a weight.
struct Dots<'a, V, const M: usize> {
    x: [&'a [[f32; RUN]]; M],
    sums: [V; M],
}

impl<'a, V: Vector, const M: usize> Dots<'a, V, M> {
    /// Safety: as [`multiply`].
    #[inline(always)]
    unsafe fn new(x: &'a [f32], k: usize) -> Self {
        let mut rows: [&[[f32; RUN]]; M] = [&[]; M];
        for (row, x) in rows.iter_mut().zip(x.chunks_exact(k)) {
            *row = x.as_chunks().0;
        }
        // SAFETY: by the caller's contract.
        Self { x: rows, sums: [unsafe { V::splat(0.0) }; M] }
    }

    /// Adds `scale` times the products with the weight's run `i`.
    ///
    /// Safety: as [`multiply`].
    #[inline(always)]
    unsafe fn add(&mut self, i: usize, run: V::Run, scale: f32) {
        // SAFETY: by the caller's contract; a vector lies in its run.
        unsafe {
            let scale = V::splat(scale);
            for (sum, x) in self.sums.iter_mut().zip(&self.x) {
                let x = x[i].as_ptr();
                // Two, for each addition waits for the one before.
                let mut parts = [V::splat(0.0); 2];
                for (j, weights) in run.as_ref().iter().enumerate() {
                    let part = &mut parts[j % 2];
                    *part = V::load(x.add(j * V::LANES)).mul_add(*weights, *part);
                }
                *sum = parts[0].add(parts[1]).mul_add(scale, *sum);
            }
        }
    }

    /// Safety: as [`multiply`].
    #[inline(always)]
    unsafe fn store(self, sums: &mut [f32], outputs: usize, col: usize) {
        for (row, sum) in self.sums.into_iter().enumerate() {
            // SAFETY: by the caller's contract.
            sums[row * outputs + col] = unsafe { sum.sum() };
        }
    }
}
