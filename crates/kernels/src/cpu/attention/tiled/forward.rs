use std::cell::RefCell;

use half::bf16;

use super::super::layout::{Layout, QueryBlock, Sequence};
use super::super::scores::Block;
use super::{KEYS, head_values, key_values, narrow_operands};
use crate::cpu::amx::{
    BLOCK, Out, Panel, Running, Scores, Strip, Tiles, Values, gather_rows, online_softmax, product,
    rescale,
};
use crate::cpu::lines::Lines;
use crate::cpu::team;
use crate::cpu::tiles::Tile;
use crate::cpu::view::{FloatMut, FloatRef};
use crate::ops::Attention;

/// Tasks for each thread, if there are as many blocks.
const TASKS: usize = 4;
/// Most blocks of keys that a task fills panels of once, rather than for each block of queries that sees them: 4 MiB of
/// 128 elements a head.
const HELD: usize = 32;

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
    panels: KeyPanels,
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
        let runs = layout.query_runs(TASKS * rayon::current_num_threads());
        let outputs = layout.query_tiles(o, layout.q_width(), &runs).into_iter();
        let tasks = outputs.zip(layout.query_tiles(lse, op.heads, &runs)).enumerate();
        team::for_each(tasks, |(task, (o, lse))| {
            let (sequence, run) = &runs[task / op.kv_heads];
            let keys = Keys { sequence, kv_head: task % op.kv_heads };
            SCRATCH.with_borrow_mut(|scratch| {
                scratch.panels.begin(layout.keys_of(run).start / KEYS);
                let blocks = layout.blocks_of(sequence, run.tokens.clone());
                let [o, lse] = [o, lse].map(|x| x.split(layout.block_tokens()));
                for (block, (o, mut lse)) in blocks.zip(o.into_iter().zip(lse)) {
                    let mut o = o.of_matrix_unit(false);
                    o.prefetch();
                    self.attend(keys, &block, scratch);
                    scratch.store(op, &mut o, &mut lse);
                }
            });
        });
    }

    /// Leaves unnormalised outputs, maxima and sums in scratch.
    fn attend(&self, keys: Keys<'_>, queries: &QueryBlock, scratch: &mut Scratch) {
        let (layout, d) = (self.layout, self.layout.op.head_dim);
        let Scratch { q, panels, scores, probs, out, running, .. } = scratch;
        let q = query_rows(layout, self.q, queries, keys.kv_head, q);
        let out = out.f32(q.len());
        running.clear();
        running.resize(queries.tokens.len() * layout.group(), Running::EMPTY);
        let tiles = &Tiles::configure();
        let visible = layout.keys_of(queries);
        for index in visible.start / KEYS..visible.end.div_ceil(KEYS) {
            let range = index * KEYS..visible.end.min((index + 1) * KEYS);
            let [k, v] = panels.of(self, keys, index);
            let block = Block { layout, queries, keys: range };
            let strips = q.chunks(BLOCK * d).zip(out.chunks_mut(BLOCK * d));
            // A strip at a time, which stays in L1.
            for (strip, ((q, out), running)) in strips.zip(running.chunks_mut(BLOCK)).enumerate() {
                let first = strip * BLOCK;
                let visible = block.visible_rows(first);
                let cols = visible[0].start / BLOCK * BLOCK
                    ..visible[running.len() - 1].end.next_multiple_of(BLOCK);
                if cols.is_empty() {
                    continue;
                }
                let (scores, probs) = (scores.f32(BLOCK * KEYS), probs.bf16(BLOCK * KEYS));
                let width = k.width();
                let (scores, probs) = (&mut scores[..BLOCK * width], &mut probs[..BLOCK * width]);
                let (q, k) = (head_values(q, BLOCK, d), k.part(cols.clone(), 0));
                product(tiles, q, &k, Out { sums: scores, width, col: cols.start, add: false });
                let begun = running.iter().any(|x| x.sum != 0.0);
                let rows = Strip { products: scores, probs, width, cols: cols.clone() };
                let factors = online_softmax(layout.op, rows, &visible, running);
                if begun {
                    rescale(out, &factors);
                }
                let probs = Values {
                    data: &probs[cols.start..],
                    rows: BLOCK,
                    cols: cols.len(),
                    stride: width,
                };
                let out = Out { sums: out, width: d, col: 0, add: begun };
                product(tiles, probs, &v.part(0..d, cols.start), out);
            }
        }
    }
}

/// Keys and values of a task.
#[derive(Clone, Copy)]
struct Keys<'a> {
    sequence: &'a Sequence,
    kv_head: usize,
}

/// Panels of consecutive blocks of keys and values.
#[derive(Default)]
struct KeyPanels {
    /// The first block.
    first: usize,
    /// Blocks from there on that are in `held`.
    filled: usize,
    held: Vec<[Panel; 2]>,
    /// Of any block after those.
    other: [Panel; 2],
}

impl KeyPanels {
    /// Forgets all, and holds blocks from `first` on.
    const fn begin(&mut self, first: usize) {
        (self.first, self.filled) = (first, 0);
    }

    /// Panels of a block, which is none before the first.
    fn of(&mut self, from: &Forward<'_>, keys: Keys<'_>, block: usize) -> &[Panel; 2] {
        if block >= self.first + HELD {
            from.fill(keys, block, &mut self.other);
            return &self.other;
        }
        while self.first + self.filled <= block {
            if self.held.len() == self.filled {
                self.held.push(<[Panel; 2]>::default());
            }
            from.fill(keys, self.first + self.filled, &mut self.held[self.filled]);
            self.filled += 1;
        }
        &self.held[block - self.first]
    }
}

impl Forward<'_> {
    /// Of all keys of a block, seen or not.
    fn fill(&self, keys: Keys<'_>, block: usize, [k, v]: &mut [Panel; 2]) {
        let Keys { sequence, kv_head } = keys;
        let keys = block * KEYS..sequence.k.len().min((block + 1) * KEYS);
        let rows = sequence.k.start + keys.start..sequence.k.start + keys.end;
        k.set_transposed(key_values(self.layout, self.k, rows.clone(), kv_head));
        v.set(key_values(self.layout, self.v, rows, kv_head));
    }
}

impl Scratch {
    /// Divides outputs by the sums of their weights and stores them, and the logarithms of the whole sums.
    fn store(&mut self, op: Attention, o: &mut Tile<'_>, lse: &mut Tile<'_>) {
        let factor = Scores::new(op).factor();
        let Self { out, running, lse: values, .. } = self;
        let out = out.f32((running.len() * op.head_dim).next_multiple_of(BLOCK * op.head_dim));
        values.clear();
        for (out, running) in out.chunks_mut(BLOCK * op.head_dim).zip(running.chunks(BLOCK)) {
            let mut inverse = [0.0; BLOCK];
            for (inverse, Running { max, sum }) in inverse.iter_mut().zip(running) {
                *inverse = 1.0 / sum;
                values.push(max * factor + sum.ln());
            }
            rescale(out, &inverse);
        }
        o.store(&out[..running.len() * op.head_dim]);
        lse.store(values);
    }
}

/// The rows of a block of queries for one group of heads `[tokens * group, head_dim]`, then zeros up to whole tiles.
fn query_rows<'s>(
    layout: &Layout,
    x: &[bf16],
    queries: &QueryBlock,
    kv_head: usize,
    scratch: &'s mut Lines,
) -> &'s [bf16] {
    let width = layout.group() * layout.op.head_dim;
    let len = queries.tokens.len() * width;
    let out = scratch.bf16(len.next_multiple_of(BLOCK * layout.op.head_dim));
    let first = queries.tokens.start * layout.q_width() + kv_head * width;
    let (rows, stride) = (queries.tokens.len(), layout.q_width());
    gather_rows(Values { data: &x[first..], rows, cols: width, stride }, out);
    out
}
