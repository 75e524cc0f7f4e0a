use std::cell::RefCell;

use half::bf16;

use super::super::forward::{key_blocks, normalize, online_softmax};
use super::super::layout::{Layout, QueryBlock, Sequence};
use super::super::scores::Block;
use super::{key_values, narrow_operands, query_rows, round};
use crate::cpu::Cpu;
use crate::cpu::amx::{BLOCK, Lines, Panel, product};
use crate::cpu::simd::simd;
use crate::cpu::team;
use crate::cpu::view::{FloatMut, FloatRef, sized};

/// Operands of the forward.
pub(in crate::cpu::attention) struct Forward<'a> {
    layout: &'a Layout,
    q: &'a [bf16],
    k: &'a [bf16],
    v: &'a [bf16],
}

#[derive(Default)]
struct Scratch {
    q: Lines,
    k: Panel,
    v: Panel,
    scores: Lines,
    probs: Lines,
    /// Unnormalised output rows.
    out: Lines,
    max: Vec<f32>,
    sum: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl<'a> Forward<'a> {
    pub(in crate::cpu::attention) fn new(
        cpu: &Cpu,
        layout: &'a Layout,
        operands: [FloatRef<'a>; 3],
    ) -> Option<Self> {
        let [q, k, v] = narrow_operands(cpu, layout, operands)?;
        Some(Self { layout, q, k, v })
    }

    pub(in crate::cpu::attention) fn run(&self, o: FloatMut<'_>, lse: FloatMut<'_>) {
        let (layout, op) = (self.layout, self.layout.op);
        let blocks = layout.query_blocks();
        let outputs = layout.query_tiles(o, layout.q_width(), &blocks).into_iter();
        let tasks = outputs.zip(layout.query_tiles(lse, op.heads, &blocks)).enumerate();
        team::for_each(tasks, |(task, (mut o, mut lse))| {
            let (sequence, block) = &blocks[task / op.kv_heads];
            let rows = block.tokens.len() * layout.group();
            SCRATCH.with_borrow_mut(|scratch| {
                self.attend(sequence, block, task % op.kv_heads, scratch);
                let (out, max) = (scratch.out.f32(rows * op.head_dim), &mut scratch.max[..rows]);
                normalize(out, max, &scratch.sum);
                o.store(out);
                lse.store(max);
            });
        });
    }

    /// Leaves unnormalised outputs, maxima and sums in scratch.
    fn attend(
        &self,
        sequence: &Sequence,
        queries: &QueryBlock,
        kv_head: usize,
        scratch: &mut Scratch,
    ) {
        let (layout, d) = (self.layout, self.layout.op.head_dim);
        let rows = queries.tokens.len() * layout.group();
        let q = query_rows(layout, self.q, queries, kv_head, &mut scratch.q);
        let out = scratch.out.f32(q.len());
        let (max, sum) = (sized(&mut scratch.max, rows), sized(&mut scratch.sum, rows));
        out.fill(0.0);
        max.fill(f32::NEG_INFINITY);
        sum.fill(0.0);
        for keys in key_blocks(layout.keys_of(queries)) {
            let range = sequence.k.start + keys.start..sequence.k.start + keys.end;
            scratch.k.set_transposed(key_values(layout, self.k, range.clone(), kv_head));
            scratch.v.set(key_values(layout, self.v, range, kv_head));
            let cols = keys.len().next_multiple_of(BLOCK);
            let scores = scratch.scores.f32(q.len() / d * cols);
            product(q, &scratch.k, scores, false);
            let seen = &mut scores[..rows * cols];
            Block { layout, queries, keys }.mask(seen, cols);
            let state = max.iter_mut().zip(sum.iter_mut());
            for ((scores, out), (max, sum)) in
                seen.chunks_mut(cols).zip(out.chunks_mut(d)).zip(state)
            {
                simd!(online_softmax(scores, out, max, sum));
            }
            product(round(scores, &mut scratch.probs), &scratch.v, out, true);
        }
    }
}
