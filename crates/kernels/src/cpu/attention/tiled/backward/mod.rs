//! Gradients on the matrix unit: in one pass where there are sequences and heads enough for the threads,
//! else in two. Both sum in the same order, so the results are the same bits.

mod block;

use std::cell::RefCell;
use std::ops::Range;

use half::bf16;

use self::block::{Keys, Pair, Queries, Sums, block_tokens};
use super::super::backward::Inputs;
use super::super::layout::{Layout, QueryBlock, Sequence, parts_of};
use super::super::scores::Block;
use super::{KEYS, narrow_operands};
use crate::cpu::amx::{BLOCK, Tiles, transpose_rounded};
use crate::cpu::lines::Lines;
use crate::cpu::team;
use crate::cpu::tiles::{Tile, tiles};
use crate::cpu::view::FloatMut;
use crate::ops::Attention;

/// Operands of all passes.
pub(in crate::cpu::attention) struct Backward<'a> {
    layout: &'a Layout,
    q: &'a [bf16],
    k: &'a [bf16],
    v: &'a [bf16],
    o: &'a [bf16],
    d_o: &'a [bf16],
    lse: &'a [f32],
}

#[derive(Default)]
struct Scratch {
    queries: Queries,
    keys: Keys,
    pair: Pair,
    sum_q: QuerySum,
    /// Gradients of a task's keys.
    sums: [Lines; 2],
    /// The part of them from one sequence.
    parts: [Lines; 2],
}

/// The gradient of a block of queries.
#[derive(Default)]
struct QuerySum {
    turned: Lines,
    rows: Lines,
}

impl QuerySum {
    /// Zeros, `[head_dim, head, queries]`.
    fn begin(&mut self, queries: &Queries, d: usize) -> &mut [f32] {
        let sum = self.turned.f32(queries.len() * d);
        sum.fill(0.0);
        sum
    }

    fn store(&mut self, queries: &Queries, d: usize, out: &mut Tile<'_>) {
        let (len, height) = (queries.len() * d, queries.height());
        let rows = self.rows.bf16(len);
        transpose_rounded(self.turned.f32(len), queries.len(), rows);
        for token in 0..out.rows {
            for (head, rows) in rows.chunks_exact(height * d).enumerate() {
                out.set(token, head * d, &rows[token * d..(token + 1) * d]);
            }
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl<'a> Backward<'a> {
    pub(in crate::cpu::attention) fn new(inputs: Inputs<'a>) -> Option<Self> {
        let Inputs { layout, q, k, v, o, d_o, lse } = inputs;
        let [q, k, v, o, d_o] = narrow_operands(layout, [q, k, v, o, d_o])?;
        Some(Self { layout, q, k, v, o, d_o, lse })
    }

    pub(in crate::cpu::attention) fn run(
        &self,
        dq: FloatMut<'_>,
        dk: FloatMut<'_>,
        dv: FloatMut<'_>,
    ) {
        if self.layout.in_one_pass() {
            self.in_one_pass(dq, dk, dv);
        } else {
            self.query_gradient(dq);
            self.key_gradients(dk, dv);
        }
    }

    /// Every task has one head of k and v of a sequence whose keys no other reads.
    fn in_one_pass(&self, dq: FloatMut<'_>, dk: FloatMut<'_>, dv: FloatMut<'_>) {
        let layout = self.layout;
        let Attention { kv_heads, head_dim: d, .. } = layout.op;
        let whole: Vec<_> = layout.whole_sequences().collect();
        let dq = layout.query_tiles(dq, layout.q_width(), &whole).into_iter();
        let [dk, dv] = [dk, dv].map(|x| layout.key_tiles(x).into_iter());
        team::for_each(dq.zip(dk.zip(dv)).enumerate(), |(task, (dq, (mut dk, mut dv)))| {
            let (sequence, kv_head) = (&layout.sequences[task / kv_heads], task % kv_heads);
            SCRATCH.with_borrow_mut(|scratch| {
                let Scratch { queries, keys, pair, sum_q, sums, .. } = scratch;
                let tiles = &Tiles::configure();
                keys.load(self, sequence.k.clone(), kv_head);
                keys.turn(d);
                let [sum_k, sum_v] = sums.each_mut().map(|x| x.f32(keys.height() * d));
                sum_k.fill(0.0);
                sum_v.fill(0.0);
                let step = block_tokens(layout.group());
                let blocks = parts_of(sequence, sequence.q.clone(), step);
                for (block, mut dq) in blocks.zip(dq.split(step)) {
                    queries.load(self, &block, kv_head);
                    queries.turn(d);
                    let sum = sum_q.begin(queries, d);
                    for range in key_blocks(layout, sequence, &block) {
                        let first = range.start;
                        let rows = first * d..range.end.next_multiple_of(BLOCK) * d;
                        let keys_sums = [&mut sum_k[rows.clone()], &mut sum_v[rows]];
                        let sums = Sums { queries: Some(&mut *sum), keys: Some(keys_sums) };
                        let block = Block { layout, queries: &block, keys: range };
                        pair.add(tiles, &block, (queries, keys, first), sums);
                    }
                    sum_q.store(queries, d, &mut dq);
                }
                dk.store(&sum_k[..dk.rows * d]);
                dv.store(&sum_v[..dv.rows * d]);
            });
        });
    }

    /// By blocks of queries.
    fn query_gradient(&self, dq: FloatMut<'_>) {
        let layout = self.layout;
        let Attention { kv_heads, head_dim: d, .. } = layout.op;
        let blocks = layout.cut(block_tokens(layout.group()));
        let tasks = layout.query_tiles(dq, layout.q_width(), &blocks).into_iter().enumerate();
        team::for_each(tasks, |(task, mut dq)| {
            let ((sequence, block), kv_head) = (&blocks[task / kv_heads], task % kv_heads);
            SCRATCH.with_borrow_mut(|scratch| {
                let Scratch { queries, keys, pair, sum_q, .. } = scratch;
                let tiles = &Tiles::configure();
                queries.load(self, block, kv_head);
                let sum = sum_q.begin(queries, d);
                for range in key_blocks(layout, sequence, block) {
                    let rows = sequence.k.start + range.start..sequence.k.start + range.end;
                    keys.load(self, rows, kv_head);
                    keys.turn(d);
                    let sums = Sums { queries: Some(&mut *sum), keys: None };
                    let block = Block { layout, queries: block, keys: range };
                    pair.add(tiles, &block, (queries, keys, 0), sums);
                }
                sum_q.store(queries, d, &mut dq);
            });
        });
    }

    /// By blocks of keys, each from all sequences that read it.
    fn key_gradients(&self, dk: FloatMut<'_>, dv: FloatMut<'_>) {
        let (d, width) = (self.layout.op.head_dim, self.layout.k_width());
        let [dk, dv] = [dk, dv].map(|x| tiles(x, width, 0..width, KEYS, d).into_iter());
        team::for_each(dk.zip(dv), |(mut dk, mut dv)| {
            SCRATCH.with_borrow_mut(|scratch| {
                let rows = dk.row..dk.row + dk.rows;
                let mut sums = std::mem::take(&mut scratch.sums);
                let [sum_k, sum_v] = sums.each_mut().map(|x| x.f32(rows.len() * d));
                sum_k.fill(0.0);
                sum_v.fill(0.0);
                self.add_key_gradients(rows, dk.col / d, [&mut *sum_k, &mut *sum_v], scratch);
                dk.store(sum_k);
                dv.store(sum_v);
                scratch.sums = sums;
            });
        });
    }

    fn add_key_gradients(
        &self,
        rows: Range<usize>,
        kv_head: usize,
        mut sums: [&mut [f32]; 2],
        scratch: &mut Scratch,
    ) {
        let (layout, d) = (self.layout, self.layout.op.head_dim);
        let Scratch { queries, keys, pair, parts, .. } = scratch;
        let tiles = &Tiles::configure();
        for sequence in &layout.sequences {
            let start = sequence.k.start.max(rows.start);
            let end = sequence.k.end.min(rows.end);
            if start >= end {
                continue;
            }
            keys.load(self, start..end, kv_head);
            let [part_k, part_v] = parts.each_mut().map(|x| x.f32(keys.height() * d));
            part_k.fill(0.0);
            part_v.fill(0.0);
            let range = start - sequence.k.start..end - sequence.k.start;
            let seeing = layout.queries_of(sequence, &range);
            let step = block_tokens(layout.group());
            let blocks = parts_of(sequence, sequence.q.clone(), step);
            let sees = |x: &QueryBlock| x.tokens.start < seeing.end && seeing.start < x.tokens.end;
            for block in blocks.filter(sees) {
                queries.load(self, &block, kv_head);
                queries.turn(d);
                let sums = Sums { queries: None, keys: Some([&mut *part_k, &mut *part_v]) };
                let block = Block { layout, queries: &block, keys: range.clone() };
                pair.add(tiles, &block, (queries, keys, 0), sums);
            }
            let target = (start - rows.start) * d..(end - rows.start) * d;
            for (sum, part) in sums.iter_mut().zip([part_k, part_v]) {
                sum[target.clone()].iter_mut().zip(part).for_each(|(sum, part)| *sum += *part);
            }
        }
    }
}

/// Keys of the sequence that the block sees, in parts that begin at multiples of [`KEYS`].
fn key_blocks(
    layout: &Layout,
    sequence: &Sequence,
    block: &QueryBlock,
) -> impl Iterator<Item = Range<usize>> + use<> {
    let Range { start, end } = layout.keys_of(block);
    // Whole tiles, as far as there are keys, so that it does not matter how many are loaded together.
    let end = end.next_multiple_of(BLOCK).min(sequence.k.len());
    (start / KEYS * KEYS..end).step_by(KEYS).map(move |start| start..end.min(start + KEYS))
}
