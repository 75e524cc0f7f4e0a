//! Matrices over slices.

/// A strided matrix over a slice; its rows or its columns are contiguous.
#[derive(Debug, Clone, Copy)]
pub(in crate::cpu) struct Mat<'a> {
    pub(super) data: &'a [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) stride: usize,
    /// Whether it is the transpose of rows `stride` apart.
    pub(super) transposed: bool,
}

impl<'a> Mat<'a> {
    /// Rows of `cols` elements, `stride` apart.
    pub(in crate::cpu) fn strided(
        data: &'a [f32],
        rows: usize,
        cols: usize,
        stride: usize,
    ) -> Self {
        let end = end(rows, cols, stride);
        assert!(end.is_some_and(|end| end <= data.len()), "matrix exceeds its slice");
        Self { data, rows, cols, stride, transposed: false }
    }

    /// Contiguous rows.
    pub(in crate::cpu) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Transpose.
    pub(in crate::cpu) const fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, transposed: !self.transposed, ..self }
    }

    /// Some rows.
    pub(super) fn some_rows(self, first: usize, len: usize) -> Self {
        assert!(first + len <= self.rows, "no such rows");
        let step = if self.transposed { 1 } else { self.stride };
        let data = &self.data[(first * step).min(self.data.len())..];
        Self { data, rows: len, ..self }
    }

    /// Some columns.
    pub(super) fn some_cols(self, first: usize, len: usize) -> Self {
        self.t().some_rows(first, len).t()
    }
}

/// Where the last of `rows` rows of `cols` elements ends, unless that is beyond any slice.
pub(super) fn end(rows: usize, cols: usize, stride: usize) -> Option<usize> {
    if rows == 0 || cols == 0 {
        return Some(0);
    }
    (rows - 1).checked_mul(stride)?.checked_add(cols)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "matrix exceeds its slice")]
    fn a_matrix_larger_than_its_slice_is_refused() {
        let _ = Mat::strided(&[0.0; 6], 2, 3, 4);
    }

    #[test]
    #[should_panic(expected = "matrix exceeds its slice")]
    fn a_matrix_larger_than_memory_is_refused() {
        let _ = Mat::strided(&[0.0; 6], usize::MAX / 2 + 2, 1, 2);
    }
}
