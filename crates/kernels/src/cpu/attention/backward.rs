//! Gradients of attention: in one pass where there are sequences and heads enough for the threads, else in two, by
//! blocks of queries for dQ and by blocks of keys for dK and dV, where scores are recomputed twice. Either way a task
//! owns what it writes, and the sums have the same order, so the results are the same bits.

use std::ops::Range;

use super::KEYS;
use super::forward::key_blocks;
use super::layout::{Layout, QueryBlock, Sequence};
use super::scores::{Block, group_rows, key_rows};
#[cfg(amx)]
use super::tiled;
use crate::Result;
use crate::check::lengths;
use crate::cpu::Cpu;
use crate::cpu::check::Op;
use crate::cpu::fma::{Mat, gemm};
use crate::cpu::reduce;
use crate::cpu::simd::simd;
use crate::cpu::team;
use crate::cpu::tiles::tiles;
use crate::cpu::view::{FloatMut, FloatRef, sized};
use crate::ops::{Attention, AttentionGrads, Sequences};

/// Operands that both passes read.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) layout: &'a Layout,
    pub(super) q: FloatRef<'a>,
    pub(super) k: FloatRef<'a>,
    pub(super) v: FloatRef<'a>,
    pub(super) o: FloatRef<'a>,
    pub(super) d_o: FloatRef<'a>,
    pub(super) lse: &'a [f32],
}

/// The same, and `dO . O` by query and head.
#[derive(Clone, Copy)]
struct WithDelta<'a> {
    inputs: Inputs<'a>,
    delta: &'a [f32],
}

#[derive(Default)]
struct Scratch {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    d_o: Vec<f32>,
    lse: Vec<f32>,
    delta: Vec<f32>,
    probs: Vec<f32>,
    d_scores: Vec<f32>,
}

pub(in crate::cpu) fn backward(
    cpu: &Cpu,
    op: Attention,
    sequences: &Sequences<Cpu>,
    grads: AttentionGrads<'_, Cpu>,
) -> Result<()> {
    let AttentionGrads { q, k, v, o, lse, d_o, dq, dk, dv } = grads;
    let name = Op("attention_backward");
    let layout = &Layout::new(name, op, sequences)?;
    cpu.count_flops(name.0, op.flops(5, lengths(&layout.sequences)));
    let (q_len, k_len) = (layout.q_tokens * layout.q_width(), layout.k_tokens * layout.k_width());
    let inputs = Inputs {
        layout,
        q: name.float("q", q, q_len)?,
        k: name.float("k", k, k_len)?,
        v: name.float("v", v, k_len)?,
        o: name.float("o", o, q_len)?,
        d_o: name.float("d_o", d_o, q_len)?,
        lse: name.f32("lse", lse, layout.q_tokens * op.heads)?,
    };
    let dq = name.float_mut("dq", dq, q_len)?;
    let dk = name.float_mut("dk", dk, k_len)?;
    let dv = name.float_mut("dv", dv, k_len)?;
    #[cfg(amx)]
    if let (FloatMut::Bf16(_), Some(inputs)) = (&dq, tiled::Backward::new(inputs)) {
        inputs.run(dq, dk, dv);
        return Ok(());
    }
    let mut delta = cpu.scratch(layout.q_tokens * op.heads)?;
    row_dots(inputs.o, inputs.d_o, op.head_dim, &mut delta);
    let inputs = WithDelta { inputs, delta: &delta };
    if layout.in_one_pass() {
        in_one_pass(inputs, dq, dk, dv);
    } else {
        query_gradient(inputs, dq);
        key_gradients(inputs, dk, dv);
    }
    Ok(())
}

/// Every task has one head of k and v of a sequence whose keys no other reads.
fn in_one_pass(inputs: WithDelta<'_>, dq: FloatMut<'_>, dk: FloatMut<'_>, dv: FloatMut<'_>) {
    let layout = inputs.inputs.layout;
    let Attention { kv_heads, head_dim: d, .. } = layout.op;
    let whole: Vec<_> = layout.whole_sequences().collect();
    let dq = layout.query_tiles(dq, layout.q_width(), &whole).into_iter();
    let [dk, dv] = [dk, dv].map(|x| layout.key_tiles(x).into_iter());
    let tasks = dq.zip(dk.zip(dv)).enumerate();
    let init = || (Scratch::default(), [const { Vec::new() }; 3]);
    team::for_each_init(tasks, init, |(scratch, sums), (task, (dq, (mut dk, mut dv)))| {
        let (sequence, kv_head) = (&layout.sequences[task / kv_heads], task % kv_heads);
        let [sum_q, sum_k, sum_v] = sums;
        let [sum_k, sum_v] = [sum_k, sum_v].map(|sum| zeros(sum, sequence.k.len() * d));
        let blocks = layout.blocks_of(sequence, sequence.q.clone());
        for (block, mut dq) in blocks.zip(dq.split(layout.block_tokens())) {
            inputs.load(&block, kv_head, scratch);
            let sum_q = zeros(sum_q, block.tokens.len() * layout.group() * d);
            for keys in key_blocks(layout.keys_of(&block)) {
                let rows = keys.start * d..keys.end * d;
                let parts = inputs.recompute(sequence, &block, keys, kv_head, scratch);
                gemm(sum_q, true, 1.0, parts.d_scores, parts.k);
                parts.add_key_gradients(&mut sum_k[rows.clone()], &mut sum_v[rows]);
            }
            dq.store(sum_q);
        }
        dk.store(sum_k);
        dv.store(sum_v);
    });
}

fn zeros(scratch: &mut Vec<f32>, len: usize) -> &mut [f32] {
    let zeros = sized(scratch, len);
    zeros.fill(0.0);
    zeros
}

fn row_dots(x: FloatRef<'_>, y: FloatRef<'_>, cols: usize, out: &mut [f32]) {
    const ROWS: usize = 64;
    let tasks = out.chunks_mut(ROWS).enumerate();
    team::for_each_init(tasks, Default::default, |scratch: &mut [Vec<f32>; 2], (task, out)| {
        let [wide_x, wide_y] = scratch;
        let x = x.chunk(task, ROWS * cols).widen(wide_x);
        let y = y.chunk(task, ROWS * cols).widen(wide_y);
        for ((out, x), y) in out.iter_mut().zip(x.chunks(cols)).zip(y.chunks(cols)) {
            *out = simd!(reduce::dot(x, y));
        }
    });
}

fn query_gradient(inputs: WithDelta<'_>, dq: FloatMut<'_>) {
    let layout = inputs.inputs.layout;
    let Attention { kv_heads, head_dim, .. } = layout.op;
    let blocks = layout.query_blocks();
    let tasks = layout.query_tiles(dq, layout.q_width(), &blocks).into_iter().enumerate();
    let init = || (Scratch::default(), Vec::new());
    team::for_each_init(tasks, init, |(scratch, acc), (task, mut dq)| {
        let ((sequence, block), kv_head) = (&blocks[task / kv_heads], task % kv_heads);
        inputs.load(block, kv_head, scratch);
        let acc = zeros(acc, block.tokens.len() * layout.group() * head_dim);
        for keys in key_blocks(layout.keys_of(block)) {
            let parts = inputs.recompute(sequence, block, keys, kv_head, scratch);
            gemm(acc, true, 1.0, parts.d_scores, parts.k);
        }
        dq.store(acc);
    });
}

fn key_gradients(inputs: WithDelta<'_>, dk: FloatMut<'_>, dv: FloatMut<'_>) {
    let (d, width) = (inputs.inputs.layout.op.head_dim, inputs.inputs.layout.k_width());
    let [dk, dv] = [dk, dv].map(|x| tiles(x, width, 0..width, KEYS, d).into_iter());
    let init = || (Scratch::default(), Vec::new(), Vec::new());
    team::for_each_init(dk.zip(dv), init, |(scratch, acc_k, acc_v), (mut dk, mut dv)| {
        let rows = dk.row..dk.row + dk.rows;
        let [acc_k, acc_v] = [acc_k, acc_v].map(|acc| zeros(acc, rows.len() * d));
        inputs.add_key_gradients(rows, dk.col / d, (acc_k, acc_v), scratch);
        dk.store(acc_k);
        dv.store(acc_v);
    });
}

/// What the products of a block with its gradients need.
struct Parts<'s> {
    q: Mat<'s>,
    k: Mat<'s>,
    d_o: Mat<'s>,
    probs: Mat<'s>,
    d_scores: Mat<'s>,
}

impl Parts<'_> {
    fn add_key_gradients(&self, sum_k: &mut [f32], sum_v: &mut [f32]) {
        gemm(sum_v, true, 1.0, self.probs.t(), self.d_o);
        gemm(sum_k, true, 1.0, self.d_scores.t(), self.q);
    }
}

impl<'a> WithDelta<'a> {
    /// Adds the gradients of the rows `rows` of one head of k and v, from all sequences that read
    /// them.
    fn add_key_gradients(
        &self,
        rows: Range<usize>,
        kv_head: usize,
        (acc_k, acc_v): (&mut [f32], &mut [f32]),
        scratch: &mut Scratch,
    ) {
        let layout = self.inputs.layout;
        let d = layout.op.head_dim;
        for sequence in &layout.sequences {
            let start = sequence.k.start.max(rows.start);
            let end = sequence.k.end.min(rows.end);
            if start >= end {
                continue;
            }
            let part = (start - rows.start) * d..(end - rows.start) * d;
            let keys = start - sequence.k.start..end - sequence.k.start;
            let (acc_k, acc_v) = (&mut acc_k[part.clone()], &mut acc_v[part]);
            let queries = layout.queries_of(sequence, &keys);
            let see = |block: &QueryBlock| {
                block.tokens.start < queries.end && queries.start < block.tokens.end
            };
            for block in layout.blocks_of(sequence, sequence.q.clone()).filter(see) {
                self.load(&block, kv_head, scratch);
                let parts = self.recompute(sequence, &block, keys.clone(), kv_head, scratch);
                parts.add_key_gradients(acc_k, acc_v);
            }
        }
    }

    /// Brings the rows of a block of queries into scratch.
    fn load(&self, block: &QueryBlock, kv_head: usize, scratch: &mut Scratch) {
        let Inputs { layout, q, d_o, lse, .. } = self.inputs;
        group_rows(layout, q, block, kv_head, &mut scratch.q);
        group_rows(layout, d_o, block, kv_head, &mut scratch.d_o);
        for (from, to) in [(lse, &mut scratch.lse), (self.delta, &mut scratch.delta)] {
            row_values(layout, from, block, kv_head, to);
        }
    }

    /// Probabilities and gradients of the raw products of a loaded block against `keys`.
    fn recompute<'s>(
        &self,
        sequence: &Sequence,
        queries: &QueryBlock,
        keys: Range<usize>,
        kv_head: usize,
        scratch: &'s mut Scratch,
    ) -> Parts<'s>
    where
        'a: 's,
    {
        let Inputs { layout, k, v, .. } = self.inputs;
        let (rows, d) = (queries.tokens.len() * layout.group(), layout.op.head_dim);
        let q = Mat::new(&scratch.q, rows, d);
        let d_o = Mat::new(&scratch.d_o, rows, d);
        let range = sequence.k.start + keys.start..sequence.k.start + keys.end;
        let k = key_rows(layout, k, range.clone(), kv_head, &mut scratch.k);
        let v = key_rows(layout, v, range, kv_head, &mut scratch.v);
        let cols = keys.len();
        let probs = sized(&mut scratch.probs, rows * cols);
        let d_scores = sized(&mut scratch.d_scores, rows * cols);
        gemm(probs, false, 1.0, q, k.t());
        gemm(d_scores, false, 1.0, d_o, v.t());
        let block = Block { layout, queries, keys };
        block.gradient(probs, d_scores, (&scratch.lse, &scratch.delta));
        Parts {
            q,
            k,
            d_o,
            probs: Mat::new(probs, rows, cols),
            d_scores: Mat::new(d_scores, rows, cols),
        }
    }
}

/// Values by query and head for the rows of a block.
fn row_values(
    layout: &Layout,
    from: &[f32],
    block: &QueryBlock,
    kv_head: usize,
    to: &mut Vec<f32>,
) {
    let (heads, group) = (layout.op.heads, layout.group());
    to.clear();
    for token in block.tokens.clone() {
        let start = token * heads + kv_head * group;
        to.extend_from_slice(&from[start..start + group]);
    }
}
