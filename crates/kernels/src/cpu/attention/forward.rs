//! Softmax of a row over blocks of keys, with a running maximum (Dao et al. 2022).

use std::ops::Range;

use super::KEYS;
use super::layout::{Layout, QueryBlock, Sequence};
use super::scores::{Block, group_rows, key_rows};
#[cfg(amx)]
use super::tiled;
use crate::Result;
use crate::check::lengths;
use crate::cpu::Cpu;
use crate::cpu::buffer::CpuBuffer;
use crate::cpu::check::Op;
use crate::cpu::exp::exp;
use crate::cpu::fma::{Mat, gemm};
use crate::cpu::reduce;
use crate::cpu::simd::simd;
use crate::cpu::team;
use crate::cpu::view::{FloatMut, FloatRef, sized};
use crate::ops::{Attention, Sequences};

pub(in crate::cpu) fn forward(
    cpu: &Cpu,
    op: Attention,
    sequences: &Sequences<Cpu>,
    [q, k, v]: [&CpuBuffer; 3],
    o: &mut CpuBuffer,
    lse: &mut CpuBuffer,
) -> Result<()> {
    let name = Op("attention");
    let layout = &Layout::new(name, op, sequences)?;
    cpu.count_flops(name.0, op.flops(2, lengths(&layout.sequences)));
    let (q_len, k_len) = (layout.q_tokens * layout.q_width(), layout.k_tokens * layout.k_width());
    let q = name.float("q", q, q_len)?;
    let k = name.float("k", k, k_len)?;
    let v = name.float("v", v, k_len)?;
    let o = name.float_mut("o", o, q_len)?;
    let lse = FloatMut::F32(name.f32_mut("lse", lse, layout.q_tokens * op.heads)?);
    #[cfg(amx)]
    if let Some(inputs) = tiled::Forward::new(layout, [q, k, v]) {
        inputs.run(o, lse);
        return Ok(());
    }
    let blocks = layout.query_blocks();
    let outputs = layout.query_tiles(o, layout.q_width(), &blocks).into_iter();
    let tasks = outputs.zip(layout.query_tiles(lse, op.heads, &blocks)).enumerate();
    team::for_each_init(tasks, Scratch::default, |scratch, (task, (mut o, mut lse))| {
        let (sequence, block) = &blocks[task / op.kv_heads];
        let inputs = Inputs { layout, sequence, block, kv_head: task % op.kv_heads };
        inputs.attend(q, k, v, scratch);
        let rows = inputs.rows();
        let (out, max) = (&mut scratch.out[..rows * op.head_dim], &mut scratch.max[..rows]);
        normalize(out, max, &scratch.sum);
        o.store(out);
        lse.store(max);
    });
    Ok(())
}

#[derive(Default)]
struct Scratch {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    scores: Vec<f32>,
    /// Unnormalised output rows.
    out: Vec<f32>,
    max: Vec<f32>,
    sum: Vec<f32>,
}

/// One block of queries of one group of heads.
struct Inputs<'a> {
    layout: &'a Layout,
    sequence: &'a Sequence,
    block: &'a QueryBlock,
    kv_head: usize,
}

impl Inputs<'_> {
    fn rows(&self) -> usize {
        self.block.tokens.len() * self.layout.group()
    }

    fn attend(&self, q: FloatRef<'_>, k: FloatRef<'_>, v: FloatRef<'_>, scratch: &mut Scratch) {
        let (layout, rows, d) = (self.layout, self.rows(), self.layout.op.head_dim);
        let q = Mat::new(group_rows(layout, q, self.block, self.kv_head, &mut scratch.q), rows, d);
        let out = sized(&mut scratch.out, rows * d);
        let max = sized(&mut scratch.max, rows);
        let sum = sized(&mut scratch.sum, rows);
        out.fill(0.0);
        max.fill(f32::NEG_INFINITY);
        sum.fill(0.0);
        for keys in key_blocks(layout.keys_of(self.block)) {
            let range = self.sequence.k.start + keys.start..self.sequence.k.start + keys.end;
            let k = key_rows(layout, k, range.clone(), self.kv_head, &mut scratch.k);
            let v = key_rows(layout, v, range, self.kv_head, &mut scratch.v);
            let cols = keys.len();
            let scores = sized(&mut scratch.scores, rows * cols);
            gemm(scores, false, 1.0, q, k.t());
            let queries = self.block;
            Block { layout, queries, keys }.mask(scores);
            let state = max.iter_mut().zip(sum.iter_mut());
            let rows_of = scores.chunks_mut(cols).zip(out.chunks_mut(d)).zip(state);
            for ((scores, out), (max, sum)) in rows_of {
                simd!(online_softmax(scores, out, max, sum));
            }
            gemm(out, true, 1.0, Mat::new(scores, rows, cols), v);
        }
    }
}

/// Divides each row of `out` by its sum; turns its maximum into the log-sum-exp.
pub(super) fn normalize(out: &mut [f32], max: &mut [f32], sum: &[f32]) {
    let head_dim = out.len() / max.len();
    for ((out, max), sum) in out.chunks_mut(head_dim).zip(max).zip(sum) {
        *max += sum.ln();
        let inverse = 1.0 / sum;
        for out in out {
            *out *= inverse;
        }
    }
}

pub(super) fn key_blocks(keys: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = keys.end;
    keys.step_by(KEYS).map(move |start| start..end.min(start + KEYS))
}

/// Turns scores into weights relative to the running maximum and rescales what came before.
#[expect(clippy::inline_always, reason = "compiled for the caller's instruction set")]
#[inline(always)]
fn online_softmax(scores: &mut [f32], out: &mut [f32], max: &mut f32, sum: &mut f32) {
    let block_max = reduce::max(scores);
    if block_max > *max {
        let correction = exp(*max - block_max);
        *max = block_max;
        *sum *= correction;
        for out in out.iter_mut() {
            *out *= correction;
        }
    }
    if *max == f32::NEG_INFINITY {
        // Nothing visible so far: hidden scores would become exp(-inf + inf).
        for s in scores.iter_mut().filter(|s| !s.is_nan()) {
            *s = 0.0;
        }
    } else {
        for s in scores.iter_mut() {
            *s = exp(*s - *max);
        }
    }
    *sum += reduce::sum(scores);
}
