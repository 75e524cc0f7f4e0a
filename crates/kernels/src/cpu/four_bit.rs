//! 4-bit weights as panels are filled from them.

use std::array;
use std::ops::Range;

#[cfg(amx)]
use super::prefetch;
use super::weight::CpuQuantizedWeight;

/// Elements that share a scale wherever rows are made of whole runs.
pub(super) const RUN: usize = 64;

/// What codes stand for where absmax is 1.
pub(super) struct Codebook {
    pub(super) values: &'static [f32; 16],
    /// The bytes of all values, from the lowest on.
    pub(super) planes: [[u8; 16]; 4],
}

impl Codebook {
    fn new(values: &'static [f32; 16]) -> Self {
        let byte = |plane: usize| move |value: f32| value.to_le_bytes()[plane];
        Self { values, planes: array::from_fn(|plane| values.map(byte(plane))) }
    }
}

/// A 4-bit weight `[n, k]`.
pub(super) struct FourBit<'a> {
    packed: &'a [u8],
    absmax: &'a nf4::Absmax,
    codebook: Codebook,
    /// Logarithm of the block size.
    shift: u32,
    /// The same of the blocks of absmax, where they are quantised; a division would take longer than
    /// all else that is done with a run.
    nested_shift: u32,
    pub(super) n: usize,
    pub(super) k: usize,
}

/// Most runs that are taken of a row at a time.
#[cfg(amx)]
pub(super) const RUNS: usize = 9;

/// Some runs of a row.
#[cfg(amx)]
#[derive(Clone, Copy)]
pub(super) struct RowRuns<'a> {
    codes: &'a [[u8; RUN / 2]],
    absmax: [f32; RUNS],
}

#[cfg(amx)]
impl RowRuns<'_> {
    /// Packed codes and absmax of one.
    #[expect(clippy::inline_always, reason = "as `run`")]
    #[inline(always)]
    pub(super) fn get(&self, i: usize) -> (&[u8; RUN / 2], f32) {
        (self.codes.get(i).unwrap_or(&[0; RUN / 2]), self.absmax[i])
    }
}

impl<'a> FourBit<'a> {
    /// Nothing where a run of 64 in a row might span two blocks.
    pub(super) fn new(weight: &'a CpuQuantizedWeight, n: usize, k: usize) -> Option<Self> {
        let blocksize = weight.blocksize();
        if k == 0 || !k.is_multiple_of(RUN) || blocksize < RUN || !blocksize.is_power_of_two() {
            return None;
        }
        assert_eq!(weight.numel(), n * k, "the shape was checked");
        let codebook = Codebook::new(weight.quant_type().values());
        let shift = blocksize.ilog2();
        let absmax = weight.absmax();
        let nested = match absmax {
            nf4::Absmax::Plain(_) => 1,
            nf4::Absmax::Nested(nested) => nested.blocksize,
        };
        if !nested.is_power_of_two() {
            return None;
        }
        let nested_shift = nested.ilog2();
        Some(Self { packed: weight.packed(), absmax, codebook, shift, nested_shift, n, k })
    }

    pub(super) const fn codebook(&self) -> &Codebook {
        &self.codebook
    }

    /// Packed codes and absmax of the 64 elements of a row from `col` on; zeros beyond the last row.
    // A call would cost as much as what is done with the run.
    #[inline(always)]
    pub(super) fn run(&self, row: usize, col: usize) -> (&[u8; 32], f32) {
        const NONE: &[u8; 32] = &[0; 32];
        if row >= self.n {
            return (NONE, 0.0);
        }
        let first = row * self.k + col;
        let packed = self.packed[first / 2..].first_chunk().expect("a row is made of whole runs");
        (packed, self.absmax_of(first >> self.shift))
    }

    #[expect(clippy::inline_always, reason = "part of `run`")]
    #[inline(always)]
    fn absmax_of(&self, block: usize) -> f32 {
        match self.absmax {
            nf4::Absmax::Plain(absmax) => absmax[block],
            nf4::Absmax::Nested(nested) => {
                let code = usize::from(nested.codes[block]);
                nested.map[code] * nested.absmax[block >> self.nested_shift] + nested.offset
            }
        }
    }

    /// Runs of a row from `col` on, at most [`RUNS`]; zeros beyond the last row.
    #[cfg(amx)]
    #[expect(clippy::inline_always, reason = "as `run`")]
    #[inline(always)]
    pub(super) fn row(&self, row: usize, cols: Range<usize>) -> RowRuns<'a> {
        if row >= self.n {
            return RowRuns { codes: &[], absmax: [0.0; RUNS] };
        }
        let runs = (row * self.k + cols.start) / RUN..(row * self.k + cols.end) / RUN;
        let mut absmax = [0.0; RUNS];
        self.absmax(runs.start, &mut absmax[..runs.len()]);
        RowRuns { codes: self.codes(runs), absmax }
    }

    /// Packed codes of some runs of the weight.
    #[expect(clippy::inline_always, reason = "as `run`")]
    #[inline(always)]
    pub(super) fn codes(&self, runs: Range<usize>) -> &'a [[u8; RUN / 2]] {
        &self.packed.as_chunks().0[runs]
    }

    /// Absmax of runs of the weight, from the `first` on.
    #[expect(clippy::inline_always, reason = "as `run`")]
    #[inline(always)]
    pub(super) fn absmax(&self, first: usize, out: &mut [f32]) {
        let nested = match self.absmax {
            nf4::Absmax::Nested(nested) if self.shift == RUN.ilog2() => nested,
            _ => {
                for (run, out) in (first..).zip(out) {
                    *out = self.absmax_of((run * RUN) >> self.shift);
                }
                return;
            }
        };
        // Runs are blocks; those of one block of absmax at a time.
        let (mut first, mut rest) = (first, out);
        while !rest.is_empty() {
            let nest = first >> self.nested_shift;
            let count = rest.len().min(((nest + 1) << self.nested_shift) - first);
            let (out, more) = rest.split_at_mut(count);
            for (out, code) in out.iter_mut().zip(&nested.codes[first..first + count]) {
                *out = nested.map[usize::from(*code)];
            }
            // Apart, as there are vectors for it.
            let factor = nested.absmax[nest];
            for out in out {
                *out = *out * factor + nested.offset;
            }
            (first, rest) = (first + count, more);
        }
    }

    /// Fetches codes of a row that will be needed soon; none beyond the last row.
    #[cfg(amx)]
    #[inline]
    pub(super) fn prefetch(&self, row: usize, cols: Range<usize>) {
        let first = row * self.k / 2;
        let codes = first + cols.start / 2..first + cols.end / 2;
        prefetch::to_read(self.packed.get(codes).unwrap_or(&[]));
    }
}
