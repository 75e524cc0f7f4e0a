//! Moves of 8 x 8 tiles of 16-bit elements between rows in memory and fragments.

use crate::alu::registers::Lanes32;

/// The register that `ldmatrix` gives for one tile: lane 4 r + c holds elements 2 c and 2 c + 1 of
/// row r, of column r with `.trans`.
#[inline(always)]
pub fn ldmatrix_tile(rows: &[[u8; 16]; 8], trans: bool) -> Lanes32 {
    let element = |row: usize, column: usize| {
        u32::from(rows[row][2 * column]) | u32::from(rows[row][2 * column + 1]) << 8
    };
    Lanes32(std::array::from_fn(|lane| {
        let (outer, inner) = (lane / 4, 2 * (lane % 4));
        if trans {
            element(inner, outer) | element(inner + 1, outer) << 16
        } else {
            element(outer, inner) | element(outer, inner + 1) << 16
        }
    }))
}

/// The rows that `stmatrix` writes: the inverse of [`ldmatrix_tile`].
pub fn stmatrix_tile(fragment: &Lanes32, trans: bool) -> [[u8; 16]; 8] {
    let fragment = if trans { movmatrix(fragment) } else { *fragment };
    std::array::from_fn(|row| {
        std::array::from_fn(|byte| fragment.0[4 * row + byte / 4].to_le_bytes()[byte % 4])
    })
}

/// The fragment of the transposed tile: `movmatrix.sync.aligned.m8n8.trans.b16`.
pub fn movmatrix(fragment: &Lanes32) -> Lanes32 {
    ldmatrix_tile(&stmatrix_tile(fragment, false), true)
}
