//! When to save, and what to do when it fails: training goes on, and saving is tried again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Output;
use super::saver::{Failed, Save, Saved, Saver};
use crate::progress::warn;
use crate::recipe::OutputSection;
use crate::stop::{Stop, Stops};

/// Between two tries.
const RETRY: Duration = Duration::from_secs(30);

/// The same at the end of a run, with nothing else to do.
const LAST_RETRY: Duration = Duration::from_secs(5);

/// Tries at the end of a run for a reason that is not a full disk.
const LAST_TRIES: usize = 3;

/// The saves of a run.
#[derive(Debug)]
pub(super) struct Checkpoints {
    saver: Saver,
    every_steps: Option<usize>,
    every: Option<Duration>,
    last: Instant,
    failed: Option<Box<Failed>>,
    retry_at: Instant,
    /// Time that training waited for saves before.
    pub(super) waited: Duration,
}

impl Checkpoints {
    pub(super) fn start(output: &Output, section: &OutputSection) -> Result<Self> {
        let keep = section.keep_checkpoints;
        let minutes = Some(section.checkpoint_minutes).filter(|minutes| *minutes > 0.0 && keep > 0);
        Ok(Self {
            saver: Saver::start(output, keep)?,
            every_steps: section.checkpoint_steps.filter(|_| keep > 0),
            every: minutes.map(|minutes| Duration::from_secs_f64(60.0 * minutes)),
            last: Instant::now(),
            failed: None,
            retry_at: Instant::now(),
            waited: Duration::ZERO,
        })
    }

    /// Whether a checkpoint is due after `step`. By time, none is while the one before is being written.
    pub(super) fn due(&mut self, step: usize) -> bool {
        let by_steps = self.every_steps.is_some_and(|every| step.is_multiple_of(every));
        let by_time = self.every.is_some_and(|every| self.last.elapsed() >= every);
        by_steps || by_time && !self.saver.busy()
    }

    /// Saves in the background; waits for the save before to end.
    pub(super) fn save(&mut self, mut save: Save) -> Result<Vec<Saved>> {
        let start = Instant::now();
        self.saver.wait()?;
        self.waited += start.elapsed();
        let saved = self.hear();
        // What is newer has all that the failed one had, but for the best adapter.
        if let Some(failed) = self.failed.take() {
            save.best = save.best.or(failed.save.best);
        }
        self.saver.submit(save)?;
        self.last = Instant::now();
        Ok(saved)
    }

    /// Hears what became of saves, and tries again what failed.
    pub(super) fn poll(&mut self) -> Result<Vec<Saved>> {
        let saved = self.hear();
        if self.retry_at <= Instant::now()
            && let Some(failed) = self.failed.take()
        {
            self.saver.submit(failed.save)?;
        }
        Ok(saved)
    }

    fn hear(&mut self) -> Vec<Saved> {
        let mut all = Vec::new();
        while let Some(outcome) = self.saver.outcome() {
            match outcome {
                Ok(saved) => all.push(saved),
                Err(failed) => {
                    warn(&complaint(&failed));
                    self.retry_at = Instant::now() + RETRY;
                    self.failed = Some(failed);
                }
            }
        }
        all
    }

    /// Waits until everything is saved. A full disk is waited for, until a signal comes.
    pub(super) fn finish(&mut self, stops: &Stops) -> Result<Vec<Saved>> {
        let signals = || stops.requested(Duration::ZERO).filter(|stop| *stop != Stop::Time);
        let before = signals();
        let mut all = Vec::new();
        for tried in 1.. {
            self.saver.wait()?;
            all.extend(self.hear());
            let Some(failed) = self.failed.take() else { break };
            let give_up = !failed.disk_is_full() && tried >= LAST_TRIES;
            // A run that a signal ended must not outlast the patience of who sent it.
            if give_up
                || before.is_some() && tried >= LAST_TRIES
                || before.is_none() && signals().is_some()
            {
                let step = failed.save.snapshot.state.step;
                return Err(failed.error).with_context(|| format!("cannot save step {step}"));
            }
            if tried > 1 {
                std::thread::sleep(LAST_RETRY);
            }
            self.saver.submit(failed.save)?;
        }
        Ok(all)
    }
}

fn complaint(failed: &Failed) -> String {
    let step = failed.save.snapshot.state.step;
    let cause = crate::describe(&failed.error);
    let advice = if failed.disk_is_full() { "the disk is full: make room; " } else { "" };
    format!(
        "step {step} could not be saved: {cause}; {advice}training goes on, and saving is tried again"
    )
}
