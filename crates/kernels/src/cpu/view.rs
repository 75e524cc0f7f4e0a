//! Views of float buffers: f32 as it is, bf16 widened and rounded at the edges of an operation.
//!
//! What is `#[inline(always)]` here belongs inside a `simd!`; the rest holds its own.

#![expect(
    clippy::inline_always,
    reason = "a loop is compiled for the instruction set of the function it is inlined into"
)]

use std::ops::Range;

use half::bf16;

use super::blocks::{BLOCK, Block};
use super::prefetch;
use super::simd::simd;

/// Float operand.
#[derive(Debug, Clone, Copy)]
pub(super) enum FloatRef<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

/// Float result.
#[derive(Debug)]
pub(super) enum FloatMut<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
}

impl<'a> FloatRef<'a> {
    pub(super) const fn len(self) -> usize {
        match self {
            Self::F32(x) => x.len(),
            Self::Bf16(x) => x.len(),
        }
    }

    #[inline]
    pub(super) fn slice(self, range: Range<usize>) -> Self {
        match self {
            Self::F32(x) => Self::F32(&x[range]),
            Self::Bf16(x) => Self::Bf16(&x[range]),
        }
    }

    /// Begins to bring the elements from memory.
    #[inline(always)]
    pub(super) fn prefetch(self) {
        match self {
            Self::F32(x) => prefetch::to_read(x),
            Self::Bf16(x) => prefetch::to_read(x),
        }
    }

    /// The elements, at most [`BLOCK`], in f32; what follows them in a short block is unspecified.
    #[inline(always)]
    pub(super) fn block<'s>(self, wide: &'s mut Block) -> &'s Block
    where
        'a: 's,
    {
        match self {
            Self::F32(x) => match x.as_array() {
                Some(x) => return x,
                None => wide[..x.len()].copy_from_slice(x),
            },
            Self::Bf16(x) => match x.as_array::<BLOCK>() {
                Some(x) => widen_each(x, wide),
                None => widen_each(x, &mut wide[..x.len()]),
            },
        }
        wide
    }

    /// Row `index` of `cols` elements in f32, while the next one is on its way. `wide`, which is as
    /// long, is used only where they are not f32 already.
    #[inline(always)]
    pub(super) fn row<'s>(self, index: usize, cols: usize, wide: &'s mut [f32]) -> &'s [f32]
    where
        'a: 's,
    {
        self.chunk(index + 1, cols).prefetch();
        match self.chunk(index, cols) {
            Self::F32(x) => x,
            Self::Bf16(x) => {
                widen_each(x, wide);
                wide
            }
        }
    }

    /// The elements in f32; `scratch` is used only where they are not f32 already.
    pub(super) fn widen<'s>(self, scratch: &'s mut Vec<f32>) -> &'s [f32]
    where
        'a: 's,
    {
        match self {
            Self::F32(x) => x,
            Self::Bf16(x) => {
                let scratch = sized(scratch, x.len());
                widen_slice(x, scratch);
                scratch
            }
        }
    }

    /// Copies the elements to `out` in f32.
    pub(super) fn widen_into(self, out: &mut [f32]) {
        match self {
            Self::F32(x) => out.copy_from_slice(x),
            Self::Bf16(x) => widen_slice(x, out),
        }
    }

    /// Copies the elements to `out` in its type.
    pub(super) fn convert_into(self, out: FloatMut<'_>) {
        match (self, out) {
            (x, FloatMut::F32(out)) => x.widen_into(out),
            (Self::F32(x), FloatMut::Bf16(out)) => narrow_slice(x, out),
            (Self::Bf16(x), FloatMut::Bf16(out)) => out.copy_from_slice(x),
        }
    }

    /// Pieces of `len` elements, the last one maybe shorter; empty beyond it.
    pub(super) fn chunk(self, index: usize, len: usize) -> Self {
        let start = (index * len).min(self.len());
        self.slice(start..(start + len).min(self.len()))
    }
}

impl<'a> FloatMut<'a> {
    pub(super) const fn len(&self) -> usize {
        match self {
            Self::F32(x) => x.len(),
            Self::Bf16(x) => x.len(),
        }
    }

    #[inline]
    pub(super) fn slice_mut(&mut self, range: Range<usize>) -> FloatMut<'_> {
        match self {
            Self::F32(x) => FloatMut::F32(&mut x[range]),
            Self::Bf16(x) => FloatMut::Bf16(&mut x[range]),
        }
    }

    /// Begins to bring the elements from memory.
    #[inline(always)]
    pub(super) fn prefetch(&self) {
        match self {
            Self::F32(x) => prefetch::to_write(x),
            Self::Bf16(x) => prefetch::to_write(x),
        }
    }

    /// Cuts off the first row, of `cols` elements, while the next one is on its way.
    #[inline(always)]
    pub(super) fn next_row(&mut self, cols: usize) -> Self {
        let row = self.split_off_front(cols);
        self.slice_mut(0..cols.min(self.len())).prefetch();
        row
    }

    /// Overwrites a row with what `f` leaves in the f32 slice it is given; `wide` is as long.
    #[inline(always)]
    pub(super) fn write_row(self, wide: &mut [f32], f: impl FnOnce(&mut [f32])) {
        match self {
            Self::F32(x) => f(x),
            Self::Bf16(x) => {
                f(wide);
                narrow_each(wide, x);
            }
        }
    }

    /// As [`write_row`](Self::write_row), but `f` finds the old elements in the slice.
    #[inline(always)]
    pub(super) fn update_row(self, wide: &mut [f32], f: impl FnOnce(&mut [f32])) {
        match self {
            Self::F32(x) => f(x),
            Self::Bf16(x) => {
                widen_each(x, wide);
                f(wide);
                narrow_each(wide, x);
            }
        }
    }

    /// Stores f32 values, each rounded once to nearest even.
    #[inline(always)]
    pub(super) fn put(self, values: &[f32]) {
        match self {
            Self::F32(x) => x.copy_from_slice(values),
            Self::Bf16(x) => narrow_each(values, x),
        }
    }

    #[inline(always)]
    pub(super) fn reborrow(&mut self) -> FloatMut<'_> {
        match self {
            Self::F32(x) => FloatMut::F32(x),
            Self::Bf16(x) => FloatMut::Bf16(x),
        }
    }

    /// Cuts off the first `len` elements.
    pub(super) fn split_off_front(&mut self, len: usize) -> Self {
        match self {
            Self::F32(x) => Self::F32(x.split_off_mut(..len).expect("len is within the slice")),
            Self::Bf16(x) => Self::Bf16(x.split_off_mut(..len).expect("len is within the slice")),
        }
    }

    /// Consecutive pieces of the given lengths.
    pub(super) fn split(mut self, lens: impl IntoIterator<Item = usize>) -> Vec<FloatMut<'a>> {
        lens.into_iter().map(|len| self.split_off_front(len)).collect()
    }

    /// Pieces of `len` elements, the last one maybe shorter.
    pub(super) fn chunks(self, len: usize) -> Vec<FloatMut<'a>> {
        let total = self.len();
        self.split((0..total).step_by(len.max(1)).map(|start| len.min(total - start)))
    }

    /// Gives all elements to `f` in f32 and takes what it leaves.
    pub(super) fn update(self, scratch: &mut Vec<f32>, f: impl FnOnce(&mut [f32])) {
        match self {
            Self::F32(x) => f(x),
            Self::Bf16(x) => {
                let wide = sized(scratch, x.len());
                widen_slice(x, wide);
                f(wide);
                narrow_slice(wide, x);
            }
        }
    }

    /// Stores f32 values, each rounded once to nearest even.
    pub(super) fn store(&mut self, values: &[f32]) {
        match self {
            Self::F32(x) => x.copy_from_slice(values),
            Self::Bf16(x) => narrow_slice(values, x),
        }
    }

    #[inline(always)]
    pub(super) fn as_ref(&self) -> FloatRef<'_> {
        match self {
            Self::F32(x) => FloatRef::F32(x),
            Self::Bf16(x) => FloatRef::Bf16(x),
        }
    }
}

/// The first `len` elements of a scratch vector that grows as needed; content unspecified.
pub(super) fn sized(scratch: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if scratch.len() < len {
        scratch.resize(len, 0.0);
    }
    &mut scratch[..len]
}

fn widen_slice(x: &[bf16], out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    simd!(widen_each(x, out));
}

fn narrow_slice(x: &[f32], out: &mut [bf16]) {
    assert_eq!(x.len(), out.len());
    simd!(narrow_each(x, out));
}

#[inline(always)]
fn widen_each(x: &[bf16], out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = f32::from_bits(u32::from(x.to_bits()) << 16);
    }
}

#[inline(always)]
fn narrow_each(x: &[f32], out: &mut [bf16]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = narrow(*x);
    }
}

/// Nearest even, without branches so that the loop over it vectorises.
#[inline(always)]
pub(super) fn narrow(x: f32) -> bf16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let quiet_nan = bits >> 16 | 0x40;
    bf16::from_bits(if x.is_nan() { quiet_nan } else { rounded } as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_is_what_half_does() {
        let edge = [0.0, -0.0, f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        let all = (0..=u32::MAX).step_by(65_521).map(f32::from_bits).chain(edge);
        // Ties: exactly half a unit, on even and odd mantissas.
        let ties = (0..=u16::MAX).map(|high| f32::from_bits(u32::from(high) << 16 | 0x8000));
        for x in all.chain(ties) {
            assert_eq!(narrow(x).to_bits(), bf16::from_f32(x).to_bits(), "{x}");
        }
    }
}
