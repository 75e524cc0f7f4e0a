//! What a block of queries and a block of keys give to each other's gradients.
//!
//! Scores are laid out by key, `[keys, queries]`: probabilities and gradients of scores are then operands of
//! the gradients of v and k as they are, and that of q is summed as its transpose, `K^T . dS^T`.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use half::bf16;

use super::super::super::KEYS;
use super::super::super::layout::QueryBlock;
use super::super::super::scores::Block;
use super::super::{head_values, key_values, query_rows};
use super::Backward;
use crate::cpu::amx::{BLOCK, Panel, Tiles, Values, product, softmax_gradient, transpose};
use crate::cpu::lines::Lines;

/// A block of queries of one group of heads. Rows are filled up to a multiple of 32.
#[derive(Debug, Default)]
pub(super) struct Queries {
    rows: [Lines; 2],
    /// q and dO, deep in elements of a head.
    transposed: [Panel; 2],
    /// q and dO, deep in rows.
    straight: [Panel; 2],
    /// Times `log2(e)`.
    lse: Vec<f32>,
    delta: Vec<f32>,
}

impl Queries {
    /// What the gradient of the queries needs.
    pub(super) fn load(&mut self, from: &Backward<'_>, block: &QueryBlock, kv_head: usize) {
        let (layout, d) = (from.layout(), from.layout().op.head_dim);
        let count = block.tokens.len() * layout.group();
        let operands = [from.q, from.d_o].into_iter().zip(&mut self.rows);
        for ((x, rows), panel) in operands.zip(&mut self.transposed) {
            panel.set_transposed(head_values(
                query_rows(layout, x, block, kv_head, rows),
                count,
                d,
            ));
        }
        for (x, to) in [(from.inputs.lse, &mut self.lse), (from.inputs.delta, &mut self.delta)] {
            from.inputs.row_values(x, block, kv_head, to);
            to.resize(count.next_multiple_of(BLOCK), 0.0);
        }
        self.lse.iter_mut().for_each(|lse| *lse *= LOG2_E);
    }

    /// What the gradients of keys need besides.
    pub(super) fn turn(&mut self, d: usize) {
        let count = self.lse.len();
        for (rows, panel) in self.rows.iter_mut().zip(&mut self.straight) {
            panel.set(head_values(rows.bf16(count * d), count, d));
        }
    }

    /// Rows, with those that fill up.
    pub(super) const fn len(&self) -> usize {
        self.lse.len()
    }
}

/// Consecutive rows of one head of k and v. Rows are filled up with zeros to a multiple of 32.
#[derive(Debug, Default)]
pub(super) struct Keys {
    k: Lines,
    v: Lines,
    /// k by element of a head, [`KEYS`] keys after the other.
    turned: Lines,
    panel: Panel,
    height: usize,
}

impl Keys {
    /// What the gradients of keys need, of rows of k and v.
    pub(super) fn load(&mut self, from: &Backward<'_>, rows: Range<usize>, kv_head: usize) {
        let (layout, d) = (from.layout(), from.layout().op.head_dim);
        self.height = rows.len().next_multiple_of(BLOCK);
        for (x, to) in [(from.k, &mut self.k), (from.v, &mut self.v)] {
            let values = key_values(layout, x, rows.clone(), kv_head);
            let to = to.bf16(self.height * d);
            to[values.rows * d..].fill(bf16::ZERO);
            for (row, to) in to.chunks_exact_mut(d).take(values.rows).enumerate() {
                to.copy_from_slice(&values.data[row * values.stride..][..d]);
            }
        }
    }

    /// What the gradient of queries needs besides.
    pub(super) fn turn(&mut self, d: usize) {
        let k = self.k.bf16(self.height * d).chunks(KEYS * d);
        for (k, out) in k.zip(self.turned.bf16(self.height * d).chunks_mut(KEYS * d)) {
            transpose(head_values(k, k.len() / d, d), &mut self.panel, out);
        }
    }

    /// Rows, with those that fill up.
    pub(super) const fn height(&self) -> usize {
        self.height
    }
}

/// Sums that a pair of blocks adds to.
pub(super) struct Sums<'a> {
    /// Of the queries' gradient, `[head_dim, queries]`.
    pub(super) queries: Option<&'a mut [f32]>,
    /// Of the gradients of k and v, `[keys, head_dim]`.
    pub(super) keys: Option<[&'a mut [f32]; 2]>,
}

/// Scratch of a pair of blocks.
#[derive(Debug, Default)]
pub(super) struct Pair {
    products: Lines,
    d_probs: Lines,
    probs: Lines,
    d_scores: Lines,
    panel: Panel,
}

impl Pair {
    /// Adds what `block` gives; its keys are rows of `keys` from `first` on, a multiple of [`KEYS`].
    pub(super) fn add(
        &mut self,
        tiles: &Tiles,
        block: &Block<'_>,
        (queries, keys, first): (&Queries, &mut Keys, usize),
        sums: Sums<'_>,
    ) {
        let (d, cols) = (block.layout.op.head_dim, queries.len());
        let height = block.keys.len().next_multiple_of(BLOCK);
        let Self { products, d_probs, probs, d_scores, panel } = self;
        let (probs, d_scores) = (probs.bf16(height * cols), d_scores.bf16(height * cols));
        let (k, v) = (keys.k.bf16(keys.height * d), keys.v.bf16(keys.height * d));
        let outputs = probs.chunks_mut(BLOCK * cols).zip(d_scores.chunks_mut(BLOCK * cols));
        // A strip at a time, which stays in L1.
        for (strip, (probs, d_scores)) in outputs.enumerate() {
            let rows = (first + strip * BLOCK) * d..(first + (strip + 1) * BLOCK) * d;
            let products = products.f32(BLOCK * cols);
            let d_probs = d_probs.f32(BLOCK * cols);
            let [q, d_o] = &queries.transposed;
            product(tiles, head_values(&k[rows.clone()], BLOCK, d), q, products, false);
            product(tiles, head_values(&v[rows], BLOCK, d), d_o, d_probs, false);
            let visible = |row| block.seeing(strip * BLOCK + row);
            let inputs = (&*products, &*d_probs);
            let stats = (&queries.lse[..], &queries.delta[..]);
            softmax_gradient(block.layout.op, inputs, stats, visible, (probs, d_scores));
        }
        let scores = |data| Values { data, rows: height, cols, stride: cols };
        if let Some([sum_k, sum_v]) = sums.keys {
            let [q, d_o] = &queries.straight;
            product(tiles, scores(probs), d_o, sum_v, true);
            product(tiles, scores(d_scores), q, sum_k, true);
        }
        if let Some(sum) = sums.queries {
            let turned = &keys.turned.bf16(keys.height * d)[first * d..];
            let stride = KEYS.min(keys.height - first);
            panel.set(scores(d_scores));
            let left = Values { data: turned, rows: d, cols: height, stride };
            product(tiles, left, panel, sum, true);
        }
    }
}
