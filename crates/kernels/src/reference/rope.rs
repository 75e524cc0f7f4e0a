use num_traits::Float;

use crate::ops::Rope;

/// Rotated `x`; `cos` and `sin` are `[positions, head_dim / 2]`. Its own backward with `inverse`.
pub fn rope<T: Float>(op: Rope, cos: &[T], sin: &[T], positions: &[u32], x: &[T]) -> Vec<T> {
    let half = op.head_dim / 2;
    let rotated = |i: usize| {
        let (head, within) = (i / op.head_dim, i % op.head_dim);
        let position = positions[head / op.heads] as usize;
        let angle = position * half + within % half;
        let sin = if op.inverse { -sin[angle] } else { sin[angle] };
        let (x1, x2) =
            (x[head * op.head_dim + within % half], x[head * op.head_dim + within % half + half]);
        if within < half { x1 * cos[angle] - x2 * sin } else { x2 * cos[angle] + x1 * sin }
    };
    (0..x.len()).map(rotated).collect()
}
