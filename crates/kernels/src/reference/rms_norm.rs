use num_traits::Float;

use super::{constant, dot, sum};
use crate::ops::RmsNorm;

/// `y` and `1 / sqrt(mean(x^2) + eps)` of each row.
pub fn rms_norm<T: Float>(op: RmsNorm, x: &[T], weight: &[T]) -> (Vec<T>, Vec<T>) {
    let cols = T::from(op.cols).expect("a length is a number");
    let rows = x.chunks(op.cols);
    let inv_rms: Vec<T> =
        rows.map(|x| (dot(x, x) / cols + constant(op.eps)).sqrt().recip()).collect();
    let y = (0..x.len()).map(|i| x[i] * inv_rms[i / op.cols] * weight[i % op.cols]).collect();
    (y, inv_rms)
}

/// Gradient of `x`.
pub fn rms_norm_backward<T: Float>(op: RmsNorm, x: &[T], weight: &[T], dy: &[T]) -> Vec<T> {
    let cols = T::from(op.cols).expect("a length is a number");
    let (_, inv_rms) = rms_norm(op, x, weight);
    let mut dx = Vec::with_capacity(x.len());
    for (row, inv) in inv_rms.into_iter().enumerate() {
        let range = row * op.cols..(row + 1) * op.cols;
        let (x, dy) = (&x[range.clone()], &dy[range]);
        let d_normed = |i: usize| dy[i] * weight[i];
        let mean = sum((0..op.cols).map(|i| d_normed(i) * x[i] * inv)) / cols;
        dx.extend((0..op.cols).map(|i| inv * (d_normed(i) - x[i] * inv * mean)));
    }
    dx
}
