use std::cell::RefCell;
use std::ops::Range;

use half::bf16;

use super::super::forward::{key_blocks, normalize};
use super::super::layout::{Layout, QueryBlock, Sequence};
use super::super::scores::{Block, to_scores};
use super::{key_values, narrow_operands, query_rows, vectors_mut, whole_vectors};
use crate::cpu::amx::{BLOCK, Panel, product};
use crate::cpu::exp::exp;
use crate::cpu::lines::Lines;
use crate::cpu::reduce;
use crate::cpu::simd::simd;
use crate::cpu::team;
use crate::cpu::view::{FloatMut, FloatRef, narrow, sized};
use crate::ops::Attention;

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
        layout: &'a Layout,
        operands: [FloatRef<'a>; 3],
    ) -> Option<Self> {
        let [q, k, v] = narrow_operands(layout, operands)?;
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
            let len = q.len() / d * cols;
            let (scores, probs) = (scratch.scores.f32(len), scratch.probs.bf16(len));
            product(q, &scratch.k, scores, false);
            let block = Block { layout, queries, keys };
            let state = max.iter_mut().zip(sum.iter_mut()).zip(out.chunks_mut(d));
            let rows = scores.chunks_mut(cols).zip(probs.chunks_mut(cols)).zip(state).enumerate();
            simd!(for (row, ((scores, probs), ((max, sum), out))) in rows {
                let visible = block.visible(row);
                let whole = whole_vectors(&visible);
                probs[..whole.start].fill(bf16::ZERO);
                probs[whole.end..].fill(bf16::ZERO);
                let seen = (&mut scores[whole.clone()], &mut probs[whole.clone()]);
                let visible = visible.start - whole.start..visible.end - whole.start;
                online_softmax(layout.op, seen, visible, out, (max, sum));
            });
            product(probs, &scratch.v, out, true);
        }
    }
}

/// Turns raw products, of which a query sees those in `visible`, into weights relative to the running
/// maximum, rounded into `probs`, and rescales what came before.
#[expect(clippy::inline_always, reason = "compiled for the caller's instruction set")]
#[inline(always)]
fn online_softmax(
    op: Attention,
    (scores, probs): (&mut [f32], &mut [bf16]),
    visible: Range<usize>,
    out: &mut [f32],
    (max, sum): (&mut f32, &mut f32),
) {
    to_scores(op, scores);
    scores[..visible.start].fill(f32::NEG_INFINITY);
    scores[visible.end..].fill(f32::NEG_INFINITY);
    let largest = reduce::max(scores);
    if largest > *max {
        if *sum != 0.0 {
            let correction = exp(*max - largest);
            *sum *= correction;
            for out in out.iter_mut() {
                *out *= correction;
            }
        }
        *max = largest;
    }
    // Nothing visible so far, or nothing but negative infinity: exp(-inf + inf) has no value.
    let max = if *max == f32::NEG_INFINITY { 0.0 } else { *max };
    for (scores, probs) in vectors_mut(scores).zip(vectors_mut(probs)) {
        for (score, prob) in scores.iter_mut().zip(probs) {
            *score = exp(*score - max);
            *prob = narrow(*score);
        }
    }
    *sum += reduce::sum(scores);
}
