//! Products of matrices that stay in the cache, by one thread.

#![allow(unsafe_code)]

use std::arch::x86_64::__m512i;

use half::bf16;

use super::dense::{Dense, Straight, Transposed};
use super::fill::Source;
use super::tile::{self, BLOCK, Left, STEP, Segment, Sums, Tiles};
use crate::cpu::lines::Lines;

impl Lines {
    pub(super) fn registers(&mut self, len: usize) -> &mut [__m512i] {
        let lines = self.lines(len);
        // SAFETY: both are 64 bytes of plain bits, and scratch starts at a cache line; the borrow passes over.
        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), len) }
    }

    fn as_registers(&self) -> &[__m512i] {
        let lines = self.as_lines();
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len()) }
    }
}

/// A right operand in the order of the tiles.
#[derive(Debug, Default)]
pub(in crate::cpu) struct Panel {
    registers: Lines,
    steps: usize,
    pairs: usize,
}

/// `rows` rows of `cols` values, `stride` values apart; `cols` is a multiple of 32.
#[derive(Debug, Clone, Copy)]
pub(in crate::cpu) struct Values<'a> {
    pub(in crate::cpu) data: &'a [bf16],
    pub(in crate::cpu) rows: usize,
    pub(in crate::cpu) cols: usize,
    pub(in crate::cpu) stride: usize,
}

impl<'a> Values<'a> {
    fn dense(self) -> Dense<'a> {
        Dense::strided(self.data, self.rows, self.cols, self.stride)
    }
}

impl Panel {
    /// The transpose: depth runs along the rows. Columns are filled up with zeros to a multiple of 32.
    pub(in crate::cpu) fn set_transposed(&mut self, values: Values<'_>) {
        self.fill(&Transposed(values.dense()), values.rows, values.cols);
    }

    /// As it is: depth runs over the rows, and is filled up with zeros to a multiple of 32.
    pub(in crate::cpu) fn set(&mut self, values: Values<'_>) {
        let source = Straight(values.dense());
        self.fill(&source, values.cols, values.rows);
    }

    fn fill(&mut self, source: &dyn Source, cols: usize, depth: usize) {
        self.steps = depth.div_ceil(STEP);
        self.pairs = cols.div_ceil(BLOCK);
        let registers = self.registers.registers(self.pairs * self.steps * STEP);
        source.fill(registers, 0..self.pairs * BLOCK, 0..self.steps);
    }

    fn pair(&self, pair: usize) -> *const u8 {
        self.registers.as_registers()[pair * self.steps * STEP..][..self.steps * STEP]
            .as_ptr()
            .cast()
    }
}

/// `out [rows, cols] = [out +] left . right`, where `left` has as many columns as `right` is deep, and
/// `rows` is a multiple of 32, as `cols` of the panel are.
pub(in crate::cpu) fn product(left: &[bf16], right: &Panel, out: &mut [f32], accumulate: bool) {
    let (steps, cols) = (right.steps, right.pairs * BLOCK);
    let depth = steps * STEP;
    let rows = left.len() / depth;
    assert!(rows.is_multiple_of(BLOCK) && rows * depth == left.len(), "no whole tiles");
    assert!(rows * cols == out.len(), "operands differ in shape");
    let tiles = Tiles::configure();
    for (left, out) in left.chunks_exact(BLOCK * depth).zip(out.chunks_exact_mut(BLOCK * cols)) {
        let left = Left { first: left.as_ptr().cast(), row: 2 * depth, step: 2 * STEP };
        for pair in 0..right.pairs {
            let segment = Segment { left, right: right.pair(pair), steps };
            let from = accumulate.then(|| Sums::within(out, cols, pair * BLOCK));
            let to = Sums::within(out, cols, pair * BLOCK);
            // SAFETY: `left` is 32 rows of `steps` steps, and the panel's pair 2048 bytes for each of
            // them; `out` stays borrowed.
            unsafe { tile::multiply::<true>(&tiles, &[segment], from, to) }
        }
    }
}
