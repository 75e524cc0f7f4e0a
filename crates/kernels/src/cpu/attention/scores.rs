//! From raw products to masked scores, and back.

use std::ops::Range;

use super::layout::{Layout, QueryBlock};
#[cfg(amx)]
use crate::cpu::amx::BLOCK;
use crate::cpu::exp::{exp, tanh};
use crate::cpu::fma::Mat;
use crate::cpu::panel::Matrix;
use crate::cpu::simd::simd;
use crate::cpu::view::{FloatRef, sized};
use crate::ops::Attention;

/// A block of scores: queries of one group of heads against consecutive keys.
pub(super) struct Block<'a> {
    pub(super) layout: &'a Layout,
    pub(super) queries: &'a QueryBlock,
    /// Keys, counted within the sequence.
    pub(super) keys: Range<usize>,
}

impl Block<'_> {
    /// Columns of row `row` that its query sees.
    pub(super) fn visible(&self, row: usize) -> Range<usize> {
        let position = self.queries.position + row / self.layout.group();
        let column = |key: usize| key.saturating_sub(self.keys.start).min(self.keys.len());
        let first = column(self.layout.first_key(position));
        first..column(position + 1).max(first)
    }

    /// Raw products to scores; negative infinity where hidden.
    pub(super) fn mask(&self, products: &mut [f32]) {
        for (row, products) in products.chunks_mut(self.keys.len()).enumerate() {
            let visible = self.visible(row);
            products[..visible.start].fill(f32::NEG_INFINITY);
            products[visible.end..].fill(f32::NEG_INFINITY);
            let visible = &mut products[visible];
            simd!(to_scores(self.layout.op, visible));
        }
    }

    /// From raw products to probabilities, and from the gradient of probabilities to that of raw
    /// products, both in place. `lse` and `delta` (the row's `dO . O`) are by row.
    pub(super) fn gradient(
        &self,
        products: &mut [f32],
        d_probs: &mut [f32],
        (lse, delta): (&[f32], &[f32]),
    ) {
        let cols = self.keys.len();
        let rows = products.chunks_mut(cols).zip(d_probs.chunks_mut(cols)).enumerate();
        for (row, (products, d_probs)) in rows {
            let visible = self.visible(row);
            for hidden in [0..visible.start, visible.end..cols] {
                products[hidden.clone()].fill(0.0);
                d_probs[hidden].fill(0.0);
            }
            let products = &mut products[visible.clone()];
            let d_probs = &mut d_probs[visible];
            simd!(gradient_row(self.layout.op, products, d_probs, lse[row], delta[row]));
        }
    }
}

#[cfg(amx)]
impl Block<'_> {
    /// As [`visible`](Self::visible), of rows from one on.
    pub(super) fn visible_rows(&self, first: usize) -> [Range<usize>; BLOCK] {
        let group = self.layout.group();
        let mut rows = [const { 0..0 }; BLOCK];
        let mut start = 0;
        while start < BLOCK {
            let end = BLOCK.min(start + group - (first + start) % group);
            let visible = self.visible(first + start);
            rows[start..end].fill(visible);
            start = end;
        }
        rows
    }

    /// Tokens of the block that see any key of a strip of 32, in whole strips too.
    pub(super) fn seeing_strip(&self, strip: usize) -> Range<usize> {
        let last = ((strip + 1) * BLOCK).min(self.keys.len()) - 1;
        let (first, last) = (self.seeing(strip * BLOCK), self.seeing(last));
        if first.start >= last.end {
            return 0..0;
        }
        first.start / BLOCK * BLOCK..last.end.next_multiple_of(BLOCK)
    }

    /// Tokens of the block that see key `key`.
    pub(super) fn seeing(&self, key: usize) -> Range<usize> {
        let token = |position: usize| {
            position.saturating_sub(self.queries.position).min(self.queries.tokens.len())
        };
        let key = self.keys.start + key;
        let past = self.layout.op.window.map_or(usize::MAX, |window| key.saturating_add(window));
        token(key)..token(past).max(token(key))
    }
}

#[expect(clippy::inline_always, reason = "compiled for the caller's instruction set")]
#[inline(always)]
pub(super) fn to_scores(op: Attention, products: &mut [f32]) {
    match op.softcap {
        None => products.iter_mut().for_each(|s| *s *= op.scale),
        Some(cap) => products.iter_mut().for_each(|s| *s = cap * tanh(*s * op.scale / cap)),
    }
}

#[expect(clippy::inline_always, reason = "compiled for the caller's instruction set")]
#[inline(always)]
fn gradient_row(op: Attention, products: &mut [f32], d_probs: &mut [f32], lse: f32, delta: f32) {
    for (s, d) in products.iter_mut().zip(d_probs) {
        (*s, *d) = gradient(op, *s, *d, lse, delta);
    }
}

/// Probability and gradient of the raw product.
#[expect(clippy::inline_always, reason = "compiled for the caller's instruction set")]
#[inline(always)]
pub(super) fn gradient(
    op: Attention,
    product: f32,
    d_prob: f32,
    lse: f32,
    delta: f32,
) -> (f32, f32) {
    let Attention { scale, softcap, .. } = op;
    match softcap {
        None => {
            let prob = exp(product * scale - lse);
            (prob, prob * (d_prob - delta) * scale)
        }
        Some(cap) => {
            let t = tanh(product * scale / cap);
            let prob = exp(cap * t - lse);
            (prob, prob * (d_prob - delta) * scale * (1.0 - t * t))
        }
    }
}

/// The rows of a block of queries for one group of heads, `[tokens * group, head_dim]`.
pub(super) fn group_rows<'s>(
    layout: &Layout,
    x: FloatRef<'_>,
    queries: &QueryBlock,
    kv_head: usize,
    scratch: &'s mut Vec<f32>,
) -> &'s [f32] {
    let width = layout.group() * layout.op.head_dim;
    let out = sized(scratch, queries.tokens.len() * width);
    for (token, out) in queries.tokens.clone().zip(out.chunks_mut(width)) {
        let start = token * layout.q_width() + kv_head * width;
        x.slice(start..start + width).widen_into(out);
    }
    out
}

/// One head of consecutive rows of k or v, `[rows, head_dim]`.
pub(super) fn key_rows<'s, 'a: 's>(
    layout: &Layout,
    x: FloatRef<'a>,
    rows: Range<usize>,
    kv_head: usize,
    scratch: &'s mut Vec<f32>,
) -> Mat<'s> {
    let d = layout.op.head_dim;
    let matrix = Matrix { data: x, width: layout.k_width() };
    matrix.panel(rows, kv_head * d..(kv_head + 1) * d, scratch)
}
