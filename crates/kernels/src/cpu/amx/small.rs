//! Products of matrices that stay in the cache, by one thread.

#![allow(unsafe_code)]

use std::arch::x86_64::__m512i;

use half::bf16;

use super::dense::{Dense, Straight, Transposed};
use super::fill::Source;
use super::tile::{self, BLOCK, Left, STEP, Segment, Sums, Tiles};
use crate::cpu::lines::Lines;
use crate::cpu::simd::simd;

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

    /// Words of the tiles: `[pair of 16 columns][step][2][depth / 2][16 columns][2]`.
    fn words(&self) -> &[[bf16; STEP]] {
        let words = bytemuck::cast_slice::<_, [bf16; STEP]>(self.registers.as_lines());
        &words[..self.pairs * self.steps * STEP]
    }

    fn pair(&self, pair: usize) -> *const u8 {
        self.registers.as_registers()[pair * self.steps * STEP..][..self.steps * STEP]
            .as_ptr()
            .cast()
    }
}

/// `out [rows, cols] = [out +] left . right`, where `left` has as many columns as `right` is deep, and
/// `rows` is a multiple of 32, as `cols` of the panel are.
pub(in crate::cpu) fn product(
    tiles: &Tiles,
    left: Values<'_>,
    right: &Panel,
    out: &mut [f32],
    accumulate: bool,
) {
    let (steps, cols) = (right.steps, right.pairs * BLOCK);
    let Values { data, rows, cols: depth, stride } = left;
    assert!(depth == steps * STEP, "operands differ in depth");
    assert!(rows.is_multiple_of(BLOCK) && rows * cols == out.len(), "no whole tiles");
    assert!(rows == 0 || (rows - 1) * stride + depth <= data.len(), "rows end too early");
    for (block, out) in out.chunks_exact_mut(BLOCK * cols).enumerate() {
        let first = data[block * BLOCK * stride..].as_ptr().cast();
        let left = Left { first, row: 2 * stride, step: 2 * STEP };
        for pair in 0..right.pairs {
            let segment = Segment { left, right: right.pair(pair), steps };
            let from = accumulate.then(|| Sums::within(out, cols, pair * BLOCK));
            let to = Sums::within(out, cols, pair * BLOCK);
            // SAFETY: `left` is 32 rows of `steps` steps, and the panel's pair 2048 bytes for each of
            // them; `out` stays borrowed.
            unsafe { tile::multiply::<true>(tiles, &[segment], from, to) }
        }
    }
}

/// `out [cols, rows]` of `values`, its rows filled up with zeros to a multiple of 32.
pub(in crate::cpu) fn transpose(values: Values<'_>, scratch: &mut Panel, out: &mut [bf16]) {
    scratch.set_transposed(values);
    let rows = values.rows.next_multiple_of(BLOCK);
    let tiles = scratch.words().as_chunks::<16>().0.as_chunks::<2>().0;
    simd!(for (i, [left, right]) in tiles.iter().enumerate() {
        let (pair, step) = (i / scratch.steps, i % scratch.steps);
        for (depth, (left, right)) in left.iter().zip(right).enumerate() {
            for odd in 0..2 {
                let start = (step * STEP + 2 * depth + odd) * rows + pair * BLOCK;
                let out = out[start..].first_chunk_mut::<BLOCK>().expect("whole blocks");
                for column in 0..16 {
                    out[column] = left[2 * column + odd];
                    out[16 + column] = right[2 * column + odd];
                }
            }
        }
    });
}

/// `out [cols, rows]` of `x [rows, cols]`, both multiples of 32.
pub(in crate::cpu) fn transpose_f32(x: &[f32], cols: usize, scratch: &mut Panel, out: &mut [f32]) {
    let rows = x.len() / cols;
    // As far as the tiles go, an f32 is two neighbours in a row.
    let data = bytemuck::cast_slice(x);
    scratch.set_transposed(Values { data, rows, cols: 2 * cols, stride: 2 * cols });
    let words: &[[f32; 16]] = bytemuck::cast_slice(scratch.words());
    let tiles = words.as_chunks::<16>().0.as_chunks::<2>().0;
    for (i, halves) in tiles.iter().enumerate() {
        let (pair, step) = (i / scratch.steps, i % scratch.steps);
        for (half, tile) in halves.iter().enumerate() {
            for (column, values) in tile.iter().enumerate() {
                let start = (step * 16 + column) * rows + pair * BLOCK + half * 16;
                out[start..start + 16].copy_from_slice(values);
            }
        }
    }
}
