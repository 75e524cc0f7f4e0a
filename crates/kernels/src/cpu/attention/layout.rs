//! Checked shapes of attention, and which tokens belong together.

use std::ops::Range;

use super::QUERY_ROWS;
use crate::Result;
use crate::check::Bounds;
use crate::cpu::Cpu;
use crate::cpu::check::Op;
use crate::cpu::tiles::{Tile, tiles};
use crate::cpu::view::FloatMut;
use crate::ops::{Attention, Sequences};

pub(super) use crate::check::Sequence;

impl Sequence {
    /// Position of the first query among the sequence's keys.
    pub(in crate::cpu) fn offset(&self) -> usize {
        self.k.len() - self.q.len()
    }
}

/// A block of queries of one sequence.
#[derive(Debug, Clone)]
pub(super) struct QueryBlock {
    /// Rows of q.
    pub(super) tokens: Range<usize>,
    /// Position of the first token among the sequence's keys.
    pub(super) position: usize,
}

/// Checked parameters.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) op: Attention,
    pub(super) sequences: Vec<Sequence>,
    pub(super) q_tokens: usize,
    pub(super) k_tokens: usize,
}

impl Layout {
    pub(super) fn new(name: Op, op: Attention, sequences: &Sequences<Cpu>) -> Result<Self> {
        name.attention(op)?;
        let &Sequences { count, q_tokens, k_tokens, .. } = sequences;
        let list = name.sequences(Bounds {
            q_start: name.u32("q_start", &sequences.q_start, count + 1)?,
            k_start: name.u32("k_start", &sequences.k_start, count)?,
            k_len: name.u32("k_len", &sequences.k_len, count)?,
            q_tokens,
            k_tokens,
        })?;
        Ok(Self { op, sequences: list, q_tokens, k_tokens })
    }

    /// Query heads that share a key head.
    pub(super) const fn group(&self) -> usize {
        self.op.heads / self.op.kv_heads
    }

    /// Tokens of a block of queries.
    pub(super) fn block_tokens(&self) -> usize {
        (QUERY_ROWS / self.group()).max(1)
    }

    /// Elements of one token in q.
    pub(super) const fn q_width(&self) -> usize {
        self.op.heads * self.op.head_dim
    }

    /// Elements of one token in k or v.
    pub(super) const fn k_width(&self) -> usize {
        self.op.kv_heads * self.op.head_dim
    }

    /// All queries in order, cut into blocks that do not cross sequences.
    pub(super) fn query_blocks(&self) -> Vec<(Sequence, QueryBlock)> {
        self.cut(self.block_tokens())
    }

    /// The same in runs of blocks: about `tasks` for all key heads together.
    #[cfg(amx)]
    pub(super) fn query_runs(&self, tasks: usize) -> Vec<(Sequence, QueryBlock)> {
        let step = self.block_tokens();
        let blocks = self.sequences.iter().map(|x| x.q.len().div_ceil(step)).sum::<usize>();
        self.cut((blocks * self.op.kv_heads).div_ceil(tasks).max(1) * step)
    }

    /// All queries in order, up to `step` tokens of a sequence at a time.
    pub(super) fn cut(&self, step: usize) -> Vec<(Sequence, QueryBlock)> {
        let parts = self.sequences.iter().flat_map(|sequence| {
            let parts = parts_of(sequence, sequence.q.clone(), step);
            parts.map(|part| (sequence.clone(), part))
        });
        parts.collect()
    }

    /// All queries in order, each sequence a block.
    pub(super) fn whole_sequences(&self) -> impl Iterator<Item = (Sequence, QueryBlock)> {
        self.sequences.iter().map(|sequence| {
            let block = QueryBlock { tokens: sequence.q.clone(), position: sequence.offset() };
            (sequence.clone(), block)
        })
    }

    /// Whether gradients are made in one pass, each task with one head of k and v of a sequence: keys that no other
    /// sequence reads, and enough of both for the threads.
    pub(super) fn in_one_pass(&self) -> bool {
        let tasks = self.sequences.len() * self.op.kv_heads;
        self.one_after_the_other() && tasks >= 2 * rayon::current_num_threads()
    }

    /// Whether all sequences have queries, and their keys follow one another from the first on.
    fn one_after_the_other(&self) -> bool {
        let ends = std::iter::once(0).chain(self.sequences.iter().map(|sequence| sequence.k.end));
        let follows = |(end, sequence): (usize, &Sequence)| sequence.k.start == end;
        ends.zip(&self.sequences).all(follows) && self.sequences.iter().all(|x| !x.q.is_empty())
    }

    /// An output `[q_tokens, width]` by block of queries, then by key head.
    pub(super) fn query_tiles<'a>(
        &self,
        output: FloatMut<'a>,
        width: usize,
        blocks: &[(Sequence, QueryBlock)],
    ) -> Vec<Tile<'a>> {
        let rows = output.split(blocks.iter().map(|(_, block)| block.tokens.len() * width));
        let tiles = blocks.iter().zip(rows).flat_map(|((_, block), rows)| {
            tiles(rows, width, 0..width, block.tokens.len(), width / self.op.kv_heads)
        });
        tiles.collect()
    }

    /// An output `[k_tokens, width]` by sequence, then by key head, where sequences are
    /// [one after the other](Self::one_after_the_other). Zeros go to rows that are of none.
    pub(super) fn key_tiles<'a>(&self, mut output: FloatMut<'a>) -> Vec<Tile<'a>> {
        let (width, d) = (self.k_width(), self.op.head_dim);
        let lens = self.sequences.iter().map(|sequence| sequence.k.len() * width);
        let own = output.split_off_front(lens.clone().sum());
        let unused = vec![0.0; output.len()];
        output.put(&unused);
        let rows = own.split(lens).into_iter().zip(&self.sequences);
        rows.flat_map(|(rows, sequence)| tiles(rows, width, 0..width, sequence.k.len(), d))
            .collect()
    }

    /// The queries `tokens` of a sequence, cut into blocks.
    pub(super) fn blocks_of(
        &self,
        sequence: &Sequence,
        tokens: Range<usize>,
    ) -> impl Iterator<Item = QueryBlock> + use<> {
        parts_of(sequence, tokens, self.block_tokens())
    }

    /// Keys, counted within the sequence, that any query of the block sees.
    pub(super) fn keys_of(&self, block: &QueryBlock) -> Range<usize> {
        self.first_key(block.position)..block.position + block.tokens.len()
    }

    /// First key that a query at `position` sees.
    pub(super) fn first_key(&self, position: usize) -> usize {
        self.op.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// Rows of q, of one sequence, that see any of its keys `keys` (counted within the sequence).
    pub(super) fn queries_of(&self, sequence: &Sequence, keys: &Range<usize>) -> Range<usize> {
        let past = match self.op.window {
            Some(window) => (keys.end - 1).saturating_add(window).min(sequence.k.len()),
            None => sequence.k.len(),
        };
        let row = |position: usize| {
            let queries = position.saturating_sub(sequence.offset());
            sequence.q.start + queries.min(sequence.q.len())
        };
        row(keys.start)..row(past).max(row(keys.start))
    }
}

/// The queries `tokens` of a sequence, `step` at a time.
pub(super) fn parts_of(
    sequence: &Sequence,
    tokens: Range<usize>,
    step: usize,
) -> impl Iterator<Item = QueryBlock> + use<> {
    let (first, offset) = (sequence.q.start, sequence.offset());
    let end = tokens.end;
    tokens.step_by(step).map(move |start| QueryBlock {
        tokens: start..end.min(start + step),
        position: start - first + offset,
    })
}
