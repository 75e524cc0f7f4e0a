//! Disjoint tiles of a row-major matrix, for tasks that each own one.

use super::view::FloatMut;

/// Rows and columns of the matrix that a task computes.
#[derive(Debug)]
pub(super) struct Tile<'a> {
    pub(super) row: usize,
    pub(super) rows: usize,
    pub(super) col: usize,
    pub(super) cols: usize,
    /// The tile's part of each of its rows.
    segments: Vec<FloatMut<'a>>,
}

impl<'a> Tile<'a> {
    /// Its pieces of `rows` rows, the last one maybe of fewer.
    #[cfg(amx)]
    pub(super) fn split(self, rows: usize) -> Vec<Tile<'a>> {
        let mut segments = self.segments.into_iter();
        let pieces = (0..self.rows).step_by(rows).map(|first| {
            let rows = rows.min(self.rows - first);
            let segments = segments.by_ref().take(rows).collect();
            Tile { row: self.row + first, rows, col: self.col, cols: self.cols, segments }
        });
        pieces.collect()
    }

    /// Copies the tile to `out` `[rows, cols]` in f32.
    pub(super) fn load(&self, out: &mut [f32]) {
        for (segment, out) in self.segments.iter().zip(out.chunks_mut(self.cols)) {
            segment.as_ref().widen_into(out);
        }
    }

    /// Overwrites the tile with `values` `[rows, cols]`, each rounded once.
    pub(super) fn store(&mut self, values: &[f32]) {
        for (segment, values) in self.segments.iter_mut().zip(values.chunks(self.cols)) {
            segment.store(values);
        }
    }
}

/// Cuts the columns `cols` of `matrix` `[_, width]` into tiles of at most `tile_rows` times
/// `tile_cols`.
pub(super) fn tiles(
    matrix: FloatMut<'_>,
    width: usize,
    cols: std::ops::Range<usize>,
    tile_rows: usize,
    tile_cols: usize,
) -> Vec<Tile<'_>> {
    if cols.is_empty() {
        return Vec::new();
    }
    let mut tiles = Vec::new();
    for (block, rows) in matrix.chunks(tile_rows * width).into_iter().enumerate() {
        let first = tiles.len();
        tiles.extend(cols.clone().step_by(tile_cols).map(|col| Tile {
            row: block * tile_rows,
            rows: rows.len() / width,
            col,
            cols: tile_cols.min(cols.end - col),
            segments: Vec::with_capacity(tile_rows),
        }));
        for mut row in rows.chunks(width) {
            row.split_off_front(cols.start);
            for tile in &mut tiles[first..] {
                tile.segments.push(row.split_off_front(tile.cols));
            }
        }
    }
    tiles
}
