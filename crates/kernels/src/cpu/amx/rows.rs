//! Activations as the tile loop reads them.

use half::bf16;

use super::tile::{BLOCK, Left, STEP};
use crate::Result;
use crate::cpu::{Cpu, F32Scratch, team};

/// From this many rows on, rows that collide in the cache are copied: they are read once for every
/// pair of columns.
const COPY_ROWS: usize = 256;
/// Elements of a block for one step.
const PIECE: usize = BLOCK * STEP;
/// Pieces that a task puts in order.
const PIECES: usize = 16;

/// Rows of bf16 `[m, depth]`, read in place as far as that is fast and possible, otherwise from a copy
/// in the order of the tiles, zeros beyond the edges.
#[derive(Debug)]
pub(super) struct Rows<'a> {
    x: &'a [bf16],
    depth: usize,
    steps: usize,
    /// The first block that was copied.
    first: usize,
    /// `[block][step][32][32]`, from the first on.
    copy: F32Scratch,
}

impl<'a> Rows<'a> {
    pub(super) fn new(cpu: &Cpu, x: &'a [bf16], m: usize, depth: usize) -> Result<Self> {
        assert_eq!(x.len(), m * depth, "rows differ from their shape");
        // Rows that lie a multiple of a page apart share a set of the L1 cache.
        let collide = (depth * size_of::<bf16>()).is_multiple_of(4096) && m >= COPY_ROWS;
        let first = if collide || !depth.is_multiple_of(STEP) { 0 } else { m / BLOCK };
        let steps = depth.div_ceil(STEP);
        let copies = m.div_ceil(BLOCK) - first;
        let mut copy = cpu.scratch(copies * steps * PIECE / 2)?;
        let pieces = bytemuck::cast_slice_mut::<_, bf16>(&mut copy).as_chunks_mut::<PIECE>().0;
        team::for_each(pieces.chunks_mut(PIECES).enumerate(), |(task, pieces)| {
            for (i, piece) in pieces.iter_mut().enumerate() {
                let (block, step) = ((task * PIECES + i) / steps, (task * PIECES + i) % steps);
                let rows = &x[(first + block) * BLOCK * depth..];
                let width = STEP.min(depth - step * STEP);
                let mut rows = rows.chunks(depth);
                for out in piece.chunks_mut(STEP) {
                    let row = rows.next().map_or(&[][..], |row| &row[step * STEP..][..width]);
                    out[..row.len()].copy_from_slice(row);
                    out[row.len()..].fill(bf16::ZERO);
                }
            }
        });
        Ok(Self { x, depth, steps, first, copy })
    }

    /// Columns.
    pub(super) const fn depth(&self) -> usize {
        self.depth
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
        let pieces = &bytemuck::cast_slice::<_, bf16>(&self.copy)[piece * PIECE..last * PIECE];
        let bytes = bytemuck::cast_slice::<_, u8>(pieces);
        Left { first: bytes.as_ptr(), row: 2 * STEP, step: 2 * PIECE }
    }
}
