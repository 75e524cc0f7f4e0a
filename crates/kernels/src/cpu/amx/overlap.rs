//! Rows of sums that are rounded and stored while the next ones are multiplied.
//!
//! The matrix unit waits for whatever stands between two products, and falls asleep: storing 32 rows of 256 columns takes
//! 15 to 30 ticks a step of products that are 576 deep and take 60 alone. So each step of the tile loop brings two lines
//! of the rows before.
//!
//! Products of `SmolLM2`'s shapes take 2 to 5 % less, 20 % of 256 rows and 576 x 576; a training step of 4 x 256 tokens,
//! whose outputs go to memory, the same. Rejected: storing each block of 32 x 32 while the next is multiplied, from L1:
//! 2 to 7 % less of the products, and 10 % more of the step, for memory takes lines of different rows at 29 GB/s and
//! pieces of rows at 48.

#![allow(unsafe_code)]

use std::{mem, ptr};

use half::bf16;

use super::lanes::LINE;
use super::store::store_line;
use super::tile::{self, BLOCK, Segment, Sums, Tiles};

/// Where 32 rows of whole cache lines are stored.
#[derive(Debug, Clone, Copy)]
pub(in crate::cpu) struct Place {
    first: *mut bf16,
    /// Bytes from row to row.
    stride: usize,
    past_caches: bool,
}

impl Place {
    /// From `first` on, with rows `stride` elements apart; past the caches if that is asked for and rows begin with a
    /// cache line.
    pub(in crate::cpu) fn new(first: *mut bf16, stride: usize, past_caches: bool) -> Self {
        let stride = stride * size_of::<bf16>();
        let lines = [first.addr(), stride].iter().all(|bytes| bytes.is_multiple_of(2 * LINE));
        Self { first, stride, past_caches: past_caches && lines }
    }
}

/// Lines of rows that are not stored yet.
#[derive(Debug)]
pub(super) struct Unstored {
    /// Of all rows, one after the other.
    pub(super) sums: *const f32,
    pub(super) out: *mut bf16,
    /// Lines that are left of the row.
    pub(super) lines: usize,
    pub(super) past_caches: bool,
    /// Rows that are left, with this one.
    rows: usize,
    /// Lines of a row.
    width: usize,
    /// Bytes from row to row of `out`.
    stride: usize,
}

impl Unstored {
    const NONE: Self = Self {
        sums: ptr::null(),
        out: ptr::null_mut(),
        lines: 0,
        past_caches: false,
        rows: 0,
        width: 0,
        stride: 0,
    };

    /// So many more lines of the row are stored.
    pub(super) const fn advance(&mut self, lines: usize) {
        self.sums = self.sums.wrapping_add(lines * LINE);
        self.out = self.out.wrapping_add(lines * LINE);
        self.lines -= lines;
        if self.lines == 0 && self.rows > 1 {
            self.rows -= 1;
            self.lines = self.width;
            self.out = self.out.wrapping_sub(self.width * LINE).wrapping_byte_add(self.stride);
        }
    }

    /// Stores all lines.
    ///
    /// # Safety
    ///
    /// The sums can be read, and the rows of `out` belong to the caller.
    unsafe fn store(&mut self) {
        while self.lines > 0 {
            // SAFETY: by the caller's contract; a product was computed on the tiles.
            unsafe { store_line(&*self.sums.cast(), self.out.cast(), self.past_caches) };
            self.advance(1);
        }
    }
}

/// Stores 32 rows of an output while the next ones are multiplied.
pub(super) struct Overlap<'a> {
    /// Sums `[32, width]` of the next rows, and of those before.
    strips: [&'a mut [f32]; 2],
    width: usize,
    before: Unstored,
}

impl<'a> Overlap<'a> {
    /// Elements of scratch.
    pub(super) const fn scratch(width: usize) -> usize {
        2 * BLOCK * width
    }

    pub(super) fn new(scratch: &'a mut [f32], width: usize) -> Self {
        let (next, before) = scratch.split_at_mut(BLOCK * width);
        Self { strips: [next, before], width, before: Unstored::NONE }
    }

    /// Sums of some columns of the next rows, as [`tile::multiply`] computes them.
    ///
    /// # Safety
    ///
    /// As [`tile::multiply`].
    pub(super) unsafe fn multiply(
        &mut self,
        tiles: &Tiles,
        segments: &[Segment],
        from: Option<Sums>,
        col: usize,
    ) {
        let to = Sums::within(self.strips[0], self.width, col);
        // SAFETY: by the caller's contract, and that of `turn`.
        unsafe { tile::multiply_storing(tiles, segments, from, to, &mut self.before) }
    }

    /// All sums of the next rows are there, to be stored.
    ///
    /// # Safety
    ///
    /// `place` has rows of `width` values, which belong to the caller until after the next call of this or
    /// [`finish`](Self::finish).
    pub(super) unsafe fn turn(&mut self, place: Place) {
        self.finish();
        let Place { first, stride, past_caches } = place;
        let (sums, lines) = (self.strips[0].as_ptr(), self.width / LINE);
        self.before =
            Unstored { sums, out: first, lines, past_caches, rows: BLOCK, width: lines, stride };
        let [next, before] = &mut self.strips;
        mem::swap(next, before);
    }

    /// For sums of rows that are stored by the caller.
    pub(super) fn strip(&mut self) -> &mut [f32] {
        self.strips[0]
    }

    /// Stores what is left.
    pub(super) fn finish(&mut self) {
        // SAFETY: `turn` was told that the place belongs to the caller until now; the sums are those of the strip that
        // is not computed.
        unsafe { self.before.store() }
    }
}
