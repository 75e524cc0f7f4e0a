use std::cell::RefCell;
use std::ops::Range;

use half::bf16;

use super::super::KEYS;
use super::super::backward::Inputs;
use super::super::forward::key_blocks;
use super::super::layout::{Layout, QueryBlock};
use super::super::scores::{Block, gradient};
use super::{
    LANES, head_values, key_values, narrow_operands, query_rows, vectors, vectors_mut,
    whole_vectors,
};
use crate::cpu::amx::{BLOCK, Panel, product};
use crate::cpu::lines::Lines;
use crate::cpu::simd::simd;
use crate::cpu::team;
use crate::cpu::tiles::tiles;
use crate::cpu::view::{FloatMut, narrow};
use crate::ops::Attention;

/// Operands of both passes.
pub(in crate::cpu::attention) struct Backward<'a> {
    inputs: &'a Inputs<'a>,
    q: &'a [bf16],
    k: &'a [bf16],
    v: &'a [bf16],
    d_o: &'a [bf16],
}

#[derive(Default)]
struct Scratch {
    rows: [Lines; 2],
    lse: Vec<f32>,
    delta: Vec<f32>,
    panels: [Panel; 4],
    probs: Lines,
    d_scores: Lines,
    rounded: [Lines; 2],
    /// Gradients of a task's rows.
    sums: [Lines; 2],
    /// The part of them from one sequence, and that sequence's rows of k and v.
    keys: Keys,
}

#[derive(Default)]
struct Keys {
    sums: [Lines; 2],
    values: [Lines; 2],
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl<'a> Backward<'a> {
    pub(in crate::cpu::attention) fn new(inputs: &'a Inputs<'a>) -> Option<Self> {
        let operands = [inputs.q, inputs.k, inputs.v, inputs.d_o];
        let [q, k, v, d_o] = narrow_operands(inputs.layout, operands)?;
        Some(Self { inputs, q, k, v, d_o })
    }

    const fn layout(&self) -> &'a Layout {
        self.inputs.layout
    }

    pub(in crate::cpu::attention) fn query_gradient(&self, dq: FloatMut<'_>) {
        let layout = self.layout();
        let Attention { kv_heads, head_dim: d, .. } = layout.op;
        let blocks = layout.query_blocks();
        let tasks = layout.query_tiles(dq, layout.q_width(), &blocks).into_iter().enumerate();
        team::for_each(tasks, |(task, mut dq)| {
            let ((sequence, block), kv_head) = (&blocks[task / kv_heads], task % kv_heads);
            SCRATCH.with_borrow_mut(|scratch| {
                let Scratch { rows, lse, delta, panels, probs, d_scores, rounded, sums, .. } =
                    scratch;
                let [q, d_o] = rows;
                let q = query_rows(layout, self.q, block, kv_head, q);
                let d_o = query_rows(layout, self.d_o, block, kv_head, d_o);
                self.inputs.row_values(self.inputs.lse, block, kv_head, lse);
                self.inputs.row_values(self.inputs.delta, block, kv_head, delta);
                let [k_t, v_t, k, _] = panels;
                let sum = sums[0].f32(q.len());
                sum.fill(0.0);
                for keys in key_blocks(layout.keys_of(block)) {
                    let range = sequence.k.start + keys.start..sequence.k.start + keys.end;
                    let values = key_values(layout, self.k, range.clone(), kv_head);
                    k_t.set_transposed(values);
                    k.set(values);
                    v_t.set_transposed(key_values(layout, self.v, range, kv_head));
                    let cols = keys.len().next_multiple_of(BLOCK);
                    let len = q.len() / d * cols;
                    let (probs, d_scores) = (probs.f32(len), d_scores.f32(len));
                    product(q, k_t, probs, false);
                    product(d_o, v_t, d_scores, false);
                    let block = Block { layout, queries: block, keys };
                    let rounded = rounded[0].bf16(len);
                    let rows = probs.chunks(cols).zip(d_scores.chunks(cols));
                    let rows = rows.zip(rounded.chunks_mut(cols)).zip(lse.iter().zip(&*delta));
                    simd!(
                        for (row, (((products, d_probs), out), (lse, delta))) in rows.enumerate() {
                            let visible = block.visible(row);
                            let whole = whole_vectors(&visible);
                            let inputs = (&products[whole.clone()], &d_probs[whole.clone()]);
                            query_row(layout.op, inputs, (*lse, *delta), &mut out[whole]);
                            out[..visible.start].fill(bf16::ZERO);
                            out[visible.end..].fill(bf16::ZERO);
                        }
                    );
                    product(rounded, k, sum, true);
                }
                dq.store(&sum[..lse.len() * d]);
            });
        });
    }

    pub(in crate::cpu::attention) fn key_gradients(&self, dk: FloatMut<'_>, dv: FloatMut<'_>) {
        let (d, width) = (self.layout().op.head_dim, self.layout().k_width());
        let [dk, dv] = [dk, dv].map(|x| tiles(x, width, 0..width, KEYS, d).into_iter());
        team::for_each(dk.zip(dv), |(mut dk, mut dv)| {
            SCRATCH.with_borrow_mut(|scratch| {
                let rows = dk.row..dk.row + dk.rows;
                let mut sums = std::mem::take(&mut scratch.sums);
                let [sum_k, sum_v] = sums.each_mut().map(|x| x.f32(rows.len() * d));
                sum_k.fill(0.0);
                sum_v.fill(0.0);
                self.add_key_gradients(rows, dk.col / d, (sum_k, sum_v), scratch);
                dk.store(sum_k);
                dv.store(sum_v);
                scratch.sums = sums;
            });
        });
    }

    /// Adds the gradients of the rows `rows` of one head of k and v, from all sequences that read them.
    fn add_key_gradients(
        &self,
        rows: Range<usize>,
        kv_head: usize,
        (sum_k, sum_v): (&mut [f32], &mut [f32]),
        scratch: &mut Scratch,
    ) {
        let (layout, d) = (self.layout(), self.layout().op.head_dim);
        let mut own = std::mem::take(&mut scratch.keys);
        for sequence in &layout.sequences {
            let start = sequence.k.start.max(rows.start);
            let end = sequence.k.end.min(rows.end);
            if start >= end {
                continue;
            }
            let height = (end - start).next_multiple_of(BLOCK);
            let [part_k, part_v] = own.sums.each_mut().map(|x| x.f32(height * d));
            part_k.fill(0.0);
            part_v.fill(0.0);
            let keys = start - sequence.k.start..end - sequence.k.start;
            let [k, v] = own.values.each_mut().map(|x| x.bf16(height * d));
            for (from, to) in [(self.k, &mut *k), (self.v, &mut *v)] {
                let values = key_values(layout, from, start..end, kv_head);
                to[values.rows * d..].fill(bf16::ZERO);
                for (row, to) in to.chunks_exact_mut(d).take(values.rows).enumerate() {
                    to.copy_from_slice(&values.data[row * values.stride..][..d]);
                }
            }
            for block in layout.blocks_of(sequence, layout.queries_of(sequence, &keys)) {
                self.add_block(&block, &keys, kv_head, (k, v), (part_k, part_v), scratch);
            }
            let target = (start - rows.start) * d..(end - rows.start) * d;
            for (sum, part) in [(&mut *sum_k, part_k), (&mut *sum_v, part_v)] {
                sum[target.clone()].iter_mut().zip(part).for_each(|(sum, part)| *sum += *part);
            }
        }
        scratch.keys = own;
    }

    /// Adds what a block of queries gives to the gradients of a block of keys.
    fn add_block(
        &self,
        block: &QueryBlock,
        keys: &Range<usize>,
        kv_head: usize,
        (k, v): (&[bf16], &[bf16]),
        (sum_k, sum_v): (&mut [f32], &mut [f32]),
        scratch: &mut Scratch,
    ) {
        let (layout, d) = (self.layout(), self.layout().op.head_dim);
        let Scratch { rows, lse, delta, panels, probs, d_scores, rounded, .. } = scratch;
        self.inputs.row_values(self.inputs.lse, block, kv_head, lse);
        self.inputs.row_values(self.inputs.delta, block, kv_head, delta);
        let rows_of_block = lse.len();
        let cols = rows_of_block.next_multiple_of(BLOCK);
        lse.resize(cols, 0.0);
        delta.resize(cols, 0.0);
        let [q_t, d_o_t, q, d_o] = panels;
        let sides = [(self.q, &mut *q, &mut *q_t), (self.d_o, &mut *d_o, &mut *d_o_t)];
        for ((x, panel, transposed), rows) in sides.into_iter().zip(rows) {
            let x = query_rows(layout, x, block, kv_head, rows);
            let values = head_values(x, rows_of_block, d);
            panel.set(values);
            transposed.set_transposed(values);
        }
        let len = k.len() / d * cols;
        let (probs, d_scores) = (probs.f32(len), d_scores.f32(len));
        product(k, q_t, probs, false);
        product(v, d_o_t, d_scores, false);
        let block = Block { layout, queries: block, keys: keys.clone() };
        let [out_probs, out_scores] = rounded.each_mut().map(|x| x.bf16(len));
        let rows = probs.chunks(cols).zip(d_scores.chunks(cols));
        let rows = rows.zip(out_probs.chunks_mut(cols).zip(out_scores.chunks_mut(cols)));
        simd!(for (key, ((products, d_probs), (probs, d_scores))) in rows.enumerate() {
            let visible = if key < keys.len() { block.seeing(key) } else { 0..0 };
            let whole = whole_vectors(&visible);
            let inputs = (&products[whole.clone()], &d_probs[whole.clone()]);
            let rows = (&lse[whole.clone()], &delta[whole.clone()]);
            key_row(layout.op, inputs, rows, (&mut probs[whole.clone()], &mut d_scores[whole]));
            for out in [probs, d_scores] {
                out[..visible.start].fill(bf16::ZERO);
                out[visible.end..].fill(bf16::ZERO);
            }
        });
        product(out_probs, d_o, sum_v, true);
        product(out_scores, q, sum_k, true);
    }
}

/// Gradients of one query's raw products, rounded.
#[expect(clippy::inline_always, reason = "compiled for the caller's instruction set")]
#[inline(always)]
fn query_row(
    op: Attention,
    (products, d_probs): (&[f32], &[f32]),
    (lse, delta): (f32, f32),
    d_scores: &mut [bf16],
) {
    let inputs = vectors(products).zip(vectors(d_probs));
    for (out, (products, d_probs)) in vectors_mut(d_scores).zip(inputs) {
        for i in 0..LANES {
            out[i] = narrow(gradient(op, products[i], d_probs[i], lse, delta).1);
        }
    }
}

/// Probabilities and gradients of the raw products of one key with many queries, rounded.
#[expect(clippy::inline_always, reason = "compiled for the caller's instruction set")]
#[inline(always)]
fn key_row(
    op: Attention,
    (products, d_probs): (&[f32], &[f32]),
    (lse, delta): (&[f32], &[f32]),
    (probs, d_scores): (&mut [bf16], &mut [bf16]),
) {
    let inputs = vectors(products).zip(vectors(d_probs));
    let rows = vectors(lse).zip(vectors(delta));
    let outputs = vectors_mut(probs).zip(vectors_mut(d_scores));
    for (((products, d_probs), (lse, delta)), (probs, d_scores)) in inputs.zip(rows).zip(outputs) {
        for i in 0..LANES {
            let (prob, d_score) = gradient(op, products[i], d_probs[i], lse[i], delta[i]);
            (probs[i], d_scores[i]) = (narrow(prob), narrow(d_score));
        }
    }
}
