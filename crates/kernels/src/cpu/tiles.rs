//! Disjoint tiles of a row-major matrix, for tasks that each own one.

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;
use std::slice;

use half::bf16;

use super::view::{FloatMut, FloatRef};
#[cfg(amx)]
use super::{amx, prefetch};

/// Rows and columns of the matrix that a task computes.
#[derive(Debug)]
pub(super) struct Tile<'a> {
    pub(super) row: usize,
    pub(super) rows: usize,
    pub(super) col: usize,
    pub(super) cols: usize,
    /// The first element.
    first: First,
    /// Elements from row to row.
    stride: usize,
    sums: Sums,
    /// The tile's part of each row is borrowed.
    borrowed: PhantomData<&'a mut [f32]>,
}

/// What computes the values that are stored.
#[derive(Debug, Clone, Copy)]
enum Sums {
    Vectors,
    /// The matrix unit.
    #[cfg(amx)]
    Matrix {
        past_caches: bool,
    },
}

#[derive(Debug, Clone, Copy)]
enum First {
    F32(*mut f32),
    Bf16(*mut bf16),
}

// SAFETY: a tile is an exclusive borrow of its elements, which no other tile has, as a slice would be.
unsafe impl Send for Tile<'_> {}

impl<'a> Tile<'a> {
    /// Its pieces of `rows` rows, the last one maybe of fewer.
    pub(super) fn split(self, rows: usize) -> Vec<Tile<'a>> {
        let pieces = (0..self.rows).step_by(rows).map(|first| Tile {
            row: self.row + first,
            rows: rows.min(self.rows - first),
            first: self.first.after(first * self.stride),
            ..self
        });
        pieces.collect()
    }

    /// Some of its rows.
    #[cfg(amx)]
    pub(super) fn part(&mut self, rows: Range<usize>) -> Tile<'_> {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows beyond the tile");
        Tile {
            row: self.row + rows.start,
            rows: rows.len(),
            first: self.first.after(rows.start * self.stride),
            ..*self
        }
    }

    /// Copies the tile to `out` `[rows, cols]` in f32.
    pub(super) fn load(&self, out: &mut [f32]) {
        for (row, out) in (0..self.rows).zip(out.chunks_mut(self.cols)) {
            self.row_part(row).widen_into(out);
        }
    }

    /// The tile's part of a row.
    fn row_part(&self, row: usize) -> FloatRef<'_> {
        assert!(row < self.rows, "a row beyond the tile");
        // SAFETY: the row's part lies in the matrix and is borrowed exclusively by this tile, which is
        // borrowed here.
        unsafe {
            match self.first.after(row * self.stride) {
                First::F32(x) => FloatRef::F32(slice::from_raw_parts(x, self.cols)),
                First::Bf16(x) => FloatRef::Bf16(slice::from_raw_parts(x, self.cols)),
            }
        }
    }

    /// Overwrites the tile with `values` `[rows, cols]`, each rounded once.
    pub(super) fn store(&mut self, values: &[f32]) {
        for (row, values) in (0..self.rows).zip(values.chunks(self.cols)) {
            let part = self.first.after(row * self.stride);
            // SAFETY: as in `load`, and the tile is borrowed exclusively here.
            let mut part = unsafe {
                match part {
                    First::F32(x) => FloatMut::F32(slice::from_raw_parts_mut(x, self.cols)),
                    First::Bf16(x) => FloatMut::Bf16(slice::from_raw_parts_mut(x, self.cols)),
                }
            };
            match (self.sums, &mut part) {
                #[cfg(amx)]
                (Sums::Matrix { past_caches }, FloatMut::Bf16(part)) => {
                    amx::store(values, part, past_caches);
                }
                (_, part) => part.store(values),
            }
        }
    }

    /// Overwrites part of a row, from column `col` on, with values that are rounded already. Panics unless the matrix is
    /// of bf16.
    #[cfg(amx)]
    pub(super) fn set(&mut self, row: usize, col: usize, values: &[bf16]) {
        assert!(row < self.rows && col + values.len() <= self.cols, "beyond the tile");
        let First::Bf16(x) = self.first else { panic!("values are rounded for a matrix of bf16") };
        let part = x.wrapping_add(row * self.stride + col);
        // SAFETY: as in `store`; the part lies in the row's.
        let part = unsafe { slice::from_raw_parts_mut(part, values.len()) };
        part.copy_from_slice(values);
    }

    /// Whether it is of bf16.
    #[cfg(amx)]
    pub(super) const fn is_bf16(&self) -> bool {
        matches!(self.first, First::Bf16(_))
    }

    /// Where 32 of its rows are stored, from some on. Panics if they go beyond, or unless it is of bf16.
    #[cfg(amx)]
    pub(super) fn place(&mut self, row: usize) -> amx::Place {
        assert!(row + amx::BLOCK <= self.rows, "beyond the tile");
        let First::Bf16(first) = self.first.after(row * self.stride) else {
            panic!("rows are rounded for a matrix of bf16")
        };
        let past_caches = matches!(self.sums, Sums::Matrix { past_caches: true });
        amx::Place::new(first, self.stride, past_caches)
    }

    /// A tile of sums of the matrix unit, to be stored past the caches or not.
    #[cfg(amx)]
    pub(super) const fn of_matrix_unit(self, past_caches: bool) -> Self {
        Self { sums: Sums::Matrix { past_caches }, ..self }
    }

    /// Fetches the tile's cache lines, to be written soon, unless they are not needed for that.
    #[cfg(amx)]
    pub(super) fn prefetch(&self) {
        if let Sums::Matrix { past_caches: true } = self.sums {
            return;
        }
        for row in 0..self.rows {
            match self.row_part(row) {
                FloatRef::F32(x) => prefetch::to_write(x),
                FloatRef::Bf16(x) => prefetch::to_write(x),
            }
        }
    }
}

impl First {
    const fn after(self, elements: usize) -> Self {
        match self {
            Self::F32(x) => Self::F32(x.wrapping_add(elements)),
            Self::Bf16(x) => Self::Bf16(x.wrapping_add(elements)),
        }
    }
}

/// Cuts the columns `cols` of `matrix` `[_, width]` into tiles of at most `tile_rows` times
/// `tile_cols`.
pub(super) fn tiles(
    matrix: FloatMut<'_>,
    width: usize,
    cols: Range<usize>,
    tile_rows: usize,
    tile_cols: usize,
) -> Vec<Tile<'_>> {
    if cols.is_empty() {
        return Vec::new();
    }
    assert!(cols.end <= width && matrix.len().is_multiple_of(width), "no whole rows");
    let rows = matrix.len() / width;
    let matrix = match matrix {
        FloatMut::F32(x) => First::F32(x.as_mut_ptr()),
        FloatMut::Bf16(x) => First::Bf16(x.as_mut_ptr()),
    };
    let tile = |row: usize, col: usize| Tile {
        row,
        rows: tile_rows.min(rows - row),
        col,
        cols: tile_cols.min(cols.end - col),
        first: matrix.after(row * width + col),
        stride: width,
        sums: Sums::Vectors,
        borrowed: PhantomData,
    };
    let rows = (0..rows).step_by(tile_rows);
    rows.flat_map(|row| cols.clone().step_by(tile_cols).map(move |col| (row, col)))
        .map(|(row, col)| tile(row, col))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_the_columns_once() {
        for (rows, width, cols, height, tile_width) in
            [(7, 10, 2..9, 3, 4), (1, 3, 0..3, 5, 5), (4, 4, 1..2, 1, 1), (0, 4, 0..4, 2, 2)]
        {
            let mut wide = vec![0.0; rows * width];
            let mut narrow = vec![bf16::ZERO; rows * width];
            for matrix in [FloatMut::F32(&mut wide), FloatMut::Bf16(&mut narrow)] {
                for mut tile in tiles(matrix, width, cols.clone(), height, tile_width) {
                    let mut x = vec![9.0; tile.rows * tile.cols];
                    tile.load(&mut x);
                    let count = |(i, x): (usize, &f32)| {
                        x + (tile.row + i / tile.cols) as f32 + (tile.col + i % tile.cols) as f32
                    };
                    let x: Vec<f32> = x.iter().enumerate().map(count).collect();
                    tile.store(&x);
                }
            }
            for (i, x) in wide.iter().enumerate() {
                let (row, col) = (i / width, i % width);
                let expected = if cols.contains(&col) { (row + col) as f32 } else { 0.0 };
                assert_eq!((*x, narrow[i].to_f32()), (expected, expected));
            }
        }
    }
}
