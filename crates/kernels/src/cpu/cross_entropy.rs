//! Output projection and cross-entropy over chunks of trained tokens.
//!
//! For each chunk the vocabulary is cut into panels, whose logits lie one panel after the other.
//! A panel keeps its own maximum and sum of exponentials by row; rows combine them in order.

use std::ops::Range;

#[cfg(amx)]
use super::amx;
use super::buffer::CpuBuffer;
use super::check::Op;
use super::exp::exp;
use super::fma::int16::{self, MadeRows, OwnRows, Space};
use super::fma::{Mat, Source, Stored, gemm};
use super::reduce;
use super::simd::simd;
use super::team;
use super::view::{FloatRef, sized};
use super::weight::WeightRef;
use super::{Cpu, F32Scratch};
use crate::ops::{IGNORE, LinearCrossEntropy};
use crate::{Error, Result};

/// Rows of the head in a panel.
const PANEL: usize = 512;
/// Logits held at a time (96 MiB).
const LOGITS: usize = 24 << 20;
/// Most tokens of a chunk.
const MAX_TOKENS: usize = 512;
/// Fewest tokens of a chunk, however large the vocabulary.
const MIN_TOKENS: usize = 16;
/// Partial sums of the gradient, each over its own panels.
const GROUPS: usize = 8;

pub(super) fn run(
    cpu: &Cpu,
    op: &LinearCrossEntropy<'_, Cpu>,
    x: &CpuBuffer,
    labels: &CpuBuffer,
    token_loss: &mut CpuBuffer,
    dx: Option<&mut CpuBuffer>,
) -> Result<()> {
    let name = Op("linear_cross_entropy");
    let &LinearCrossEntropy { tokens, hidden, vocab, .. } = op;
    name.require(hidden > 0 && vocab > 0, || "the head is empty".into())?;
    let weight = WeightRef::new(name, op.weight, vocab, hidden)?;
    let x = name.float("x", x, tokens * hidden)?;
    let labels = name.u32("labels", labels, tokens)?;
    let token_loss = name.f32_mut("token_loss", token_loss, tokens)?;
    let dx = dx.map(|dx| name.float_mut("dx", dx, tokens * hidden)).transpose()?;
    let trained = trained_rows(name, labels, vocab)?;
    cpu.count_flops(name.0, op.flops(trained.len(), dx.is_some()));

    let mut dx = dx.map(|dx| dx.chunks(hidden));
    let zeros = vec![0.0; hidden];
    for row in (0..tokens).filter(|&row| labels[row] == IGNORE) {
        token_loss[row] = 0.0;
        if let Some(dx) = &mut dx {
            dx[row].store(&zeros);
        }
    }
    #[cfg(amx)]
    if let Some(head) = amx::Head::new(x, weight, (hidden, vocab)) {
        let label = |token| labels[token] as usize;
        return head.run(cpu, &trained, label, op.grad_scale, token_loss, dx.as_deref_mut());
    }
    let integers = matches!(x, FloatRef::Bf16(_)) && weight.as_f32().is_none();
    let head = &Head { weight, stored: Stored::new(weight, vocab, hidden), hidden, vocab };
    for rows in trained.chunks((LOGITS / vocab).clamp(MIN_TOKENS, MAX_TOKENS)) {
        let labels = rows.iter().map(|&row| labels[row] as usize).collect();
        let x = gather(cpu, x, rows, hidden)?;
        let mut chunk = Chunk::new(cpu, head, &x, integers, labels)?;
        for (&row, stats) in rows.iter().zip(&chunk.stats) {
            token_loss[row] = stats.loss();
        }
        if let Some(dx) = &mut dx {
            let grad = chunk.gradient(cpu, op.grad_scale)?;
            for (&row, grad) in rows.iter().zip(grad.chunks(hidden)) {
                dx[row].store(grad);
            }
        }
    }
    Ok(())
}

fn trained_rows(name: Op, labels: &[u32], vocab: usize) -> Result<Vec<usize>> {
    let trained: Vec<usize> = (0..labels.len()).filter(|&i| labels[i] != IGNORE).collect();
    match trained.iter().find(|&&i| labels[i] as usize >= vocab) {
        None => Ok(trained),
        Some(&position) => {
            Err(Error::Index { op: name.0, index: labels[position] as usize, position, len: vocab })
        }
    }
}

fn gather(cpu: &Cpu, x: FloatRef<'_>, rows: &[usize], cols: usize) -> Result<F32Scratch> {
    let mut out = cpu.scratch(rows.len() * cols)?;
    for (out, &row) in out.chunks_mut(cols).zip(rows) {
        x.chunk(row, cols).widen_into(out);
    }
    Ok(out)
}

struct Head<'a> {
    weight: WeightRef<'a>,
    /// The weight, as panels are filled from it.
    stored: Stored<'a>,
    hidden: usize,
    vocab: usize,
}

impl Head<'_> {
    fn panel(&self, index: usize) -> Range<usize> {
        index * PANEL..self.vocab.min((index + 1) * PANEL)
    }

    /// `out = x . W^T` of the rows of a panel; `rows` are those of `x` in integers, where they are multiplied so.
    fn logits(
        &self,
        (x, rows): (&[f32], Option<int16::Rows<'_>>),
        panel: &Range<usize>,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        let Some(rows) = rows else {
            let x = Mat::new(x, x.len() / self.hidden, self.hidden);
            return gemm(out, false, 1.0, x, self.rows(panel, scratch).t());
        };
        let right = Source { rows: &self.stored, transposed: true, depth: self.hidden };
        let area = (panel.clone(), 0..self.hidden);
        int16::gemm(&mut scratch.space, out, false, rows, right, area);
    }

    /// `out = [out +] probs . W` of the rows of a panel.
    fn gradient(
        &self,
        (probs, integers): (&[f32], bool),
        panel: &Range<usize>,
        scratch: &mut Scratch,
        (out, accumulate): (&mut [f32], bool),
    ) {
        if !integers {
            let probs = Mat::new(probs, probs.len() / panel.len(), panel.len());
            return gemm(out, accumulate, 1.0, probs, self.rows(panel, scratch));
        }
        let right = Source { rows: &self.stored, transposed: false, depth: self.vocab };
        let area = (0..self.hidden, panel.clone());
        let rows = scratch.probs.set(probs, panel.len());
        int16::gemm(&mut scratch.space, out, accumulate, rows, right, area);
    }

    /// Rows `rows` of the head in f32, `[rows, hidden]`.
    fn rows<'s>(&'s self, rows: &Range<usize>, scratch: &'s mut Scratch) -> Mat<'s> {
        let (start, len) = (rows.start * self.hidden, rows.len() * self.hidden);
        let data = if let Some(w) = self.weight.as_f32() {
            &w[start..start + len]
        } else {
            let out = sized(&mut scratch.weight, len);
            self.weight.read(start, out, &mut scratch.absmax);
            out
        };
        Mat::new(data, rows.len(), self.hidden)
    }
}

/// What a thread keeps from panel to panel.
#[derive(Default)]
struct Scratch {
    weight: Vec<f32>,
    absmax: Vec<f32>,
    space: Space,
    probs: OwnRows,
}

/// Softmax of one row, over a panel or the whole vocabulary.
#[derive(Debug, Clone, Copy)]
struct Stats {
    max: f32,
    /// Of the exponentials relative to `max`.
    sum: f32,
    /// Logit of the label, where it lies in the panel.
    label: Option<f32>,
}

impl Stats {
    /// Before the loop over the panels, which a dry run leaves out.
    const UNKNOWN: Self = Self { max: 0.0, sum: 1.0, label: Some(0.0) };

    fn loss(&self) -> f32 {
        let label = self.label.expect("labels were checked to lie in the vocabulary");
        self.sum.ln() + (self.max - label)
    }

    fn combine(panels: impl Iterator<Item = Self> + Clone) -> Self {
        let largest = |a: f32, b: Self| if b.max > a { b.max } else { a };
        let max = panels.clone().fold(f32::NEG_INFINITY, largest);
        Self {
            max,
            sum: panels.clone().map(|p| p.sum * exp(p.max - max)).sum(),
            label: panels.into_iter().find_map(|p| p.label),
        }
    }
}

/// Trained tokens whose logits are held together.
struct Chunk<'a> {
    head: &'a Head<'a>,
    /// Whether rows are multiplied in integers.
    integers: bool,
    labels: Vec<usize>,
    /// Logits at first, their exponentials relative to the panel's maximum thereafter.
    logits: F32Scratch,
    /// By panel, then by row.
    panels: Vec<Vec<Stats>>,
    stats: Vec<Stats>,
}

impl<'a> Chunk<'a> {
    /// `x` `[tokens, hidden]` is multiplied in integers if it may be, and can.
    fn new(
        cpu: &Cpu,
        head: &'a Head<'a>,
        x: &[f32],
        integers: bool,
        labels: Vec<usize>,
    ) -> Result<Self> {
        let tokens = labels.len();
        let made = if integers { MadeRows::new(cpu, FloatRef::F32(x), head.hidden)? } else { None };
        let rows = made.as_ref().map(MadeRows::rows);
        let mut logits = cpu.scratch(tokens * head.vocab)?;
        let mut panels = vec![vec![Stats::UNKNOWN; tokens]; head.vocab.div_ceil(PANEL)];
        let tasks = logits.chunks_mut(tokens * PANEL).zip(&mut panels).enumerate();
        team::for_each_init(tasks, Scratch::default, |scratch, (index, (logits, stats))| {
            let panel = head.panel(index);
            head.logits((x, rows), &panel, scratch, logits);
            let rows = logits.chunks_mut(panel.len()).zip(&labels);
            for (stats, (row, label)) in stats.iter_mut().zip(rows) {
                *stats = softmax_row(row, &panel, *label);
            }
        });
        let stats = |row| Stats::combine(panels.iter().map(move |panel| panel[row]));
        let stats = (0..tokens).map(stats).collect();
        Ok(Self { head, integers: rows.is_some(), stats, labels, logits, panels })
    }

    /// `grad_scale * (softmax - onehot) . W`, using the logits up.
    fn gradient(&mut self, cpu: &Cpu, grad_scale: f32) -> Result<F32Scratch> {
        let Self { head, integers, labels, logits, panels, stats } = self;
        let (tokens, hidden) = (labels.len(), head.hidden);
        let per_group = panels.len().div_ceil(GROUPS);
        let groups = panels.len().div_ceil(per_group);
        let mut partial = cpu.scratch(groups * tokens * hidden)?;
        let outputs = partial.chunks_mut(tokens * hidden);
        let tasks = outputs.zip(logits.chunks_mut(tokens * PANEL * per_group)).enumerate();
        team::for_each_init(tasks, Scratch::default, |scratch, (group, (out, logits))| {
            for (i, logits) in logits.chunks_mut(tokens * PANEL).enumerate() {
                let index = group * per_group + i;
                let panel = head.panel(index);
                for (row, probs) in logits.chunks_mut(panel.len()).enumerate() {
                    let relative = exp(panels[index][row].max - stats[row].max);
                    let factor = relative / stats[row].sum * grad_scale;
                    simd!(for p in probs.iter_mut() {
                        *p *= factor;
                    });
                    if panel.contains(&labels[row]) {
                        probs[labels[row] - panel.start] -= grad_scale;
                    }
                }
                head.gradient((logits, *integers), &panel, scratch, (out, i > 0));
            }
        });
        let mut sum = cpu.scratch(tokens * hidden)?;
        team::for_each(sum.chunks_mut(hidden).enumerate(), |(row, sum)| {
            sum.fill(0.0);
            for part in partial.chunks(tokens * hidden) {
                let part = &part[row * hidden..(row + 1) * hidden];
                sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            }
        });
        Ok(sum)
    }
}

/// Exponentials of a row of a panel, in place.
fn softmax_row(row: &mut [f32], panel: &Range<usize>, label: usize) -> Stats {
    let label = panel.contains(&label).then(|| row[label - panel.start]);
    let max = simd!(reduce::max(row));
    simd!(for x in row.iter_mut() {
        *x = exp(*x - max);
    });
    Stats { max, sum: simd!(reduce::sum(row)), label }
}
