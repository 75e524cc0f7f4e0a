use num_traits::Float;

use super::{constant, dot, sum};
use crate::ops::IGNORE;

/// Operands of the output projection and its loss.
#[derive(Debug, Clone, Copy)]
pub struct CrossEntropyInputs<'a, T> {
    /// Elements of one hidden state.
    pub hidden: usize,
    /// `[tokens, hidden]`.
    pub x: &'a [T],
    /// `[vocab, hidden]`.
    pub w: &'a [T],
    /// `[tokens]`.
    pub labels: &'a [u32],
}

/// Loss of each token, and the gradient of `grad_scale * sum(losses)` with respect to `x`.
pub fn linear_cross_entropy<T: Float>(
    op: &CrossEntropyInputs<'_, T>,
    grad_scale: f32,
) -> (Vec<T>, Vec<T>) {
    let mut losses = Vec::new();
    let mut dx = Vec::new();
    for (x, &label) in op.x.chunks(op.hidden).zip(op.labels) {
        let (loss, gradient) = if label == IGNORE {
            (T::zero(), vec![T::zero(); op.hidden])
        } else {
            token(op, x, label as usize)
        };
        losses.push(loss);
        dx.extend(gradient.into_iter().map(|d| d * constant(grad_scale)));
    }
    (losses, dx)
}

fn token<T: Float>(op: &CrossEntropyInputs<'_, T>, x: &[T], label: usize) -> (T, Vec<T>) {
    let logits: Vec<T> = op.w.chunks(op.hidden).map(|w| dot(x, w)).collect();
    let max = logits.iter().copied().fold(T::neg_infinity(), T::max);
    let lse = max + sum(logits.iter().map(|&z| (z - max).exp())).ln();
    let mut d_logits: Vec<T> = logits.iter().map(|&z| (z - lse).exp()).collect();
    d_logits[label] = d_logits[label] - T::one();
    let column = |j| sum(d_logits.iter().enumerate().map(|(i, &d)| d * op.w[i * op.hidden + j]));
    (lse - logits[label], (0..op.hidden).map(column).collect())
}
