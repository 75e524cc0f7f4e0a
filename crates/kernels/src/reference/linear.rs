use num_traits::Float;

use super::{constant, dot};
use crate::Philox;
use crate::ops::Dropout;

/// Operands of a linear with its adapter.
#[derive(Debug, Clone, Copy)]
pub struct LinearInputs<'a, T> {
    /// Rows of X.
    pub m: usize,
    /// Out features.
    pub n: usize,
    /// In features.
    pub k: usize,
    /// `[m, k]`.
    pub x: &'a [T],
    /// `[n, k]`.
    pub w: &'a [T],
    /// `[n]`.
    pub bias: Option<&'a [T]>,
    /// Adapter.
    pub lora: Option<LoraInputs<'a, T>>,
}

/// Operands of the adapter.
#[derive(Debug, Clone, Copy)]
pub struct LoraInputs<'a, T> {
    /// `[r, k]`.
    pub a: &'a [T],
    /// `[n, r]`.
    pub b: &'a [T],
    /// Rank.
    pub r: usize,
    /// Multiplies the delta.
    pub scale: f32,
    /// Dropout on the adapter's input.
    pub dropout: Option<Dropout>,
}

/// `x` with the dropout mask applied: element `i` is kept, and divided by `1 - p`, when word `i` of
/// the stream is at least `p * 2^32`.
pub fn masked<T: Float>(dropout: Option<Dropout>, x: &[T]) -> Vec<T> {
    let Some(dropout) = dropout else {
        return x.to_vec();
    };
    let philox = Philox::new(dropout.key, dropout.stream);
    let keep = T::one() - constant(dropout.p);
    let element = |(i, &x): (usize, &T)| {
        let kept =
            f64::from(philox.word(i as u64)) >= (f64::from(dropout.p) * 2_f64.powi(32)).floor();
        if kept { x / keep } else { T::zero() }
    };
    x.iter().enumerate().map(element).collect()
}

/// `Y = X . W^T + bias + scale * xa . B^T` and `xa = dropout(X) . A^T` (empty without adapter).
pub fn linear<T: Float>(op: &LinearInputs<'_, T>) -> (Vec<T>, Vec<T>) {
    let &LinearInputs { m, n, k, .. } = op;
    let mut y = matmul(op.x, op.w, (m, n, k));
    if let Some(bias) = op.bias {
        y.iter_mut().enumerate().for_each(|(i, y)| *y = *y + bias[i % n]);
    }
    let Some(lora) = op.lora else {
        return (y, Vec::new());
    };
    let xa = matmul(&masked(lora.dropout, op.x), lora.a, (m, lora.r, k));
    let delta = matmul(&xa, lora.b, (m, n, lora.r));
    for (y, delta) in y.iter_mut().zip(delta) {
        *y = *y + constant::<T>(lora.scale) * delta;
    }
    (y, xa)
}

/// Gradients of X, A and B (the latter two empty without adapter).
pub fn linear_backward<T: Float>(op: &LinearInputs<'_, T>, dy: &[T]) -> [Vec<T>; 3] {
    linear_backward_rounding(op, dy, |x| x)
}

/// As [`linear_backward`], of `xa` and `dY . B` as `round` leaves them.
pub fn linear_backward_rounding<T: Float>(
    op: &LinearInputs<'_, T>,
    dy: &[T],
    round: impl Fn(Vec<T>) -> Vec<T>,
) -> [Vec<T>; 3] {
    let &LinearInputs { m, n, k, .. } = op;
    let mut dx = matmul(dy, &transposed(op.w, n, k), (m, k, n));
    let Some(lora) = op.lora else {
        return [dx, Vec::new(), Vec::new()];
    };
    let (r, scale) = (lora.r, constant::<T>(lora.scale));
    let scaled = |x: Vec<T>| -> Vec<T> { x.into_iter().map(|x| scale * x).collect() };
    let x = masked(lora.dropout, op.x);
    let xa = round(matmul(&x, lora.a, (m, r, k)));
    let dyb = round(matmul(dy, &transposed(lora.b, n, r), (m, r, n)));
    let through = scaled(matmul(&dyb, &transposed(lora.a, r, k), (m, k, r)));
    for (dx, through) in dx.iter_mut().zip(masked(lora.dropout, &through)) {
        *dx = *dx + through;
    }
    let da = matmul(&transposed(&dyb, m, r), &transposed(&x, m, k), (r, k, m));
    let db = matmul(&transposed(dy, m, n), &transposed(&xa, m, r), (n, r, m));
    [dx, scaled(da), scaled(db)]
}

/// `x [m, k] . w [n, k]^T`.
pub(super) fn matmul<T: Float>(x: &[T], w: &[T], (m, n, k): (usize, usize, usize)) -> Vec<T> {
    let element = |i: usize| dot(&x[i / n * k..][..k], &w[i % n * k..][..k]);
    (0..m * n).map(element).collect()
}

fn transposed<T: Float>(x: &[T], rows: usize, cols: usize) -> Vec<T> {
    (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect()
}
