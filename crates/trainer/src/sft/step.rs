//! One optimizer step.

use std::sync::Arc;

use anyhow::Result;
use autograd::{AdamW, AdamWConfig, ParamGrads, Precision, Tape, clip_factor};
use data::{Batch, Window};
use kernels::Backend;
use kernels::trace::span;
use models::decoder::{Adapter, Decoder, ForwardOptions, Keep, Stage};

use super::guard::{Culprit, Skipped};
use super::spikes::{Spike, Spikes};
use crate::recipe::{Optim, TrainSection};
use crate::schedule::Schedule;

/// How steps are computed.
#[derive(Debug, Clone, PartialEq)]
pub struct StepSettings {
    optim: Optim,
    optimizer: AdamWConfig,
    precision: Precision,
    /// By layer.
    keep: Arc<[Keep]>,
    cuda_graphs: bool,
    max_grad_norm: Option<f64>,
    /// Standard deviations; 0 is never.
    skip_loss_spikes: f64,
    dropout_key: u64,
}

impl StepSettings {
    /// What `train` asks for on a backend, keeping of each layer what `keep` says.
    pub fn new<K: Backend>(backend: &K, train: &TrainSection, keep: Arc<[Keep]>) -> Self {
        Self {
            optim: train.optim,
            optimizer: AdamWConfig {
                beta1: train.adam_beta1 as f32,
                beta2: train.adam_beta2 as f32,
                eps: train.adam_epsilon as f32,
                weight_decay: train.weight_decay as f32,
            },
            precision: train.precision.on(backend),
            keep,
            cuda_graphs: train.cuda_graphs,
            max_grad_norm: Some(train.max_grad_norm).filter(|norm| *norm > 0.0),
            skip_loss_spikes: train.skip_loss_spikes,
            dropout_key: train.seed,
        }
    }
}

/// An adapter in training.
#[derive(Debug)]
pub struct SftTrainer<'m, K: Backend> {
    pub(super) decoder: &'m Decoder<K>,
    pub(super) adapter: Adapter<K>,
    pub(super) optimizer: AdamW<K>,
    schedule: Schedule,
    settings: StepSettings,
    /// Steps so far, those passed over included.
    pub(super) steps: usize,
    /// Forward passes so far; each has dropout masks of its own.
    pub(super) passes: u64,
    spikes: Option<Spikes>,
}

/// What a step did.
#[derive(Debug, Clone, PartialEq)]
pub struct StepOutcome {
    /// Mean negative log-likelihood of the window's trained tokens, before the update.
    pub loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// Norm of all gradients together, before clipping.
    pub grad_norm: f64,
    /// Tokens of the window.
    pub tokens: usize,
    /// Why the adapter was left as it was.
    pub skipped: Option<Skipped>,
}

impl<'m, K: Backend> SftTrainer<'m, K> {
    /// Starts training `adapter` with a fresh optimizer.
    pub fn new(
        decoder: &'m Decoder<K>,
        adapter: Adapter<K>,
        schedule: Schedule,
        settings: StepSettings,
    ) -> Result<Self> {
        let new = match settings.optim {
            Optim::AdamW => AdamW::new,
            Optim::AdamW8bit => AdamW::new_8bit,
        };
        let optimizer = new(decoder.backend(), adapter.params(), settings.optimizer)?;
        let spikes = Spikes::new(settings.skip_loss_spikes, Vec::new());
        Ok(Self { decoder, adapter, optimizer, schedule, settings, steps: 0, passes: 0, spikes })
    }

    /// Keeps from now on what `keep` says of each layer.
    pub fn set_keep(&mut self, keep: Arc<[Keep]>) {
        self.settings.keep = keep;
    }

    /// The last losses, where spikes are looked for.
    pub(super) fn recent_losses(&self) -> &[f64] {
        self.spikes.as_ref().map_or(&[], Spikes::recent)
    }

    /// Goes on after these losses.
    pub(super) fn set_recent_losses(&mut self, losses: Vec<f64>) {
        self.spikes = Spikes::new(self.settings.skip_loss_spikes, losses);
    }

    /// The adapter as it is now.
    pub fn adapter(&self) -> &Adapter<K> {
        &self.adapter
    }

    /// Takes one step on `window`. With a loss or gradient that is not finite, and a loss that is a spike, adapter and
    /// optimizer stay as they are.
    pub fn step(&mut self, window: &Window) -> Result<StepOutcome> {
        if self.settings.cuda_graphs {
            return self.decoder.backend().in_graphs(|| self.submit(window));
        }
        self.submit(window)
    }

    fn submit(&mut self, window: &Window) -> Result<StepOutcome> {
        let _span = span(|| format!("step {}", self.steps + 1));
        let backend = self.decoder.backend();
        let first_pass = self.passes;
        let (losses, grads) = self.gradients(window)?;
        let loss = losses.iter().sum::<f64>() / window.trained_tokens as f64;
        let grad_norm = grads.global_norm(backend)?;
        let lr = self.schedule.learning_rate(self.steps);
        self.steps += 1;
        let tokens = window.micro_batches.iter().map(Batch::tokens).sum();
        let mut outcome = StepOutcome { loss, lr, grad_norm, tokens, skipped: None };
        if !(loss.is_finite() && grad_norm.is_finite()) {
            let cause = self.diagnose(window, first_pass, &losses, grads)?;
            outcome.skipped = Some(Skipped::NotFinite(cause));
            return Ok(outcome);
        }
        if let Some((mean, deviation)) = self.spikes.as_mut().and_then(|spikes| spikes.judge(loss))
        {
            let at = Culprit::highest(window, &losses);
            outcome.skipped = Some(Skipped::Spike(Spike { loss, mean, deviation, at }));
            return Ok(outcome);
        }
        let _span = span(|| "optimizer");
        let clip = clip_factor(grad_norm, self.settings.max_grad_norm);
        self.optimizer.step(backend, self.adapter.params_mut(), &grads, lr as f32, clip)?;
        Ok(outcome)
    }

    /// Summed loss of each of the window's micro-batches, and the gradient of the mean over all trained tokens.
    fn gradients(&mut self, window: &Window) -> Result<(Vec<f64>, ParamGrads<K>)> {
        let mut grads = ParamGrads::zeros(self.decoder.backend(), self.adapter.params())?;
        let mut sums = Vec::with_capacity(window.micro_batches.len());
        for batch in &window.micro_batches {
            sums.push(self.add_gradient(batch, self.passes, window.trained_tokens, &mut grads)?);
            self.passes += 1;
        }
        Ok((sums, grads))
    }

    /// Adds the gradient of a micro-batch's share in the mean over `trained_tokens`; its summed loss.
    pub(super) fn add_gradient(
        &self,
        batch: &Batch,
        pass: u64,
        trained_tokens: usize,
        grads: &mut ParamGrads<K>,
    ) -> Result<f64> {
        let inputs = self.decoder.inputs(&batch.input_ids, &batch.seq_lens)?;
        let forward = span(|| "forward");
        let mut tape = Tape::training(self.decoder.backend(), self.settings.precision);
        let options = self.forward_options(pass);
        let hidden = self.decoder.hidden(&mut tape, &inputs, Some(&self.adapter), options)?;
        // Rows without trained tokens are refused when encoded, so there is at least 1.
        let scale = (1.0 / trained_tokens as f64) as f32;
        let losses = self.decoder.losses(&mut tape, &hidden, &batch.labels, scale)?;
        drop(hidden);
        let sum = losses.sum();
        drop(forward);
        let _backward = span(|| "backward");
        tape.backward(grads)?;
        Ok(sum)
    }

    /// The layer whose output first is not finite in a forward pass of `batch`; `None` where it is the head.
    pub(super) fn first_not_finite(&self, batch: &Batch, pass: u64) -> Result<Option<Stage>> {
        let inputs = self.decoder.inputs(&batch.input_ids, &batch.seq_lens)?;
        let (precision, options) = (self.settings.precision, self.forward_options(pass));
        Ok(self.decoder.first_not_finite(precision, &inputs, Some(&self.adapter), options)?)
    }

    fn forward_options(&self, pass: u64) -> ForwardOptions {
        ForwardOptions {
            keep: Arc::clone(&self.settings.keep),
            dropout_key: Some(self.settings.dropout_key),
            pass,
        }
    }
}
