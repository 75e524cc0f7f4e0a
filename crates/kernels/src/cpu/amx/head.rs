//! Output projection and cross-entropy in one pass over the vocabulary.
//!
//! What attention does with keys and values, with the head as both: the logits of a block of tokens and a
//! panel of the vocabulary become exponentials relative to a running maximum, which are multiplied by the
//! panel again and added to the gradient while both are in the cache. No logits are stored.

use std::cell::RefCell;
use std::ops::Range;

use half::bf16;

use super::dense::{Dense, Transposed};
use super::product::{Area, Operands, even, run, supports};
use super::rows::Rows;
use super::small::{Out, Panel, Values, product};
use super::softmax::{Running, Strip, rescale, weigh, weight};
use super::tile::{BLOCK, Tiles};
use crate::Result;
use crate::cpu::exp::exp;
use crate::cpu::lines::Lines;
use crate::cpu::simd::simd;
use crate::cpu::view::{FloatMut, FloatRef};
use crate::cpu::weight::WeightRef;
use crate::cpu::{Cpu, F32Scratch, team};

/// Rows of the head in a panel.
const PANEL: usize = 512;
/// Most tokens of a task.
const TOKENS: usize = 512;
/// Tasks that are enough for the threads: the vocabulary is cut in parts until there are as many.
const ENOUGH: usize = 8;
/// Columns of the gradient that a panel of the head is put in order for.
const GRADIENT_COLS: usize = 256;
/// Elements of the gradient, for one part of the vocabulary, that are held at a time (8 MiB).
const HELD: usize = 1 << 21;

thread_local! {
    static PROBS: RefCell<Lines> = RefCell::default();
    static GRADIENT_PANEL: RefCell<Panel> = RefCell::default();
}

/// A bf16 head `[vocab, hidden]` and bf16 hidden states.
#[derive(Debug, Clone, Copy)]
pub(in crate::cpu) struct Head<'a> {
    x: &'a [bf16],
    values: &'a [bf16],
    hidden: usize,
    vocab: usize,
}

/// Softmax of one token over the part of the vocabulary seen so far.
#[derive(Debug, Clone, Copy)]
struct State {
    running: Running,
    label_logit: Option<f32>,
    /// What the label's exponential lost when it was rounded to bf16. It is added again, because the
    /// label's share of the gradient is its probability less one, which may be far smaller than either.
    label_rest: f32,
    /// Factor from the last panel's maximum to `max`.
    correction: f32,
}

impl State {
    const EMPTY: Self =
        Self { running: Running::EMPTY, label_logit: None, label_rest: 0.0, correction: 1.0 };

    /// Before the logits of a panel are weighed; `label` is the label's, if it is among them.
    fn see(&mut self, label: Option<f32>) {
        self.label_logit = label.or(self.label_logit);
    }

    /// After that. `label` is what its logit became, rounded, if it was among them.
    fn add(&mut self, running: Running, correction: f32, label: Option<bf16>) {
        self.running = running;
        self.correction = correction;
        self.label_rest *= correction;
        if let (Some(logit), Some(prob)) = (self.label_logit, label) {
            self.label_rest += weight(logit, running) - prob.to_f32();
        }
    }

    /// Of all parts of the vocabulary.
    fn combine(parts: impl Iterator<Item = Self> + Clone) -> Self {
        let larger = |a: f32, part: Self| if part.running.max > a { part.running.max } else { a };
        let max = parts.clone().fold(f32::NEG_INFINITY, larger);
        let relative = |part: Self| exp(part.running.max - max);
        let sum = parts.clone().map(|part| part.running.sum * relative(part)).sum();
        Self {
            running: Running { max, sum },
            label_rest: parts.clone().map(|part| part.label_rest * relative(part)).sum(),
            label_logit: parts.into_iter().find_map(|part| part.label_logit),
            correction: 1.0,
        }
    }

    /// NaN where no part of the vocabulary was looked at, as in a dry run.
    fn loss(&self) -> f32 {
        let label = self.label_logit.unwrap_or(f32::NAN);
        self.running.sum.ln() + (self.running.max - label)
    }
}

/// A task: some tokens against part of the vocabulary.
struct Task<'a> {
    first_token: usize,
    /// Panels.
    part: Range<usize>,
    states: &'a mut [State],
    /// `[tokens, hidden]`, relative to the maxima; empty if it is not wanted.
    grad: &'a mut [f32],
}

/// Turns the logits of at most 32 tokens `[tokens, width]` into exponentials relative to the largest, rounded into
/// `probs`. They are of the rows `rows` of the head; the rest of the width is unused.
fn add_logits(
    states: &mut [State],
    labels: &[usize],
    rows: &Range<usize>,
    (logits, probs): (&mut [f32], &mut [bf16]),
) {
    let width = logits.len() / states.len();
    let place = |token: usize| {
        let label = labels[token];
        rows.contains(&label).then(|| token * width + label - rows.start)
    };
    let mut running = [Running::EMPTY; BLOCK];
    for (token, (state, running)) in states.iter_mut().zip(&mut running).enumerate() {
        state.see(place(token).map(|at| logits[at]));
        *running = state.running;
    }
    let strip = Strip { products: logits, probs: &mut *probs, width, cols: 0..width };
    let corrections = weigh(strip, rows.len(), &mut running[..states.len()]);
    for (token, state) in states.iter_mut().enumerate() {
        state.add(running[token], corrections[token], place(token).map(|at| probs[at]));
    }
}

impl<'a> Head<'a> {
    /// Nothing unless the products can run on the matrix unit.
    pub(in crate::cpu) fn new(
        x: FloatRef<'a>,
        weight: WeightRef<'a>,
        (hidden, vocab): (usize, usize),
    ) -> Option<Self> {
        let WeightRef::Dense(FloatRef::Bf16(values)) = weight else {
            return None;
        };
        Some(Self { x: supports(x, hidden)?, values, hidden, vocab })
    }

    /// Losses of `tokens`, in order, and the gradients of their hidden states if there is where to put
    /// them; `label` gives the label of a token.
    pub(in crate::cpu) fn run(
        self,
        cpu: &Cpu,
        tokens: &[usize],
        label: impl Fn(usize) -> usize + Sync,
        grad_scale: f32,
        token_loss: &mut [f32],
        mut dx: Option<&mut [FloatMut<'_>]>,
    ) -> Result<()> {
        let chunk = (HELD / self.hidden).next_multiple_of(TOKENS);
        for tokens in tokens.chunks(chunk) {
            let labels: Vec<usize> = tokens.iter().map(|&token| label(token)).collect();
            let (states, grads) = self.chunk(cpu, tokens, &labels, dx.is_some())?;
            let parts = states.len() / tokens.len();
            let of = |i: usize| (0..parts).map(move |part| part * tokens.len() + i);
            let combined: Vec<State> =
                (0..tokens.len()).map(|i| State::combine(of(i).map(|at| states[at]))).collect();
            for (&token, state) in tokens.iter().zip(&combined) {
                token_loss[token] = state.loss();
            }
            let Some(dx) = &mut dx else { continue };
            let mut rows: Vec<&mut FloatMut<'_>> = Vec::with_capacity(tokens.len());
            let mut rest = &mut **dx;
            let mut next = 0;
            for &token in tokens {
                let (row, after) = rest[token - next..].split_first_mut().expect("a row by token");
                rows.push(row);
                (rest, next) = (after, token + 1);
            }
            team::for_each_init(rows.into_iter().enumerate(), Vec::new, |sum, (i, dx)| {
                let state = combined[i];
                sum.clear();
                let label = &self.values[labels[i] * self.hidden..][..self.hidden];
                let of_label = (state.label_rest / state.running.sum - 1.0) * grad_scale;
                sum.extend(label.iter().map(|x| x.to_f32() * of_label));
                for part in 0..parts {
                    let max = states[part * tokens.len() + i].running.max;
                    let factor = exp(max - state.running.max) / state.running.sum * grad_scale;
                    let at = part * tokens.len().next_multiple_of(BLOCK) + i;
                    let grad = &grads[at * self.hidden..][..self.hidden];
                    simd!(for (sum, grad) in sum.iter_mut().zip(grad) {
                        *sum += grad * factor;
                    });
                }
                dx.store(sum);
            });
        }
        Ok(())
    }

    /// States `[part of the vocabulary][token]`, and unfinished gradients in the same order.
    fn chunk(
        self,
        cpu: &Cpu,
        tokens: &[usize],
        labels: &[usize],
        with_grad: bool,
    ) -> Result<(Vec<State>, F32Scratch)> {
        let Self { hidden, vocab, .. } = self;
        let n = tokens.len();
        let gathered = self.gather(cpu, tokens)?;
        let x = gathered.as_deref().map_or(&self.x[..n * hidden], bytemuck::cast_slice);
        let rows = Rows::new(cpu, &x[..n * hidden], n, hidden)?;
        let height = even(n, TOKENS, BLOCK);
        let panels = vocab.div_ceil(PANEL);
        let parts = ENOUGH.div_ceil(n.div_ceil(height)).min(panels);
        let per_part = panels.div_ceil(parts);
        let parts = panels.div_ceil(per_part);
        let mut states = vec![State::EMPTY; parts * n];
        let padded = n.next_multiple_of(BLOCK);
        let mut grads = cpu.scratch(if with_grad { parts * padded * hidden } else { 0 })?;
        let mut tasks = Vec::new();
        let mut rest = &mut *grads;
        for (part, states) in states.chunks_mut(n).enumerate() {
            for (block, states) in states.chunks_mut(height).enumerate() {
                let rows = states.len().next_multiple_of(BLOCK);
                let len = if with_grad { rows * hidden } else { 0 };
                let grad = rest.split_off_mut(..len).expect("a gradient for each task");
                let part = part * per_part..panels.min((part + 1) * per_part);
                tasks.push(Task { first_token: block * height, part, states, grad });
            }
        }
        team::for_each(tasks, |task| self.work(&rows, labels, task));
        Ok((states, grads))
    }

    /// The hidden states of `tokens`, unless they are all of the first.
    fn gather(self, cpu: &Cpu, tokens: &[usize]) -> Result<Option<F32Scratch>> {
        if tokens.iter().enumerate().all(|(i, &token)| i == token) {
            return Ok(None);
        }
        let mut gathered = cpu.scratch((tokens.len() * self.hidden).div_ceil(2))?;
        let out: &mut [bf16] = bytemuck::cast_slice_mut(&mut gathered);
        for (out, &token) in out.chunks_exact_mut(self.hidden).zip(tokens) {
            out.copy_from_slice(&self.x[token * self.hidden..][..self.hidden]);
        }
        Ok(Some(gathered))
    }

    fn work(self, rows: &Rows<'_>, labels: &[usize], task: Task<'_>) {
        let Task { first_token, part, states, grad } = task;
        let labels = &labels[first_token..][..states.len()];
        let height = states.len();
        PROBS.with_borrow_mut(|probs| {
            for panel in part.clone() {
                let first = panel * PANEL;
                let n = PANEL.min(self.vocab - first);
                let width = n.next_multiple_of(BLOCK);
                let probs = probs.bf16(height.next_multiple_of(BLOCK) * width);
                // What lies beyond the tokens' end is unused, beyond the panel's multiplied by zeros.
                probs[height * width..].fill(bf16::ZERO);
                let values = &self.values[first * self.hidden..];
                let source = &Transposed(Dense::new(values, n, self.hidden));
                let weight =
                    Values { data: values, rows: n, cols: self.hidden, stride: self.hidden };
                let first_block = first_token / BLOCK;
                let area = Area { first_block, rows: height, col: 0, cols: width };
                run(&[Operands { rows, source }], area, BLOCK, |token, logits| {
                    let tokens = token..height.min(token + BLOCK);
                    let probs = &mut probs[token * width..][..logits.len()];
                    let (states, labels) = (&mut states[tokens.clone()], &labels[tokens]);
                    add_logits(states, labels, &(first..first + n), (logits, probs));
                });
                if !grad.is_empty() {
                    self.add_gradient(
                        weight,
                        (probs, width),
                        states,
                        (&mut *grad, panel == part.start),
                    );
                }
            }
        });
    }

    /// `grad = grad * correction + probs . weight`, or without what is there if it is the first. `probs` have `width`
    /// columns.
    fn add_gradient(
        self,
        weight: Values<'_>,
        (probs, width): (&[bf16], usize),
        states: &[State],
        (grad, first): (&mut [f32], bool),
    ) {
        let hidden = self.hidden;
        let tiles = &Tiles::configure();
        for (grad, states) in grad.chunks_mut(BLOCK * hidden).zip(states.chunks(BLOCK)) {
            let mut corrections = [1.0; BLOCK];
            if !first {
                for (correction, state) in corrections.iter_mut().zip(states) {
                    *correction = state.correction;
                }
            }
            rescale(grad, &corrections);
        }
        GRADIENT_PANEL.with_borrow_mut(|panel| {
            for col in (0..hidden).step_by(GRADIENT_COLS) {
                let cols = GRADIENT_COLS.min(hidden - col);
                panel.set(Values { data: &weight.data[col..], cols, ..weight });
                let right = panel.part(0..cols, 0);
                let blocks = probs.chunks_exact(BLOCK * width);
                for (probs, grad) in blocks.zip(grad.chunks_exact_mut(BLOCK * hidden)) {
                    let left = Values { data: probs, rows: BLOCK, cols: width, stride: width };
                    let out = Out { sums: grad, width: hidden, col, add: !first };
                    product(tiles, left, &right, out);
                }
            }
        });
    }
}
