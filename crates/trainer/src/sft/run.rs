//! A whole run: steps, evaluations, adapters, metrics.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use data::Dataset;
use kernels::Backend;
use models::decoder::{Adapter, Decoder, Keep};

use super::{Evaluation, Output, Plan, SftTrainer, StepOutcome, StepSettings, evaluate};
use crate::metrics::{EvalRow, MetricsWriter, Row, StepRow, peak_rss_bytes};
use crate::profile::Profile;
use crate::progress::Progress;
use crate::recipe::Recipe;
use crate::schedule::Schedule;

/// What a run came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Optimizer steps.
    pub steps: usize,
    /// Loss of the first step.
    pub first_loss: f64,
    /// Loss of the last step.
    pub last_loss: f64,
    /// Evaluations, with the number of steps before each; empty without held-out rows.
    pub evaluations: Vec<(usize, Evaluation)>,
    /// Steps after which the adapter was stored that is to be used.
    pub best_step: usize,
    /// Tokens that went through training steps.
    pub tokens: usize,
    /// Time of the training steps.
    pub step_time: Duration,
    /// Time of everything after loading.
    pub elapsed: Duration,
}

/// Trains `adapter` on `train_set` as `recipe` says, keeping of each layer what `keep` says; writes adapters and metrics to `output`. A profile
/// takes in all steps but the first, which allocates what later ones reuse.
pub fn train<K: Backend>(
    recipe: &Recipe,
    decoder: &Decoder<K>,
    adapter: Adapter<K>,
    keep: Arc<[Keep]>,
    (train_set, eval_set): (&Dataset, Option<&Dataset>),
    output: &Output,
    profile: Option<&mut Profile>,
) -> Result<Summary> {
    let plan = Plan::new(&recipe.train, &recipe.data, train_set);
    let schedule = Schedule::new(&recipe.train, plan.total_steps());
    let settings = StepSettings::new(decoder.backend(), &recipe.train, keep);
    let progress = Progress::new("step", plan.total_steps(), recipe.train.logging_steps);
    let mut run = Run {
        recipe,
        decoder,
        trainer: SftTrainer::new(decoder, adapter, schedule, settings)?,
        eval_set,
        output,
        profile,
        metrics: MetricsWriter::create(&output.metrics())?,
        progress,
        start: Instant::now(),
        evaluations: Vec::new(),
        best: None,
    };
    run.evaluate(0)?;
    run.steps(&plan, train_set)
}

struct Run<'a, K: Backend> {
    recipe: &'a Recipe,
    decoder: &'a Decoder<K>,
    trainer: SftTrainer<'a, K>,
    eval_set: Option<&'a Dataset>,
    output: &'a Output,
    profile: Option<&'a mut Profile>,
    metrics: MetricsWriter,
    progress: Progress,
    start: Instant,
    evaluations: Vec<(usize, Evaluation)>,
    /// Steps and loss of the best evaluation after the start.
    best: Option<(usize, f64)>,
}

impl<K: Backend> Run<'_, K> {
    fn steps(mut self, plan: &Plan, train_set: &Dataset) -> Result<Summary> {
        let (mut losses, mut tokens, mut step_time) = (Vec::new(), 0, Duration::ZERO);
        for (done, window) in (1..).zip(plan.windows(train_set)) {
            let start = Instant::now();
            let outcome = match &mut self.profile {
                Some(profile) if done > 1 => profile.step(|| self.trainer.step(&window)),
                _ => self.trainer.step(&window),
            }?;
            let took = start.elapsed();
            if done == 1 {
                self.output.remove_adapters()?;
            }
            self.record(plan, done, outcome, window.trained_tokens, took)?;
            losses.push(outcome.loss);
            tokens += outcome.tokens;
            step_time += took;
            if plan.is_checkpoint(done) {
                self.checkpoint(done, done == plan.total_steps())?;
            }
        }
        self.progress.finish();
        Ok(Summary {
            steps: losses.len(),
            first_loss: losses.first().copied().unwrap_or(f64::NAN),
            last_loss: losses.last().copied().unwrap_or(f64::NAN),
            evaluations: self.evaluations,
            best_step: self.best.map_or(losses.len(), |(step, _)| step),
            tokens,
            step_time,
            elapsed: self.start.elapsed(),
        })
    }

    fn record(
        &mut self,
        plan: &Plan,
        step: usize,
        outcome: StepOutcome,
        trained_tokens: usize,
        took: Duration,
    ) -> Result<()> {
        let StepOutcome { loss, lr, grad_norm, tokens } = outcome;
        let tokens_per_second = tokens as f64 / took.as_secs_f64();
        self.progress.set(step, || {
            format!(
                "loss {loss:.4}  lr {lr:.2e}  grad norm {grad_norm:.3}  {tokens_per_second:.0} tokens/s"
            )
        });
        self.metrics.write(&Row::Step(StepRow {
            step,
            epoch: plan.epochs(step),
            loss,
            lr,
            grad_norm,
            tokens,
            trained_tokens,
            tokens_per_second,
            peak_rss_bytes: peak_rss_bytes(),
            elapsed_s: self.start.elapsed().as_secs_f64(),
        }))
    }

    /// Stores the adapter, and once more as the one to use if it is the best so far.
    fn checkpoint(&mut self, step: usize, is_last: bool) -> Result<()> {
        self.save(&self.output.last_adapter())?;
        let is_best = match self.evaluate(step)? {
            None => is_last,
            Some(loss) if self.best.is_none_or(|(_, best)| loss < best) => {
                self.best = Some((step, loss));
                true
            }
            Some(_) => false,
        };
        if is_best {
            self.save(&self.output.adapter())?;
        }
        Ok(())
    }

    fn save(&self, dir: &std::path::Path) -> Result<()> {
        let base = self.recipe.model.path.to_string_lossy();
        self.trainer.adapter().save(self.decoder, dir, &base)?;
        self.output.complete(dir)
    }

    /// The loss on the held-out rows, if there are any.
    fn evaluate(&mut self, step: usize) -> Result<Option<f64>> {
        let Some(eval_set) = self.eval_set else { return Ok(None) };
        let train = &self.recipe.train;
        let evaluation = evaluate(
            self.decoder,
            Some(self.trainer.adapter()),
            eval_set,
            train.batch_size,
            train.precision.on(self.decoder.backend()),
            |_| (),
        )?;
        let (loss, perplexity) = (evaluation.loss, evaluation.perplexity());
        self.progress
            .line(&format!("step {step}  eval loss {loss:.4}  perplexity {perplexity:.3}"));
        self.metrics.write(&Row::Eval(EvalRow {
            step,
            eval_loss: loss,
            perplexity,
            eval_trained_tokens: evaluation.trained_tokens,
            elapsed_s: self.start.elapsed().as_secs_f64(),
        }))?;
        anyhow::ensure!(
            loss.is_finite(),
            "step {step}: the evaluation loss is {loss}: training diverged; lower train.learning_rate"
        );
        self.evaluations.push((step, evaluation));
        Ok(Some(loss))
    }
}
