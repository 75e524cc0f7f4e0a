//! Output projection and cross-entropy in one pass over the vocabulary.
//!
//! What attention does with keys and values, with the head as both: the logits of a block of tokens and a
//! panel of the vocabulary become exponentials relative to a running maximum, which are multiplied by the
//! panel again and added to the gradient while both are in the cache. No logits are stored.

use std::cell::RefCell;

use half::bf16;

use super::dense::{Dense, Straight, Transposed};
use super::product::{Area, COLS, Operands, even, run, supports};
use super::rows::Rows;
use super::softmax::{Running, weigh};
use super::tile::BLOCK;
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
/// Elements of the gradient, for one part of the vocabulary, that are held at a time (8 MiB).
const HELD: usize = 1 << 21;

thread_local! {
    static PROBS: RefCell<Lines> = RefCell::default();
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

    /// Turns logits into exponentials relative to the maximum, rounded into `probs`. `label` is where
    /// the label lies among them.
    fn add(&mut self, logits: &mut [f32], label: Option<usize>, probs: &mut [bf16]) {
        if let Some(label) = label {
            self.label_logit = Some(logits[label]);
        }
        self.correction = weigh(logits, probs, &mut self.running);
        self.label_rest *= self.correction;
        if let Some(label) = label {
            self.label_rest += logits[label] - probs[label].to_f32();
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
    part: std::ops::Range<usize>,
    states: &'a mut [State],
    /// `[tokens, hidden]`, relative to the maxima; empty if it is not wanted.
    grad: &'a mut [f32],
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
                for at in of(i) {
                    let factor = exp(states[at].running.max - state.running.max)
                        / state.running.sum
                        * grad_scale;
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
        let mut grads = cpu.scratch(if with_grad { parts * n * hidden } else { 0 })?;
        let mut tasks = Vec::new();
        let mut rest = &mut *grads;
        for (part, states) in states.chunks_mut(n).enumerate() {
            for (block, states) in states.chunks_mut(height).enumerate() {
                let len = if with_grad { states.len() * hidden } else { 0 };
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
        grad.fill(0.0);
        PROBS.with_borrow_mut(|probs| {
            for panel in part {
                let first = panel * PANEL;
                let n = PANEL.min(self.vocab - first);
                let width = n.next_multiple_of(BLOCK);
                let probs = probs.bf16(height.next_multiple_of(BLOCK) * width);
                // What lies beyond the tokens' end is unused, beyond the panel's multiplied by zeros.
                probs[height * width..].fill(bf16::ZERO);
                let weight = Dense::new(&self.values[first * self.hidden..], n, self.hidden);
                let source = &Transposed(weight);
                let area = Area { first_block: first_token / BLOCK, rows: height, col: 0, cols: n };
                run(&[Operands { rows, source }], area, |block, logits| {
                    let rows = probs[block * BLOCK * width..].chunks_mut(width);
                    let states = states[block * BLOCK..].iter_mut().zip(&labels[block * BLOCK..]);
                    let rows = logits.chunks_mut(n).zip(rows).zip(states);
                    for ((logits, probs), (state, label)) in rows {
                        let label = label.checked_sub(first).filter(|&label| label < n);
                        state.add(logits, label, &mut probs[..n]);
                        probs[n..].fill(bf16::ZERO);
                    }
                });
                if !grad.is_empty() {
                    self.add_gradient(weight, &Rows::whole(probs, width), states, grad);
                }
            }
        });
    }

    /// `grad = grad * correction + probs . weight`.
    fn add_gradient(self, weight: Dense<'_>, probs: &Rows<'_>, states: &[State], grad: &mut [f32]) {
        let hidden = self.hidden;
        for col in (0..hidden).step_by(COLS) {
            let cols = COLS.min(hidden - col);
            let area = Area { first_block: 0, rows: states.len(), col, cols };
            run(&[Operands { rows: probs, source: &Straight(weight) }], area, |block, sums| {
                let grad = grad[block * BLOCK * hidden..].chunks_mut(hidden);
                let states = &states[block * BLOCK..];
                simd!(for ((grad, sums), state) in grad.zip(sums.chunks(cols)).zip(states) {
                    for (grad, sum) in grad[col..col + cols].iter_mut().zip(sums) {
                        *grad = *grad * state.correction + sum;
                    }
                });
            });
        }
    }
}
