//! Activations as the tile loop reads them.

use half::bf16;
use rayon::prelude::*;

use super::tile::{BLOCK, Left, STEP};
use crate::Result;
use crate::cpu::simd::simd;
use crate::cpu::view::{FloatMut, sized};
use crate::cpu::{Cpu, F32Scratch};

/// From this many rows on, rows that collide in the cache are copied: they are read once for every
/// pair of columns.
const COPY_ROWS: usize = 256;
/// Elements of a block for one step.
const PIECE: usize = BLOCK * STEP;

/// Rows of bf16 `[m, depth]`, read in place as far as that is fast and possible, otherwise from a copy
/// in the order of the tiles, zeros beyond the edges.
#[derive(Debug)]
pub(super) struct Rows<'a> {
    x: &'a [bf16],
    depth: usize,
    steps: usize,
    /// The first block that was copied.
    first: usize,
    /// `[block][step][32][32]`.
    copy: F32Scratch,
    /// Elements before the first one that starts a cache line.
    offset: usize,
}

impl<'a> Rows<'a> {
    pub(super) fn new(cpu: &Cpu, x: &'a [bf16], m: usize, depth: usize) -> Result<Self> {
        assert_eq!(x.len(), m * depth, "rows differ from their shape");
        // Rows that lie a multiple of a page apart share a set of the L1 cache.
        let collide = (depth * size_of::<bf16>()).is_multiple_of(4096) && m >= COPY_ROWS;
        let first = if collide || !depth.is_multiple_of(STEP) { 0 } else { m / BLOCK };
        let steps = depth.div_ceil(STEP);
        let len = (m.div_ceil(BLOCK) - first) * steps * PIECE;
        let mut copy = cpu.scratch(len / 2 + STEP / 2)?;
        let values: &mut [bf16] = bytemuck::cast_slice_mut(&mut copy);
        let offset = values.as_ptr().align_offset(64).min(STEP);
        let blocks = values[offset..offset + len].par_chunks_mut((steps * PIECE).max(1));
        blocks.enumerate().for_each(|(block, out)| {
            let rows = &x[(first + block) * BLOCK * depth..];
            for (step, out) in out.chunks_mut(PIECE).enumerate() {
                let width = STEP.min(depth - step * STEP);
                let mut rows = rows.chunks(depth);
                for out in out.chunks_mut(STEP) {
                    let row = rows.next().map_or(&[][..], |row| &row[step * STEP..][..width]);
                    out[..row.len()].copy_from_slice(row);
                    out[row.len()..].fill(bf16::ZERO);
                }
            }
        });
        Ok(Self { x, depth, steps, first, copy, offset })
    }

    /// f32 `[m, depth]` as the sums of `parts` bf16 values, one part of the depth after the other: one
    /// holds what was bf16, two miss 2^-17 of anything. For a single task.
    pub(super) fn split(
        cpu: &Cpu,
        x: &[f32],
        (m, depth): (usize, usize),
        parts: usize,
    ) -> Result<Rows<'static>> {
        assert_eq!(x.len(), m * depth, "rows differ from their shape");
        let per_part = depth.div_ceil(STEP);
        let steps = parts * per_part;
        let len = m.div_ceil(BLOCK) * steps * PIECE;
        let mut copy = cpu.scratch(len / 2 + STEP / 2)?;
        let values: &mut [bf16] = bytemuck::cast_slice_mut(&mut copy);
        let offset = values.as_ptr().align_offset(64).min(STEP);
        values[offset..offset + len].fill(bf16::ZERO);
        let mut rest = Vec::new();
        for (i, row) in x.chunks(depth).enumerate() {
            let rest = sized(&mut rest, depth);
            rest.copy_from_slice(row);
            let block = offset + (i / BLOCK * steps * BLOCK + i % BLOCK) * STEP;
            for part in 0..parts {
                for (step, rest) in rest.chunks_mut(STEP).enumerate() {
                    let first = block + (part * per_part + step) * PIECE;
                    let out = &mut values[first..first + rest.len()];
                    FloatMut::Bf16(out).store(rest);
                    simd!(for (rest, out) in rest.iter_mut().zip(&*out) {
                        *rest -= f32::from_bits(u32::from(out.to_bits()) << 16);
                    });
                }
            }
        }
        Ok(Rows { x: &[], depth: steps * STEP, steps, first: 0, copy, offset })
    }

    /// Steps of the whole depth.
    pub(super) const fn steps(&self) -> usize {
        self.steps
    }

    /// The 32 rows of a block, from a step on: readable to the last step.
    pub(super) fn block(&self, block: usize, step: usize) -> Left {
        assert!(step < self.steps);
        if block < self.first {
            // All 32 rows are there, and whole steps of them.
            let rows = &self.x[block * BLOCK * self.depth..(block + 1) * BLOCK * self.depth];
            let bytes = bytemuck::cast_slice::<_, u8>(&rows[step * STEP..]);
            return Left { first: bytes.as_ptr(), row: 2 * self.depth, step: 2 * STEP };
        }
        let piece = (block - self.first) * self.steps + step;
        let last = (block - self.first + 1) * self.steps;
        let copy: &[bf16] = bytemuck::cast_slice(&self.copy);
        let pieces = &copy[self.offset + piece * PIECE..self.offset + last * PIECE];
        let bytes = bytemuck::cast_slice::<_, u8>(pieces);
        Left { first: bytes.as_ptr(), row: 2 * STEP, step: 2 * PIECE }
    }
}
