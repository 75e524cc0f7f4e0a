//! Products of matrices that stay in the cache, by one thread.

#![allow(unsafe_code)]

use std::arch::x86_64::{__m512i, _mm512_permutexvar_epi16};
use std::mem::transmute;
use std::ops::Range;
use std::ptr;

use half::bf16;

use super::dense::{Dense, Straight, Transposed};
use super::fill::{Source, TILE};
use super::tile::{self, BLOCK, Left, STEP, Segment, Sums, Tiles};
use crate::cpu::lines::Lines;
use crate::cpu::simd::simd;

impl Lines {
    pub(super) fn registers(&mut self, len: usize) -> &mut [__m512i] {
        let lines = self.lines(len);
        // SAFETY: both are 64 bytes of plain bits, and scratch starts at a cache line; the borrow passes over.
        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), len) }
    }

    /// All that was asked for at any time.
    fn registers_mut(&mut self) -> &mut [__m512i] {
        let lines = self.as_lines_mut();
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len()) }
    }

    fn as_registers(&self) -> &[__m512i] {
        let lines = self.as_lines();
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len()) }
    }
}

/// Words of two halves in turns.
pub(super) const TURNS: [u16; STEP] = {
    let mut index = [0; STEP];
    let mut i = 0;
    while i < STEP {
        index[i] = (i / 2 + i % 2 * TILE) as u16;
        i += 1;
    }
    index
};

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

    /// Prepares for [`set_pair`](Self::set_pair) of every pair of depths; `cols` and `depth` are multiples of 32.
    pub(in crate::cpu) fn begin(&mut self, cols: usize, depth: usize) {
        self.steps = depth / STEP;
        self.pairs = cols / BLOCK;
        self.registers.registers(self.pairs * self.steps * STEP);
    }

    /// Sets 16 columns, the `group`th, of depths `2 * pair` and `2 * pair + 1` of a step to the two halves of
    /// `values`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn set_pair(&mut self, group: usize, step: usize, pair: usize, values: __m512i) {
        let at = ((group / 2 * self.steps + step) * 2 + group % 2) * TILE + pair;
        let turned = self.registers.registers_mut();
        // SAFETY: both are 64 bytes of plain bits.
        let turns = unsafe { transmute::<[u16; STEP], __m512i>(TURNS) };
        turned[at] = _mm512_permutexvar_epi16(turns, values);
    }

    /// Words of the tiles: `[pair of 16 columns][step][2][depth / 2][16 columns][2]`.
    fn words(&self) -> &[[bf16; STEP]] {
        let words = bytemuck::cast_slice::<_, [bf16; STEP]>(self.registers.as_lines());
        &words[..self.pairs * self.steps * STEP]
    }

    /// Columns, with those that fill up.
    pub(in crate::cpu) const fn width(&self) -> usize {
        self.pairs * BLOCK
    }

    /// Some columns, from a depth on: multiples of 32.
    pub(in crate::cpu) const fn part(&self, cols: Range<usize>, depth: usize) -> Right<'_> {
        Right { panel: self, cols, depth }
    }

    /// A pair of columns of tiles, from a step on.
    fn pair(&self, pair: usize, step: usize) -> *const u8 {
        let registers = &self.registers.as_registers()[pair * self.steps * STEP..];
        registers[step * STEP..self.steps * STEP].as_ptr().cast()
    }
}

/// Part of a panel: some columns, and the depth from some on. All are multiples of 32.
#[derive(Debug, Clone)]
pub(in crate::cpu) struct Right<'a> {
    pub(in crate::cpu) panel: &'a Panel,
    pub(in crate::cpu) cols: Range<usize>,
    pub(in crate::cpu) depth: usize,
}

/// Copies rows that lie apart, one after the other, then zeros.
pub(in crate::cpu) fn gather_rows(rows: Values<'_>, out: &mut [bf16]) {
    #[target_feature(enable = "avx512f")]
    fn gather(rows: Values<'_>, out: &mut [bf16]) {
        let Values { data, rows, cols, stride } = rows;
        let (out, rest) = out.split_at_mut(rows * cols);
        for (row, out) in out.chunks_exact_mut(cols).enumerate() {
            let row = data[row * stride..][..cols].as_chunks::<STEP>().0;
            for (from, to) in row.iter().zip(out.as_chunks_mut::<STEP>().0) {
                *to = *from;
            }
        }
        rest.fill(bf16::ZERO);
    }
    assert!(super::available() && rows.cols.is_multiple_of(STEP));
    // SAFETY: a processor with the tiles has all features that are enabled.
    unsafe { gather(rows, out) }
}

/// Columns `col..` of sums `[rows, width]`; a multiple of 32, as `width` is.
#[derive(Debug)]
pub(in crate::cpu) struct Out<'a> {
    pub(in crate::cpu) sums: &'a mut [f32],
    pub(in crate::cpu) width: usize,
    pub(in crate::cpu) col: usize,
    /// Whether to add to them.
    pub(in crate::cpu) add: bool,
}

/// `out = [out +] left . right`. `left` is as deep as is to be multiplied, and has a multiple of 32 rows.
pub(in crate::cpu) fn product(tiles: &Tiles, left: Values<'_>, right: &Right<'_>, out: Out<'_>) {
    product_of_parts(tiles, left, right, (1, 0), out);
}

/// As [`product`], summed over `count` parts of both sides, each `apart` deeper than the one before; `left` has the
/// depth of one.
pub(in crate::cpu) fn product_of_parts(
    tiles: &Tiles,
    left: Values<'_>,
    right: &Right<'_>,
    (count, apart): (usize, usize),
    out: Out<'_>,
) {
    /// Parts whose sums do not leave the tiles.
    const PARTS: usize = 8;
    let Right { panel, cols, depth } = right;
    let Out { sums, width, col, add } = out;
    let (first, steps, apart) = (depth / STEP, left.cols / STEP, apart / STEP);
    let Values { data, rows, cols: depth, stride } = left;
    let deepest = (count - 1) * apart;
    assert!(steps > 0 && first + deepest + steps <= panel.steps, "more than the panel has");
    assert!(cols.end <= panel.width(), "more columns than the panel has");
    assert!(rows.is_multiple_of(BLOCK) && rows * width == sums.len(), "no whole tiles");
    let end = (rows.max(1) - 1) * stride + deepest * STEP + depth;
    assert!(rows == 0 || end <= data.len(), "rows end too early");
    for (block, sums) in sums.chunks_exact_mut(BLOCK * width).enumerate() {
        for (i, pair) in (cols.start / BLOCK..cols.end / BLOCK).enumerate() {
            for start in (0..count).step_by(PARTS) {
                let parts = start..count.min(start + PARTS);
                let mut segments = [Segment::EMPTY; PARTS];
                for (part, segment) in parts.clone().zip(&mut segments) {
                    let step = part * apart;
                    let left = data[block * BLOCK * stride + step * STEP..].as_ptr().cast();
                    let left = Left { first: left, row: 2 * stride, step: 2 * STEP };
                    let right = panel.pair(pair, first + step);
                    *segment = Segment { left, right, steps, ahead: ptr::null() };
                }
                let mut block = || Sums::within(sums, width, col + i * BLOCK);
                let from = (add || start > 0).then(&mut block);
                let to = block();
                // SAFETY: each left is 32 rows of `steps` steps, and the panel's pair 2048 bytes for each of
                // them; `sums` stays borrowed.
                unsafe { tile::multiply::<true>(tiles, &segments[..parts.len()], from, to) }
            }
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
