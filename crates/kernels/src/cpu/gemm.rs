//! Safe face of the `gemm` crate: checked lengths and strides, one thread per call.

#![allow(unsafe_code)]

/// A strided matrix over a slice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// Rows of `cols` elements, `stride` apart.
    pub(super) fn strided(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        let end = end(rows, cols, stride);
        assert!(end.is_some_and(|end| end <= data.len()), "matrix exceeds its slice");
        Self { data, rows, cols, row_stride: stride, col_stride: 1 }
    }

    /// Contiguous rows.
    pub(super) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Transpose.
    pub(super) const fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// Where the last of `rows` rows of `cols` elements ends, unless that is beyond any slice.
fn end(rows: usize, cols: usize, stride: usize) -> Option<usize> {
    if rows == 0 || cols == 0 {
        return Some(0);
    }
    (rows - 1).checked_mul(stride)?.checked_add(cols)
}

/// `out = [out +] alpha * a . b` for contiguous row-major `out`. The order of additions depends on
/// the shapes alone.
pub(super) fn gemm(out: &mut [f32], accumulate: bool, alpha: f32, a: Mat<'_>, b: Mat<'_>) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert_eq!(k, b.rows, "inner dimensions differ");
    assert_eq!(Some(out.len()), m.checked_mul(n), "output shape differs");
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if !accumulate {
            out.fill(0.0);
        }
        return;
    }
    // SAFETY: this function upholds gemm's contract. `out` is exclusively borrowed and holds m * n
    // elements at strides (n, 1), all distinct; `Mat` checked at construction that every element it
    // addresses lies within its slice; shared borrows cannot overlap `out`. Strides that are used
    // fit isize, for a slice is never longer than isize::MAX bytes.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_transposes_and_accumulation() {
        // a = [[1, 2, 3], [4, 5, 6]] in rows of 4, b = [[1, 0], [0, 1], [1, 1]] as a transpose.
        let a = [1.0, 2.0, 3.0, 9.0, 4.0, 5.0, 6.0];
        let b = [1.0, 0.0, 1.0, 0.0, 1.0, 1.0];
        let mut out = [100.0; 4];
        let a = Mat::strided(&a, 2, 3, 4);
        let b = Mat::new(&b, 2, 3).t();
        gemm(&mut out, false, 2.0, a, b);
        assert_eq!(out, [8.0, 10.0, 20.0, 22.0]);
        gemm(&mut out, true, 1.0, a, b);
        assert_eq!(out, [12.0, 15.0, 30.0, 33.0]);
    }

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
