//! Sums over tokens of ranks times rows: the gradients of an adapter's factors.
//!
//! The rows are the right operand as they lie in memory. Of 16 of them the instruction takes 32 columns for 16 pairs of
//! depths of 16 columns, so that ranks with zeros in every second place multiply the even columns alone, or the odd
//! ones: twice the products that rows in the order of the tiles would need, but putting them in order for 16 ranks takes
//! longer. Ranks are rounded to bf16, as the gradients are that they come from. A value that is not finite spoils its
//! neighbour's sum as well as its own.

#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m512i, _mm512_castps_si512, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_si512,
    _mm512_srli_epi32,
};
use std::array;
use std::cell::RefCell;
use std::mem::transmute;
use std::slice;

use half::bf16;

use super::adapter::SHRINK_ROWS;
use super::lanes::{LANES, LINE, from, line, narrow, widen};
use super::split::{RANKS, sixteen};
use super::tile::{self, Columns, Sums, Tiles};
use super::turn::transpose;
use crate::Result;
use crate::cpu::lines::Lines;
use crate::cpu::simd::simd;
use crate::cpu::{Cpu, F32Scratch};

/// Columns whose sums stay in the tiles while tokens pass.
const COLS: usize = 2 * LINE;
/// Tokens that pass at a time: their rows come one after the other.
const TOKENS: usize = 32;
/// Elements of 16 ranks of 16 tokens: those that meet even columns, then those that meet odd ones.
const PIECE: usize = 2 * RANKS * LINE;
/// Sums of 16 ranks and 64 columns: `[32 columns][even, odd][rank][16 columns]`.
const BLOCK: usize = RANKS * COLS;
/// Most groups of tokens that are summed apart.
const GROUPS: usize = 8;

thread_local! {
    static PIECES: RefCell<Lines> = RefCell::default();
    static LAST: RefCell<Lines> = RefCell::default();
}

/// Tokens of a group: whole tasks of those that multiply them by a factor.
pub(super) fn group(m: usize) -> usize {
    SHRINK_ROWS * m.div_ceil(SHRINK_ROWS * GROUPS)
}

/// Of each group of `m` tokens, and of all: `[r, cols]`.
pub(super) struct TokenSums {
    /// `[group][64 columns][16 ranks]` of blocks.
    sums: F32Scratch,
    r: usize,
    cols: usize,
}

impl TokenSums {
    pub(super) fn alloc(cpu: &Cpu, (m, r, cols): (usize, usize, usize)) -> Result<Self> {
        let len = Self::of_group(r, cols);
        Ok(Self { sums: cpu.scratch(m.div_ceil(group(m)) * len)?, r, cols })
    }

    fn of_group(r: usize, cols: usize) -> usize {
        cols.div_ceil(COLS) * r.div_ceil(RANKS) * BLOCK
    }

    /// Those of each group, for [`add`].
    pub(super) fn groups(&mut self) -> slice::ChunksMut<'_, f32> {
        let len = Self::of_group(self.r, self.cols);
        self.sums.chunks_mut(len)
    }

    /// Sums of all tokens: 64 columns of 16 ranks.
    fn total(&self, block: usize) -> [f32; BLOCK] {
        let mut total = [0.0; BLOCK];
        for group in self.sums.chunks(Self::of_group(self.r, self.cols)) {
            let group = &group[block * BLOCK..][..BLOCK];
            simd!(for (total, x) in total.iter_mut().zip(group) {
                *total += x;
            });
        }
        total
    }

    /// `out [cols, ranks]` of columns from `col` on, a multiple of 64: `out += sums^T`.
    pub(super) fn add_columns(&self, col: usize, out: &mut [f32]) {
        let blocks = self.r.div_ceil(RANKS);
        for (pair, out) in out.chunks_mut(COLS * self.r).enumerate() {
            for block in 0..blocks {
                let total = self.total((col / COLS + pair) * blocks + block);
                let tiles = total.as_chunks().0.as_chunks().0;
                let columns: [_; COLS / LANES] = array::from_fn(|i| columns(&tiles[i]));
                for (i, out) in out.chunks_mut(self.r).enumerate() {
                    let column = &columns[i / LINE * 2 + i % 2][i % LINE / 2];
                    for (out, x) in out[block * RANKS..].iter_mut().zip(column) {
                        *out += x;
                    }
                }
            }
        }
    }

    /// `out [ranks, cols]` of up to 16 ranks from `rank` on, a multiple of 16, and columns from `col` on, a multiple of
    /// 64: `out += sums`.
    pub(super) fn add_rows(&self, (rank, col): (usize, usize), cols: usize, out: &mut [f32]) {
        let blocks = self.r.div_ceil(RANKS);
        for pair in 0..cols.div_ceil(COLS) {
            let total = self.total((col / COLS + pair) * blocks + rank / RANKS);
            let total = total.as_chunks::<{ BLOCK / 2 }>().0;
            for (rank, out) in out.chunks_mut(cols).enumerate() {
                let out = out[pair * COLS..].as_chunks_mut::<LINE>().0;
                simd!(for (out, total) in out.iter_mut().zip(total) {
                    let (even, odd) = total.split_at(RANKS * LANES);
                    let (even, odd) = (&even[rank * LANES..], &odd[rank * LANES..]);
                    for i in 0..LANES {
                        out[2 * i] += even[i];
                        out[2 * i + 1] += odd[i];
                    }
                });
            }
        }
    }
}

/// The columns of a tile.
fn columns(tile: &[[f32; LANES]; LANES]) -> [[f32; LANES]; LANES] {
    #[target_feature(enable = "avx512f")]
    fn columns(tile: &[[f32; LANES]; LANES]) -> [[f32; LANES]; LANES] {
        // SAFETY: both are 1024 bytes of plain bits.
        let rows = unsafe { transmute::<[[f32; LANES]; LANES], [__m512i; LANES]>(*tile) };
        // SAFETY: as above.
        unsafe { transmute::<[__m512i; LANES], [[f32; LANES]; LANES]>(transpose(&rows)) }
    }
    assert!(super::available());
    // SAFETY: a processor with the tiles has all features that are enabled.
    unsafe { columns(tile) }
}

/// Ranks of some tokens `[tokens, r]`, and where their products with the tokens' rows are summed.
pub(super) struct Ranks<'a> {
    pub(super) values: &'a [f32],
    pub(super) r: usize,
    pub(super) scale: f32,
    /// Of the group: from [`TokenSums::groups`].
    pub(super) sums: &'a mut [f32],
}

impl Ranks<'_> {
    fn blocks(&self) -> usize {
        self.r.div_ceil(RANKS)
    }
}

/// Adds `scale * values^T . rows` of each of `all` to the sums of its group, or begins them; `rows` `[tokens, cols]`, of
/// a multiple of 32 columns.
pub(super) fn add(first: bool, rows: &[bf16], cols: usize, all: &mut [Ranks<'_>]) {
    assert!(cols.is_multiple_of(LINE));
    let tiles = &Tiles::configure();
    for (i, rows) in rows.chunks(TOKENS * cols).enumerate() {
        let tokens = i * TOKENS..i * TOKENS + rows.len() / cols;
        PIECES.with_borrow_mut(|pieces| {
            let per_block = tokens.len().div_ceil(RANKS) * PIECE;
            let blocks: usize = all.iter().map(Ranks::blocks).sum();
            let pieces = pieces.bf16(blocks * per_block);
            let mut rest = &mut *pieces;
            for ranks in &*all {
                let out = rest.split_off_mut(..ranks.blocks() * per_block).expect("all blocks");
                let values = &ranks.values[tokens.start * ranks.r..tokens.end * ranks.r];
                // SAFETY: a processor with the tiles has all features that are enabled.
                unsafe { spread(values, ranks.r, ranks.scale, out, per_block) }
            }
            add_some(tiles, !first || i > 0, (rows, cols), (pieces, per_block), all);
        });
    }
}

fn add_some(
    tiles: &Tiles,
    add: bool,
    (rows, cols): (&[bf16], usize),
    (pieces, per_block): (&[bf16], usize),
    all: &mut [Ranks<'_>],
) {
    let whole = rows.len() / (RANKS * cols);
    let (rows, last) = rows.split_at(whole * RANKS * cols);
    LAST.with_borrow_mut(|padded| {
        let padded = padded.bf16(if last.is_empty() { 0 } else { RANKS * cols });
        if !last.is_empty() {
            padded[..last.len()].copy_from_slice(last);
            padded[last.len()..].fill(bf16::ZERO);
        }
        for col in (0..cols).step_by(COLS) {
            let mut pieces = pieces.chunks_exact(per_block);
            for ranks in &mut *all {
                let blocks = ranks.blocks();
                let sums = &mut ranks.sums[col / COLS * blocks * BLOCK..][..blocks * BLOCK];
                for (sums, pieces) in sums.as_chunks_mut::<BLOCK>().0.iter_mut().zip(&mut pieces) {
                    let (pieces, of_last) = pieces.split_at(whole * PIECE);
                    if whole > 0 {
                        multiply(tiles, add, (rows, cols, col), pieces, sums);
                    }
                    if !of_last.is_empty() {
                        multiply(tiles, add || whole > 0, (padded, cols, col), of_last, sums);
                    }
                }
            }
        }
    });
}

/// 64 columns from `col` on, or the last 32, of whole blocks of tokens.
fn multiply(
    tiles: &Tiles,
    add: bool,
    (rows, cols, col): (&[bf16], usize, usize),
    pieces: &[bf16],
    sums: &mut [f32; BLOCK],
) {
    let blocks = pieces.len() / PIECE;
    assert!(blocks > 0 && rows.len() == blocks * RANKS * cols && col + LINE <= cols);
    let first = rows[col..].as_ptr();
    // Where there are 32 columns left, they are multiplied again, and the sums are unused.
    let second = if col + COLS <= cols { first.wrapping_add(LINE) } else { first };
    let columns = Columns { first: first.cast(), second: second.cast(), row: 2 * cols };
    let from = add.then(|| Sums::packed(sums));
    // SAFETY: rows have 64 bytes from both columns on, of each of which there are `blocks` times 16, and `pieces` as
    // many blocks; `sums` stays borrowed.
    unsafe {
        tile::multiply_columns(
            tiles,
            pieces.as_ptr().cast(),
            columns,
            blocks,
            from,
            Sums::packed(sums),
        );
    }
}

/// Left operands of the ranks of tokens `[_, r]`, each 16 ranks `per_block` values after those before.
#[target_feature(enable = "avx512f,avx512bf16")]
fn spread(values: &[f32], r: usize, scale: f32, out: &mut [bf16], per_block: usize) {
    let scale = _mm512_set1_ps(scale);
    for (block, out) in out.chunks_exact_mut(per_block).enumerate() {
        let ranks = block * RANKS..r.min((block + 1) * RANKS);
        let tokens = values.chunks(RANKS * r);
        for (tokens, out) in tokens.zip(out.as_chunks_mut::<PIECE>().0) {
            let mut rounded = [_mm512_setzero_si512(); RANKS];
            for (rounded, token) in rounded.iter_mut().zip(tokens.chunks_exact(r)) {
                let x = _mm512_mul_ps(from(&sixteen(&token[ranks.clone()])), scale);
                *rounded = _mm512_castps_si512(widen(&narrow(x)));
            }
            let (even, odd) = out.as_chunks_mut::<LINE>().0.split_at_mut(RANKS);
            for ((even, odd), x) in even.iter_mut().zip(odd).zip(transpose(&rounded)) {
                *even = line(_mm512_srli_epi32::<16>(x));
                *odd = line(x);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Philox;

    fn normal(seed: u64, len: usize) -> Vec<f32> {
        let philox = Philox::new(seed, 1);
        (0..len as u64).map(|i| philox.normal(i)).collect()
    }

    /// Sums `[r, cols]` of two adapters beside each other, as columns and as rows.
    fn check(tokens: usize, ranks: [usize; 2], cols: usize) {
        let cpu = Cpu::new();
        let rows: Vec<bf16> = normal(1, tokens * cols).into_iter().map(bf16::from_f32).collect();
        let values = [0, 1].map(|i| normal(2 + i as u64, tokens * ranks[i]));
        let mut sums = ranks.map(|r| TokenSums::alloc(&cpu, (tokens, r, cols)).unwrap());
        let group = group(tokens);
        let [first, second] = &mut sums;
        let groups = first.groups().zip(second.groups()).enumerate();
        for (i, (first, second)) in groups {
            let tokens = i * group..tokens.min((i + 1) * group);
            let of = |i: usize| &values[i][tokens.start * ranks[i]..tokens.end * ranks[i]];
            let mut all = [
                Ranks { values: of(0), r: ranks[0], scale: 2.0, sums: first },
                Ranks { values: of(1), r: ranks[1], scale: -0.3, sums: second },
            ];
            add(true, &rows[tokens.start * cols..tokens.end * cols], cols, &mut all);
        }
        for ((sums, r), (values, scale)) in
            sums.iter().zip(ranks).zip(values.iter().zip([2.0, -0.3]))
        {
            let value = |token: usize, rank: usize| {
                f64::from(bf16::from_f32(values[token * r + rank] * scale).to_f32())
            };
            let mut columns = vec![1.0; cols * r];
            sums.add_columns(0, &mut columns);
            for rank in 0..r {
                let block = rank / RANKS * RANKS;
                let mut row = vec![1.0; RANKS.min(r - block) * cols];
                sums.add_rows((block, 0), cols, &mut row);
                for col in 0..cols {
                    let products = (0..tokens)
                        .map(|token| value(token, rank) * f64::from(rows[token * cols + col]));
                    let (sum, size) =
                        products.fold((1.0, 1.0), |(sum, size), x: f64| (sum + x, size + x.abs()));
                    let found = [columns[col * r + rank], row[(rank - block) * cols + col]];
                    assert_eq!(found[0], found[1], "{rank}, {col}");
                    let error = (f64::from(found[0]) - sum).abs();
                    assert!(error <= 1e-6 * size, "{tokens} {r} {cols}: {found:?}, not {sum}");
                }
            }
        }
    }

    #[test]
    fn sums_of_any_shape_are_those_of_the_definition() {
        if !super::super::available() {
            return;
        }
        for (tokens, ranks, cols) in [
            (1, [1, 16], 32),
            (15, [4, 20], 96),
            (16, [16, 3], 64),
            (33, [40, 8], 128),
            (530, [2, 17], 160),
            (2090, [8, 1], 64),
        ] {
            check(tokens, ranks, cols);
        }
    }
}
