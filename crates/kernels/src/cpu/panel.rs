//! Parts of a matrix as the matmuls read them.

use std::ops::Range;

use super::dropout::Mask;
use super::fma::Mat;
use super::view::{FloatRef, sized};

/// A float operand seen as rows of `width` elements.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub(super) data: FloatRef<'a>,
    pub(super) width: usize,
}

impl<'a> Matrix<'a> {
    /// A part in f32; copied to `scratch` only where it is not f32 already.
    pub(super) fn panel<'s>(
        self,
        rows: Range<usize>,
        cols: Range<usize>,
        scratch: &'s mut Vec<f32>,
    ) -> Mat<'s>
    where
        'a: 's,
    {
        if let FloatRef::F32(x) = self.data {
            let start = (rows.start * self.width + cols.start).min(x.len());
            return Mat::strided(&x[start..], rows.len(), cols.len(), self.width);
        }
        self.copy(rows, cols, None, scratch)
    }

    /// A part in f32 with the mask of the whole matrix applied.
    pub(super) fn masked_panel<'s>(
        self,
        rows: Range<usize>,
        cols: Range<usize>,
        mask: Option<Mask>,
        scratch: &'s mut Vec<f32>,
    ) -> Mat<'s>
    where
        'a: 's,
    {
        if mask.is_none() {
            return self.panel(rows, cols, scratch);
        }
        self.copy(rows, cols, mask, scratch)
    }

    fn copy(
        self,
        rows: Range<usize>,
        cols: Range<usize>,
        mask: Option<Mask>,
        scratch: &mut Vec<f32>,
    ) -> Mat<'_> {
        let (height, width) = (rows.len(), cols.len());
        let copy = sized(scratch, height * width);
        for (row, out) in rows.zip(copy.chunks_mut(width.max(1))) {
            let start = row * self.width + cols.start;
            self.data.slice(start..start + width).widen_into(out);
            if let Some(mask) = mask {
                mask.apply(start, out);
            }
        }
        Mat::new(copy, height, width)
    }
}
