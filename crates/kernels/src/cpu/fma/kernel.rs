//! The micro-kernel: a few rows of a product by a few vectors of its columns, all sums in registers.

#![allow(unsafe_code)]
#![expect(
    clippy::inline_always,
    reason = "a loop is compiled for the instruction set of the function it is inlined into"
)]

use super::few::{self, Runs};
use super::mat::end;
use super::vector::{Portable, Vector};
use crate::cpu::four_bit::{FourBit, RUN};
use crate::cpu::level::{CpuLevel, level};

/// Most rows of any level's micro-kernel.
pub(super) const MOST_ROWS: usize = 8;
/// Most columns of it.
pub(super) const MOST_COLS: usize = 48;

/// What a micro-kernel computes: `out = [out +] alpha * left . right`.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    /// Length of the sums.
    pub(super) depth: usize,
    pub(super) left: *const f32,
    /// Elements from row to row, if the depth is contiguous, otherwise elements from step to step of the
    /// depth, in each of which the rows are contiguous.
    pub(super) left_stride: usize,
    pub(super) right: *const f32,
    /// Elements from step to step of the depth.
    pub(super) right_stride: usize,
    pub(super) out: *mut f32,
    /// Elements from row to row.
    pub(super) out_stride: usize,
    /// Whether the output is added to.
    pub(super) keep: bool,
    pub(super) alpha: f32,
}

/// A micro-kernel of a certain number of rows and vectors.
///
/// Safety: the processor has the instruction set it was compiled for, `left` and `right` can be read to the
/// last step of the depth, and nobody else accesses `out`.
pub(super) type Kernel = unsafe fn(Operands);
/// `(from, its stride, to, its stride, length)`: the transpose of as many rows of that length as a vector
/// has elements.
///
/// Safety: the processor has the instruction set it was compiled for, rows can be read, and nobody else
/// accesses what is written.
type Transpose = unsafe fn(*const f32, usize, *mut f32, usize, usize);
/// `(weight, row, first column, out)`: runs of a row.
///
/// Safety: the processor has the instruction set it was compiled for.
type Decode = unsafe fn(&FourBit<'_>, usize, usize, &mut [f32]);
/// `(weight, first, (x, k), absmax, sums)`: products of few rows.
///
/// Safety: the processor has the instruction set it was compiled for.
type MultiplyFew = unsafe fn(&Runs<'_>, usize, (&[f32], usize), &mut Vec<f32>, &mut [f32]);
/// By vectors, less one, and whether the depth of `left` is contiguous.
type OfRows = [[Kernel; 2]; 3];

/// The micro-kernels of a level.
pub(super) struct Kernels {
    /// Most rows.
    pub(super) rows: usize,
    /// Elements of a vector.
    pub(super) lanes: usize,
    /// Most vectors.
    pub(super) vectors: usize,
    /// By rows, less one.
    of_rows: &'static [OfRows],
    transpose: Transpose,
    decode: Decode,
    multiply_few: MultiplyFew,
}

impl Kernels {
    /// Those of this process's level.
    pub(super) fn get() -> &'static Self {
        match level() {
            #[cfg(target_arch = "x86_64")]
            CpuLevel::Amx | CpuLevel::Avx512 => &avx512::KERNELS,
            #[cfg(target_arch = "x86_64")]
            CpuLevel::Avx2 => &avx2::KERNELS,
            #[cfg(target_arch = "aarch64")]
            CpuLevel::Neon => &neon::KERNELS,
            _ => &portable::KERNELS,
        }
    }

    pub(super) fn of(&self, rows: usize, vectors: usize, contiguous: bool) -> Kernel {
        self.of_rows[rows - 1][vectors - 1][usize::from(contiguous)]
    }

    /// The transpose of as many rows of `len` elements as a vector has; of both, how far rows are apart.
    pub(super) fn transpose(
        &self,
        (from, from_stride): (&[f32], usize),
        (to, to_stride): (&mut [f32], usize),
        len: usize,
    ) {
        let fits = |rows, cols, stride, within: usize| {
            cols <= stride && end(rows, cols, stride).is_some_and(|end| end <= within)
        };
        assert!(fits(self.lanes, len, from_stride, from.len()), "no such rows");
        assert!(fits(len, self.lanes, to_stride, to.len()), "no such columns");
        // SAFETY: the functions are those of the process's level, which the processor has; all rows and all
        // columns lie in their slices, of which one is borrowed exclusively.
        unsafe { (self.transpose)(from.as_ptr(), from_stride, to.as_mut_ptr(), to_stride, len) }
    }

    /// Sets `out`, whole runs of a row from one on, to the elements of a weight.
    pub(super) fn decode(&self, weight: &FourBit<'_>, row: usize, col: usize, out: &mut [f32]) {
        // SAFETY: the functions are those of the process's level, which the processor has.
        unsafe { (self.decode)(weight, row, col, out) }
    }

    /// `sums [m, outputs]`: products of few rows `[m, k]` with as many outputs, from the `first` on. `absmax` is
    /// scratch.
    pub(super) fn multiply_few(
        &self,
        weight: &Runs<'_>,
        first: usize,
        x: (&[f32], usize),
        absmax: &mut Vec<f32>,
        sums: &mut [f32],
    ) {
        // SAFETY: the functions are those of the process's level, which the processor has.
        unsafe { (self.multiply_few)(weight, first, x, absmax, sums) }
    }

    /// Cuts columns into pieces for one kernel each, of whole vectors, none much narrower than another.
    pub(super) fn slivers(&self, cols: usize) -> impl Iterator<Item = Sliver> + use<> {
        let vectors = cols.div_ceil(self.lanes);
        let pieces = vectors.div_ceil(self.vectors).max(1);
        let lanes = self.lanes;
        (0..pieces).map(move |i| {
            let [first, end] = [i, i + 1].map(|i| i * vectors / pieces);
            Sliver { col: first * lanes, vectors: end - first, width: (end - first) * lanes }
        })
    }

    /// Columns rounded up to whole vectors.
    pub(super) const fn padded(&self, cols: usize) -> usize {
        cols.next_multiple_of(self.lanes)
    }
}

/// Columns of one kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sliver {
    pub(super) col: usize,
    pub(super) vectors: usize,
    /// Elements of them.
    pub(super) width: usize,
}

/// Safety: as [`Kernel`], inlined into a function that is compiled for the instruction set of `V`.
#[inline(always)]
unsafe fn kernel<V: Vector, const M: usize, const N: usize, const CONTIGUOUS: bool>(
    operands: Operands,
) {
    /// Steps of the depth between changes of the pointers, of which there may be one for each row.
    const UNROLL: usize = 4;
    let Operands { depth, mut left, left_stride, mut right, right_stride, .. } = operands;
    let left_step = if CONTIGUOUS { 1 } else { left_stride };
    // SAFETY: steps stay below the depth, to whose end both sides can be read.
    unsafe {
        let mut sums = [[V::splat(0.0); N]; M];
        for _ in 0..depth / UNROLL {
            for i in 0..UNROLL {
                let (left, right) = (left.add(i * left_step), right.add(i * right_stride));
                step::<V, M, N, CONTIGUOUS>(&mut sums, left, left_stride, right);
            }
            left = left.add(UNROLL * left_step);
            right = right.add(UNROLL * right_stride);
        }
        for _ in 0..depth % UNROLL {
            step::<V, M, N, CONTIGUOUS>(&mut sums, left, left_stride, right);
            left = left.add(left_step);
            right = right.add(right_stride);
        }
        finish(&sums, operands);
    }
}

/// One step of the depth. Safety: as [`kernel`].
#[inline(always)]
unsafe fn step<V: Vector, const M: usize, const N: usize, const CONTIGUOUS: bool>(
    sums: &mut [[V; N]; M],
    left: *const f32,
    left_stride: usize,
    right: *const f32,
) {
    // SAFETY: the step has a value of each row and N vectors.
    unsafe {
        let mut vectors = [V::splat(0.0); N];
        for (j, vector) in vectors.iter_mut().enumerate() {
            *vector = V::load(right.add(j * V::LANES));
        }
        for (i, sums) in sums.iter_mut().enumerate() {
            let x = V::splat(*left.add(if CONTIGUOUS { i * left_stride } else { i }));
            for (sum, vector) in sums.iter_mut().zip(vectors) {
                *sum = x.mul_add(vector, *sum);
            }
        }
    }
}

/// Safety: as [`kernel`].
#[inline(always)]
unsafe fn finish<V: Vector, const M: usize, const N: usize>(
    sums: &[[V; N]; M],
    operands: Operands,
) {
    let Operands { out, out_stride, keep, alpha, .. } = operands;
    // SAFETY: the output has M rows of N vectors.
    unsafe {
        let alpha = V::splat(alpha);
        for (i, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                let out = out.add(i * out_stride + j * V::LANES);
                let before = if keep { V::load(out) } else { V::splat(0.0) };
                sum.mul_add(alpha, before).store(out);
            }
        }
    }
}

/// Safety: as [`Transpose`], inlined into a function that is compiled for the instruction set of `V`.
#[inline(always)]
unsafe fn transpose<V: Vector>(
    from: *const f32,
    from_stride: usize,
    to: *mut f32,
    to_stride: usize,
    len: usize,
) {
    let whole = len / V::LANES * V::LANES;
    for col in (0..whole).step_by(V::LANES) {
        // SAFETY: the block lies in both.
        unsafe { V::transpose(from.add(col), from_stride, to.add(col * to_stride), to_stride) };
    }
    for (row, col) in (0..V::LANES).flat_map(|row| (whole..len).map(move |col| (row, col))) {
        // SAFETY: the element lies in both.
        unsafe { *to.add(col * to_stride + row) = *from.add(row * from_stride + col) };
    }
}

/// Safety: as [`Decode`], inlined into a function that is compiled for the instruction set of `V`.
#[inline(always)]
unsafe fn decode<V: Vector>(weight: &FourBit<'_>, row: usize, col: usize, out: &mut [f32]) {
    let (runs, rest) = out.as_chunks_mut::<RUN>();
    assert!(rest.is_empty(), "no whole runs");
    for (i, out) in runs.iter_mut().enumerate() {
        let (codes, absmax) = weight.run(row, col + i * RUN);
        // SAFETY: `out` has as many elements as a run.
        unsafe {
            let absmax = V::splat(absmax);
            let values = V::look_up(codes, weight.codebook());
            for (i, values) in values.as_ref().iter().enumerate() {
                values.mul(absmax).store(out.as_mut_ptr().add(i * V::LANES));
            }
        }
    }
}

/// The micro-kernels of an instruction set, all of `$vector`s, for each number of rows and of vectors.
macro_rules! kernels {
    ($name:ident, $vector:ty, [$($rows:literal)*], $most:literal, $($feature:literal)?) => {
        mod $name {
            #[allow(clippy::wildcard_imports, reason = "those of the instruction set")]
            use super::*;

            pub(super) static KERNELS: Kernels = Kernels {
                rows: [$($rows),*].len(),
                lanes: <$vector as Vector>::LANES,
                vectors: $most,
                of_rows: &[$(of_rows::<$rows>()),*],
                transpose,
                decode,
                multiply_few,
            };

            const fn of_rows<const M: usize>() -> OfRows {
                // Never asked for more vectors than there are registers for.
                [
                    [run::<M, 1, false>, run::<M, 1, true>],
                    [run::<M, 2, false>, run::<M, 2, true>],
                    [run::<M, $most, false>, run::<M, $most, true>],
                ]
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn run<const M: usize, const N: usize, const CONTIGUOUS: bool>(operands: Operands) {
                // SAFETY: by the caller's contract.
                unsafe { kernel::<$vector, M, N, CONTIGUOUS>(operands) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn decode(weight: &FourBit<'_>, row: usize, col: usize, out: &mut [f32]) {
                // SAFETY: by the caller's contract.
                unsafe { super::decode::<$vector>(weight, row, col, out) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn multiply_few(
                weight: &Runs<'_>,
                first: usize,
                x: (&[f32], usize),
                absmax: &mut Vec<f32>,
                sums: &mut [f32],
            ) {
                // SAFETY: by the caller's contract.
                unsafe { few::multiply::<$vector>(weight, first, x, absmax, sums) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn transpose(
                from: *const f32,
                from_stride: usize,
                to: *mut f32,
                to_stride: usize,
                len: usize,
            ) {
                // SAFETY: by the caller's contract.
                unsafe { super::transpose::<$vector>(from, from_stride, to, to_stride, len) }
            }
        }
    };
}

// Of the processor's registers one holds a value of the left side, `vectors` those of the right, and the
// rest sums. 8 x 48 was as fast as 9 x 48 and faster than 12 x 32 and 14 x 32, whose rows need more
// pointers than there are registers.
#[cfg(target_arch = "x86_64")]
kernels!(avx512, std::arch::x86_64::__m512, [1 2 3 4 5 6 7 8], 3, "avx512f");
#[cfg(target_arch = "x86_64")]
kernels!(avx2, std::arch::x86_64::__m256, [1 2 3 4 5 6], 2, "avx2,fma");
#[cfg(target_arch = "aarch64")]
kernels!(neon, std::arch::aarch64::float32x4_t, [1 2 3 4 5 6 7 8], 3, "neon");
kernels!(portable, Portable, [1 2 3 4], 2,);
