//! What a block of queries and a block of keys give to each other's gradients.
//!
//! Scores are laid out by key, `[keys, queries]`: probabilities and gradients of scores are then operands of
//! the gradients of v and k as they are, and that of q is summed as its transpose, `K^T . dS^T`.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use half::bf16;

use super::super::super::layout::{Layout, QueryBlock};
use super::super::super::scores::Block;
use super::super::{KEYS, head_values, key_values};
use super::Backward;
use crate::cpu::amx::{
    BLOCK, KeyStrip, Out, Panel, Tiles, Values, gather_rows, product, product_of_parts, row_dots,
    softmax_gradient, transpose,
};
use crate::cpu::lines::Lines;

/// Most queries of all heads of a block, where a head has more than 32.
const QUERIES: usize = 384;
/// Most of one head: two strips of scores of all of them (32 KiB) stay in L1.
const TOKENS: usize = 128;

/// Tokens of a block for a group of `group` heads.
pub(super) fn block_tokens(group: usize) -> usize {
    (QUERIES / group / BLOCK * BLOCK).clamp(BLOCK, TOKENS)
}

/// A block of queries of one group of heads, `[head][token]`; those of a head are filled up to a multiple of 32.
#[derive(Debug, Default)]
pub(super) struct Queries {
    q: Lines,
    o: Lines,
    d_o: Lines,
    /// q and dO, deep in elements of a head.
    transposed: [Panel; 2],
    /// q and dO, deep in queries.
    straight: [Panel; 2],
    /// Times `log2(e)`.
    lse: Vec<f32>,
    /// `dO . O`
    delta: Vec<f32>,
    heads: usize,
    /// Queries of a head.
    height: usize,
}

impl Queries {
    /// What the gradient of the queries needs.
    pub(super) fn load(&mut self, from: &Backward<'_>, block: &QueryBlock, kv_head: usize) {
        let (layout, d) = (from.layout, from.layout.op.head_dim);
        self.heads = layout.group();
        self.height = block.tokens.len().next_multiple_of(BLOCK);
        let len = self.len();
        for (x, to) in [(from.q, &mut self.q), (from.o, &mut self.o), (from.d_o, &mut self.d_o)] {
            by_head(layout, x, block, kv_head, to.bf16(len * d));
        }
        let (q, o, d_o) = (self.q.bf16(len * d), self.o.bf16(len * d), self.d_o.bf16(len * d));
        self.delta.resize(len, 0.0);
        row_dots(o, d_o, d, &mut self.delta);
        for (rows, panel) in [q, d_o].into_iter().zip(&mut self.transposed) {
            panel.set_transposed(head_values(rows, len, d));
        }
        self.lse.clear();
        self.lse.resize(len, 0.0);
        for (head, lse) in self.lse.chunks_mut(self.height).enumerate() {
            let all = from.lse[kv_head * self.heads + head..].iter().step_by(layout.op.heads);
            let own = all.skip(block.tokens.start).take(block.tokens.len());
            for (to, lse) in lse.iter_mut().zip(own) {
                *to = lse * LOG2_E;
            }
        }
    }

    /// What the gradients of keys need besides.
    pub(super) fn turn(&mut self, d: usize) {
        let len = self.len();
        for (rows, panel) in [&mut self.q, &mut self.d_o].into_iter().zip(&mut self.straight) {
            panel.set(head_values(rows.bf16(len * d), len, d));
        }
    }

    /// Queries of all heads, with those that fill up.
    pub(super) const fn len(&self) -> usize {
        self.heads * self.height
    }

    /// Queries of a head, with those that fill up.
    pub(super) const fn height(&self) -> usize {
        self.height
    }
}

/// Rows of a block `[head][token][head_dim]`, then zeros up to whole tiles after each head's.
fn by_head(layout: &Layout, x: &[bf16], block: &QueryBlock, kv_head: usize, out: &mut [bf16]) {
    let (group, cols, stride) = (layout.group(), layout.op.head_dim, layout.q_width());
    let len = out.len() / group;
    for (head, out) in out.chunks_exact_mut(len).enumerate() {
        let first = block.tokens.start * stride + (kv_head * group + head) * cols;
        gather_rows(Values { data: &x[first..], rows: block.tokens.len(), cols, stride }, out);
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
        let (layout, d) = (from.layout, from.layout.op.head_dim);
        self.height = rows.len().next_multiple_of(BLOCK);
        for (x, to) in [(from.k, &mut self.k), (from.v, &mut self.v)] {
            let values = key_values(layout, x, rows.clone(), kv_head);
            gather_rows(values, to.bf16(self.height * d));
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
    /// Of the queries' gradient, `[head_dim, head, queries]`.
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
        let (d, width, of_head) = (block.layout.op.head_dim, queries.len(), queries.height);
        let height = block.keys.len().next_multiple_of(BLOCK);
        let Self { products, d_probs, probs, d_scores, panel } = self;
        let (probs, d_scores) = (probs.bf16(BLOCK * width), d_scores.bf16(BLOCK * width));
        let (products, d_probs) = (products.f32(BLOCK * of_head), d_probs.f32(BLOCK * of_head));
        let (k, v) = (keys.k.bf16(keys.height * d), keys.v.bf16(keys.height * d));
        let Sums { queries: sum_q, keys: mut sums_k } = sums;
        let stats = (&queries.lse[..], &queries.delta[..]);
        panel.begin(width, height);
        let mut seeing = [const { 0..0 }; KEYS / BLOCK];
        // A strip at a time, which stays in L1.
        for (strip, seeing) in seeing.iter_mut().enumerate().take(height / BLOCK) {
            let tokens = block.seeing_strip(strip);
            if tokens.is_empty() {
                continue;
            }
            *seeing = tokens.clone();
            let rows = (first + strip * BLOCK) * d..(first + (strip + 1) * BLOCK) * d;
            let (k, v) = (head_values(&k[rows.clone()], BLOCK, d), head_values(&v[rows], BLOCK, d));
            for head in (0..width).step_by(of_head) {
                let cols = head + tokens.start..head + tokens.end;
                let [q, d_o] = queries.transposed.each_ref().map(|x| x.part(cols.clone(), 0));
                let new = |sums| Out { sums, width: of_head, col: 0, add: false };
                product(tiles, k, &q, new(&mut *products));
                product(tiles, v, &d_o, new(&mut *d_probs));
                let scores =
                    KeyStrip { products, d_probs, inputs_width: of_head, probs, d_scores, cols };
                let visible = |row| {
                    let tokens = block.seeing(strip * BLOCK + row);
                    head + tokens.start..head + tokens.end
                };
                softmax_gradient(block.layout.op, scores, stats, visible, (panel, strip));
            }
            if let Some([sum_k, sum_v]) = &mut sums_k {
                let rows = strip * BLOCK * d..(strip + 1) * BLOCK * d;
                let [q, d_o] = queries.straight.each_ref().map(|x| x.part(0..d, tokens.start));
                let of = |data| Values { data, rows: BLOCK, cols: tokens.len(), stride: width };
                let heads = (queries.heads, of_head);
                let (probs, d_scores) = (of(&probs[tokens.start..]), of(&d_scores[tokens.start..]));
                let old = |sums| Out { sums, width: d, col: 0, add: true };
                product_of_parts(tiles, probs, &d_o, heads, old(&mut sum_v[rows.clone()]));
                product_of_parts(tiles, d_scores, &q, heads, old(&mut sum_k[rows]));
            }
        }
        if let Some(sum) = sum_q {
            let turned = &keys.turned.bf16(keys.height * d)[first * d..];
            let stride = KEYS.min(keys.height - first);
            let keys = Values { data: turned, rows: d, cols: height, stride };
            add_to_queries(tiles, keys, (panel, &seeing), of_head, sum);
        }
    }
}

/// Adds `K^T . dS^T` to the queries' gradient: to 32 of them at a time, from the strips of keys that they see.
/// `seeing` are tokens by strip, of `of_head` in each head.
fn add_to_queries(
    tiles: &Tiles,
    keys: Values<'_>,
    (panel, seeing): (&Panel, &[Range<usize>]),
    of_head: usize,
    sums: &mut [f32],
) {
    let width = panel.width();
    for col in (0..width).step_by(BLOCK) {
        let sees = |tokens: &Range<usize>| tokens.contains(&(col % of_head));
        let Some(first) = seeing.iter().position(sees) else { continue };
        let count = seeing[first..].iter().take_while(|tokens| sees(tokens)).count();
        let (depth, cols) = (first * BLOCK, count * BLOCK);
        let left = Values { data: &keys.data[depth..], cols, ..keys };
        let out = Out { sums: &mut *sums, width, col, add: true };
        product(tiles, left, &panel.part(col..col + BLOCK, depth), out);
    }
}
