use std::cell::RefCell;

use half::bf16;

use super::super::forward::key_blocks;
use super::super::layout::{Layout, QueryBlock, Sequence};
use super::super::scores::Block;
use super::{head_values, key_values, narrow_operands, query_rows};
use crate::cpu::amx::{BLOCK, Panel, Running, Scores, Tiles, online_softmax, product};
use crate::cpu::lines::Lines;
use crate::cpu::team;
use crate::cpu::view::{FloatMut, FloatRef};
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
    running: Vec<Running>,
    lse: Vec<f32>,
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
                let Scratch { out, running, lse: values, .. } = scratch;
                let out = out.f32(rows * op.head_dim);
                values.clear();
                values.extend(normalize(layout.op, out, running));
                o.store(out);
                lse.store(values);
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
        scratch.running.clear();
        scratch.running.resize(rows, Running::EMPTY);
        let tiles = &Tiles::configure();
        out.fill(0.0);
        for keys in key_blocks(layout.keys_of(queries)) {
            let range = sequence.k.start + keys.start..sequence.k.start + keys.end;
            scratch.k.set_transposed(key_values(layout, self.k, range.clone(), kv_head));
            scratch.v.set(key_values(layout, self.v, range, kv_head));
            let cols = keys.len().next_multiple_of(BLOCK);
            let block = Block { layout, queries, keys };
            let strips = q.chunks(BLOCK * d).zip(out.chunks_mut(BLOCK * d));
            let state = scratch.running.chunks_mut(BLOCK);
            // A strip at a time, which stays in L1.
            for (strip, ((q, out), running)) in strips.zip(state).enumerate() {
                let scores = scratch.scores.f32(BLOCK * cols);
                let probs = scratch.probs.bf16(BLOCK * cols);
                product(tiles, head_values(q, BLOCK, d), &scratch.k, scores, false);
                let visible = |row| block.visible(strip * BLOCK + row);
                let rows = (scores, &mut *probs);
                online_softmax(layout.op, rows, cols, visible, (running, &mut *out));
                product(tiles, head_values(probs, BLOCK, cols), &scratch.v, out, true);
            }
        }
    }
}

/// Divides outputs by the sums of their weights; gives the logarithms of the whole sums.
fn normalize(op: Attention, out: &mut [f32], running: &[Running]) -> impl Iterator<Item = f32> {
    let factor = Scores::new(op).factor();
    out.chunks_mut(op.head_dim).zip(running).map(move |(out, Running { max, sum })| {
        let inverse = 1.0 / sum;
        for out in out {
            *out *= inverse;
        }
        max * factor + sum.ln()
    })
}
