//! A whole run: steps, evaluations, saves, metrics.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use data::score::Scores;
use data::{Dataset, Window};
use kernels::Backend;
use models::decoder::{Adapter, Decoder};
use tracing::{debug, info, warn};

use super::checkpoints::Checkpoints;
use super::guard::Unmoved;
use super::recorder::Recorder;
use super::saver::{Save, Saved};
use super::{
    Job, NotFinite, Output, Plan, Prompts, Sample, SftTrainer, Skipped, StepOutcome, StepSettings,
    Summary, evaluate, samples,
};
use crate::checkpoint::RunState;
use crate::metrics::{AnswersRow, EvalRow, Row, SkippedRow, StepRow, peak_rss_bytes};
use crate::profile::Profile;
use crate::progress::Progress;
use crate::recipe::Recipe;
use crate::schedule::Schedule;
use crate::stop::{Stop, Stops};

/// Trains `adapter` as `job` says, from its checkpoint where there is one, whose adapter it then is.
pub fn train<K: Backend>(
    decoder: &Decoder<K>,
    adapter: Adapter<K>,
    job: Job<'_>,
) -> Result<Summary> {
    let Job {
        recipe,
        identity,
        train_set,
        eval_set,
        prompts,
        keep,
        output,
        checkpoint,
        stops,
        profile,
    } = job;
    let plan = Plan::new(&recipe.train, &recipe.data, train_set);
    let schedule = Schedule::new(&recipe.train, plan.total_steps());
    let settings = StepSettings::new(decoder.backend(), &recipe.train, keep);
    let mut trainer = SftTrainer::new(decoder, adapter, schedule, settings)?;
    let mut state = RunState::new(plan.total_steps(), identity.clone());
    let with_events = recipe.output.tensorboard;
    let recorder = match checkpoint {
        None => {
            output.remove_samples()?;
            Recorder::create(output, with_events)?
        }
        Some(checkpoint) => {
            trainer.restore(checkpoint)?;
            state =
                RunState { total_steps: plan.total_steps(), identity, ..checkpoint.state.clone() };
            // More steps than were planned: what was the last one may be followed by others.
            state.evaluation_due &= plan.is_checkpoint(state.step);
            Recorder::resume(output, with_events, state.step, state.evaluation_due)?
        }
    };
    let run = Run {
        recipe,
        recipe_text: recipe.to_toml().into(),
        decoder,
        trainer,
        eval_set,
        prompts,
        output,
        profile,
        recorder,
        progress: Progress::new("step", plan.total_steps(), recipe.train.logging_steps),
        saves: Checkpoints::start(output, &recipe.output)?,
        stops,
        begun: Instant::now(),
        elapsed_before: Duration::from_secs_f64(state.elapsed_seconds),
        step_took: Duration::ZERO,
        not_finite: 0,
        unmoved_checked: checkpoint.is_some(),
        is_best: false,
        saved_step: state.step,
        checkpoints: 0,
        blocked: Duration::ZERO,
        state,
    };
    run.run(&plan, train_set)
}

struct Run<'a, K: Backend> {
    recipe: &'a Recipe,
    recipe_text: Arc<str>,
    decoder: &'a Decoder<K>,
    trainer: SftTrainer<'a, K>,
    eval_set: Option<&'a Dataset>,
    prompts: Option<&'a Prompts>,
    output: &'a Output,
    profile: Option<&'a mut Profile>,
    recorder: Recorder,
    progress: Progress,
    saves: Checkpoints,
    stops: Stops,
    begun: Instant,
    elapsed_before: Duration,
    /// Time of the last step.
    step_took: Duration,
    /// Steps in a row until now in which something was not finite.
    not_finite: usize,
    unmoved_checked: bool,
    /// Whether the adapter is the best since it was evaluated last.
    is_best: bool,
    saved_step: usize,
    /// Checkpoints stored.
    checkpoints: usize,
    /// Time that training stood still to copy what is saved.
    blocked: Duration,
    state: RunState,
}

impl<K: Backend> Run<'_, K> {
    fn run(mut self, plan: &Plan, train_set: &Dataset) -> Result<Summary> {
        if self.state.step == 0 && !self.recorder.answered {
            self.sample(|sample, answer| sample.before = Some(answer))?;
        }
        let begun_after = self.state.step;
        let mut stop = self.settle(plan)?;
        for (step, window) in (1..).zip(plan.windows(train_set)).skip(self.state.step) {
            if stop.is_some() {
                break;
            }
            self.step(plan, step, &window?)?;
            stop = self.settle(plan)?;
        }
        let saved = self.saves.finish(&self.stops)?;
        self.tell_saved(&saved);
        let mut scores = None;
        if stop.is_none() && (self.state.step > begun_after || !self.recorder.answered) {
            scores = self.sample(|sample, answer| sample.after = Some(answer))?;
        }
        self.progress.finish();
        let (checkpoints, blocked) = (self.checkpoints, self.blocked + self.saves.waited);
        let state = self.state;
        Ok(Summary {
            checkpoints,
            blocked,
            steps: state.step,
            total_steps: state.total_steps,
            first_loss: state.first_loss.unwrap_or(f64::NAN),
            last_loss: state.last_loss.unwrap_or(f64::NAN),
            best_step: state.best.map_or(state.step, |(step, _)| step),
            evaluations: state.evaluations,
            scores,
            skipped: state.skipped,
            tokens: state.tokens,
            step_time: Duration::from_secs_f64(state.step_seconds),
            elapsed: self.elapsed_before + self.begun.elapsed(),
            stopped: stop,
        })
    }

    fn step(&mut self, plan: &Plan, step: usize, window: &Window) -> Result<()> {
        let backend = self.decoder.backend();
        let unmoved = || Unmoved::copy(backend, self.trainer.adapter());
        let before = (!self.unmoved_checked).then(unmoved).transpose()?;
        let start = Instant::now();
        let outcome = match &mut self.profile {
            Some(profile) if step > 1 => profile.step(|| self.trainer.step(window)),
            _ => self.trainer.step(window),
        }?;
        self.step_took = start.elapsed();
        if step == 1 {
            self.output.remove_earlier()?;
            if self.recipe.output.keep_checkpoints > 0 {
                self.output.promise_checkpoints()?;
            }
        }
        let state = &mut self.state;
        state.step = step;
        state.evaluation_due = plan.is_checkpoint(step);
        state.tokens += outcome.tokens;
        state.step_seconds += self.step_took.as_secs_f64();
        if let Some(cause) = &outcome.skipped {
            self.skip(step, cause, &outcome)?;
        } else {
            self.not_finite = 0;
            state.first_loss.get_or_insert(outcome.loss);
            state.last_loss = Some(outcome.loss);
            self.record(plan, step, &outcome, window.trained_tokens)?;
            self.check_moved(before, &outcome)?;
        }
        let saved = self.saves.poll()?;
        self.tell_saved(&saved);
        Ok(())
    }

    /// Passes a step over, or ends the run after too many in a row in which something was not finite.
    fn skip(&mut self, step: usize, cause: &Skipped, outcome: &StepOutcome) -> Result<()> {
        self.state.skipped += 1;
        self.recorder.write(&Row::Skipped(SkippedRow {
            step,
            skipped: cause.to_string(),
            lr: outcome.lr,
            elapsed_s: self.elapsed(),
        }))?;
        // A finite spike says nothing of the next step; an adapter that is not finite stays so.
        let hopeless = matches!(cause, Skipped::NotFinite(NotFinite::Weight { .. }));
        self.not_finite = match cause {
            Skipped::NotFinite(_) => self.not_finite + 1,
            Skipped::Spike(_) => 0,
        };
        if hopeless || self.not_finite > self.recipe.train.max_skipped_steps {
            let StepOutcome { loss, grad_norm, .. } = outcome;
            bail!(
                "step {step}: loss {loss}, gradient norm {grad_norm}: training diverged ({cause}); lower \
                 train.learning_rate, add warmup, or set train.max_grad_norm; what was saved before is whole"
            );
        }
        warn!(step, "step {step} is passed over: {cause}");
        Ok(())
    }

    /// Once, after the first update with a learning rate above 0.
    fn check_moved(&mut self, before: Option<Unmoved>, outcome: &StepOutcome) -> Result<()> {
        let Some(before) = before.filter(|_| outcome.lr > 0.0) else { return Ok(()) };
        self.unmoved_checked = true;
        let stayed = before.check(self.decoder.backend(), self.trainer.adapter())?;
        if let Some(stayed) = stayed {
            warn!("{stayed}");
        }
        Ok(())
    }

    fn record(
        &mut self,
        plan: &Plan,
        step: usize,
        outcome: &StepOutcome,
        trained_tokens: usize,
    ) -> Result<()> {
        let StepOutcome { loss, lr, grad_norm, tokens, .. } = *outcome;
        let tokens_per_second = tokens as f64 / self.step_took.as_secs_f64();
        self.progress.set(step, || {
            format!(
                "loss {loss:.4}  lr {lr:.2e}  grad norm {grad_norm:.3}  {tokens_per_second:.0} tokens/s"
            )
        });
        debug!(step, loss, lr, grad_norm, tokens_per_second, "step {step}  loss {loss:.6}");
        self.recorder.write(&Row::Step(StepRow {
            step,
            epoch: plan.epochs(step),
            loss,
            lr,
            grad_norm,
            tokens,
            trained_tokens,
            tokens_per_second,
            peak_rss_bytes: peak_rss_bytes(),
            elapsed_s: self.elapsed(),
        }))
    }

    /// What is due after a step, or before the first: an evaluation, a save. Says whether to stop.
    fn settle(&mut self, plan: &Plan) -> Result<Option<Stop>> {
        let step = self.state.step;
        let evaluated = self.state.evaluation_due
            && self.stops.requested(Duration::ZERO).is_none()
            && self.evaluate(step == plan.total_steps())?;
        let stop = self.stops.requested(self.step_took);
        let done = step >= plan.total_steps() && !self.state.evaluation_due;
        let stop = stop.filter(|_| !done);
        // While nothing is finite, the checkpoint before is the better one to go on from.
        let due = stop.is_some() || self.not_finite == 0 && self.saves.due(step);
        if step > 0 && (evaluated || due && self.saved_step != step) {
            self.save()?;
            self.saved_step = step;
        }
        Ok(stop)
    }

    fn save(&mut self) -> Result<()> {
        let start = Instant::now();
        let mut state = self.state.clone();
        state.elapsed_seconds = self.elapsed();
        let base = self.recipe.model.path.to_string_lossy();
        let snapshot = self.trainer.snapshot(state, &self.recipe_text, &base)?;
        if let Some(module) = snapshot.adapter.not_finite() {
            let step = self.state.step;
            bail!(
                "step {step}: the adapter of {module} is not finite: training diverged; lower train.learning_rate"
            );
        }
        self.blocked += start.elapsed();
        let best = std::mem::take(&mut self.is_best).then(|| Arc::clone(&snapshot.adapter));
        let metrics = Some(self.recorder.file()?);
        let saved = self.saves.save(Save { snapshot, best, metrics })?;
        self.tell_saved(&saved);
        Ok(())
    }

    fn tell_saved(&mut self, saved: &[Saved]) {
        for Saved { step, bytes, took } in saved.iter().copied().filter(|saved| saved.bytes > 0) {
            let (megabytes, seconds) = (bytes as f64 / 1e6, took.as_secs_f64());
            self.checkpoints += 1;
            info!(
                step,
                bytes, seconds, "step {step}  checkpoint of {megabytes:.1} MB in {seconds:.2} s"
            );
        }
    }

    /// Evaluates on the held-out rows, if there are any, and tells whether the adapter is to be used from now on.
    /// False when it was broken off.
    fn evaluate(&mut self, is_last: bool) -> Result<bool> {
        let step = self.state.step;
        let Some(eval_set) = self.eval_set else {
            self.state.evaluation_due = false;
            self.is_best = is_last;
            return Ok(true);
        };
        let train = &self.recipe.train;
        let stops = &self.stops;
        let evaluation = evaluate(
            self.decoder,
            Some(self.trainer.adapter()),
            eval_set,
            train.batch_size,
            train.precision.on(self.decoder.backend()),
            |_| match stops.requested(Duration::ZERO) {
                None => ControlFlow::Continue(()),
                Some(_) => ControlFlow::Break(()),
            },
        )?;
        let Some(evaluation) = evaluation else { return Ok(false) };
        let (loss, perplexity) = (evaluation.loss, evaluation.perplexity());
        info!(
            step,
            loss, perplexity, "step {step}  eval loss {loss:.4}  perplexity {perplexity:.3}"
        );
        self.recorder.write(&Row::Eval(EvalRow {
            step,
            eval_loss: loss,
            perplexity,
            eval_trained_tokens: evaluation.trained_tokens,
            elapsed_s: self.elapsed(),
        }))?;
        anyhow::ensure!(
            loss.is_finite(),
            "step {step}: the evaluation loss is {loss}: training diverged; lower train.learning_rate"
        );
        let state = &mut self.state;
        state.evaluation_due = false;
        state.evaluations.push((step, evaluation));
        if step > 0 && state.best.is_none_or(|(_, best)| loss < best) {
            state.best = Some((step, loss));
            self.is_best = true;
        }
        Ok(true)
    }

    /// Has the prompts answered, and their answers stored; how good those of before and these are. No result of
    /// training depends on it.
    fn sample(&mut self, put: impl Fn(&mut Sample, String)) -> Result<Option<[Scores; 2]>> {
        let Some(prompts) = self.prompts else { return Ok(None) };
        let precision = self.recipe.train.precision.on(self.decoder.backend());
        let adapter = self.trainer.adapter();
        let Some(answers) = prompts.answer(self.decoder, adapter, precision, &self.stops)? else {
            return Ok(None);
        };
        let scores = prompts.scores(&answers);
        let path = self.output.samples();
        // Those of before, unless they are of other rows.
        let stored = samples::read(&path).unwrap_or_default();
        let mut rows = prompts.rows().to_vec();
        for (row, answer) in rows.iter_mut().zip(answers) {
            let same = |old: &&Sample| (&old.place, &old.prompt) == (&row.place, &row.prompt);
            row.before = stored.iter().find(same).and_then(|old| old.before.clone());
            put(row, answer);
        }
        if let Err(error) = samples::write(&path, &rows) {
            warn!("no samples: {}", crate::describe(&error));
        }
        // Last, because a resumed run does all of it again where the row is missing.
        if let Some(scores) = scores {
            let (step, elapsed_s) = (self.state.step, self.elapsed());
            self.recorder.write(&Row::Answers(AnswersRow { step, scores, elapsed_s }))?;
        }
        let before: Option<Vec<String>> = rows.into_iter().map(|row| row.before).collect();
        let before = before.and_then(|answers| prompts.scores(&answers));
        Ok(before.zip(scores).map(|(before, now)| [before, now]))
    }

    fn elapsed(&self) -> f64 {
        (self.elapsed_before + self.begun.elapsed()).as_secs_f64()
    }
}
