use std::ops::Range;

use num_traits::Float;

use super::{constant, dot, sum};
use crate::ops::Attention;

/// Rows of q, and rows of k and v, of one sequence; the queries are the last of the keys.
#[derive(Debug, Clone)]
pub struct Sequence {
    /// Rows of q.
    pub q: Range<usize>,
    /// Rows of k and v.
    pub k: Range<usize>,
}

/// Operands of attention.
#[derive(Debug, Clone, Copy)]
pub struct AttentionInputs<'a, T> {
    /// Shape and masking.
    pub op: Attention,
    /// Which rows belong together.
    pub sequences: &'a [Sequence],
    /// `[q_tokens, heads, head_dim]`.
    pub q: &'a [T],
    /// `[k_tokens, kv_heads, head_dim]`.
    pub k: &'a [T],
    /// `[k_tokens, kv_heads, head_dim]`.
    pub v: &'a [T],
}

/// One query of one head, and the keys it sees.
struct Query {
    /// Row of `[q_tokens * heads, head_dim]`.
    row: usize,
    /// Rows of `[k_tokens * kv_heads, head_dim]`.
    keys: Vec<usize>,
}

fn queries(op: Attention, sequences: &[Sequence]) -> Vec<Query> {
    let mut queries = Vec::new();
    for sequence in sequences {
        for (i, token) in sequence.q.clone().enumerate() {
            let position = sequence.k.len() - sequence.q.len() + i;
            let first = op.window.map_or(0, |window| (position + 1).saturating_sub(window));
            for head in 0..op.heads {
                let kv_head = head / (op.heads / op.kv_heads);
                let key = |j| (sequence.k.start + j) * op.kv_heads + kv_head;
                queries.push(Query {
                    row: token * op.heads + head,
                    keys: (first..=position).map(key).collect(),
                });
            }
        }
    }
    queries
}

impl<'a, T: Float> AttentionInputs<'a, T> {
    fn row(&self, x: &'a [T], row: usize) -> &'a [T] {
        &x[row * self.op.head_dim..(row + 1) * self.op.head_dim]
    }

    /// Scores, and their slopes with respect to the raw products.
    fn scores(&self, query: &Query) -> (Vec<T>, Vec<T>) {
        let q = self.row(self.q, query.row);
        let scale = constant::<T>(self.op.scale);
        let score = |&key: &usize| {
            let score = scale * dot(q, self.row(self.k, key));
            let Some(cap) = self.op.softcap.map(constant::<T>) else {
                return (score, scale);
            };
            let t = (score / cap).tanh();
            (cap * t, scale * (T::one() - t * t))
        };
        query.keys.iter().map(score).unzip()
    }
}

/// Output, and the log-sum-exp of each row of scores (`[q_tokens, heads]`).
pub fn attention<T: Float>(inputs: &AttentionInputs<'_, T>) -> (Vec<T>, Vec<T>) {
    let d = inputs.op.head_dim;
    let mut o = vec![T::zero(); inputs.q.len()];
    let mut lse = vec![T::zero(); inputs.q.len() / d];
    for query in queries(inputs.op, inputs.sequences) {
        let (scores, _) = inputs.scores(&query);
        let max = scores.iter().copied().fold(T::neg_infinity(), T::max);
        let weights: Vec<T> = scores.iter().map(|&s| (s - max).exp()).collect();
        let total = sum(weights.iter().copied());
        lse[query.row] = max + total.ln();
        for (&key, &weight) in query.keys.iter().zip(&weights) {
            add_scaled(&mut o, query.row, weight / total, inputs.row(inputs.v, key));
        }
    }
    (o, lse)
}

/// Gradients of q, k and v, given what the forward returned.
pub fn attention_backward<T: Float>(
    inputs: &AttentionInputs<'_, T>,
    o: &[T],
    lse: &[T],
    d_o: &[T],
) -> [Vec<T>; 3] {
    let mut dq = vec![T::zero(); inputs.q.len()];
    let mut dk = vec![T::zero(); inputs.k.len()];
    let mut dv = vec![T::zero(); inputs.v.len()];
    for query in queries(inputs.op, inputs.sequences) {
        let (scores, slopes) = inputs.scores(&query);
        let d_row = inputs.row(d_o, query.row);
        let delta = dot(d_row, inputs.row(o, query.row));
        for (i, &key) in query.keys.iter().enumerate() {
            let prob = (scores[i] - lse[query.row]).exp();
            let d_score = prob * (dot(d_row, inputs.row(inputs.v, key)) - delta);
            let d_product = d_score * slopes[i];
            add_scaled(&mut dq, query.row, d_product, inputs.row(inputs.k, key));
            add_scaled(&mut dk, key, d_product, inputs.row(inputs.q, query.row));
            add_scaled(&mut dv, key, prob, d_row);
        }
    }
    [dq, dk, dv]
}

/// `out[row, :] += factor * x`.
fn add_scaled<T: Float>(out: &mut [T], row: usize, factor: T, x: &[T]) {
    for (out, &x) in out[row * x.len()..].iter_mut().zip(x) {
        *out = *out + factor * x;
    }
}
