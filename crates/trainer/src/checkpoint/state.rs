//! The counters of a run.

use serde::{Deserialize, Serialize};

use super::Identity;
use crate::sft::Evaluation;

/// Where a run stands. Everything random and the place in the data follow from these numbers: dropout masks from
/// the passes, the learning rate and the rows of the next step from the steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunState {
    /// Steps taken, those without an update included.
    pub step: usize,
    /// Steps of the whole run.
    pub total_steps: usize,
    /// Updates of the adapter, which Adam corrects its moments by.
    pub updates: u64,
    /// Forward passes, each with dropout masks of its own.
    pub passes: u64,
    /// Whether the evaluation that is due after `step` is still to come.
    pub evaluation_due: bool,
    /// Evaluations so far, with the number of steps before each.
    pub evaluations: Vec<(usize, Evaluation)>,
    /// Steps and loss of the best evaluation after the start.
    pub best: Option<(usize, f64)>,
    /// Loss of the first step that had one.
    pub first_loss: Option<f64>,
    /// Loss of the last step that had one.
    pub last_loss: Option<f64>,
    /// Steps passed over.
    #[serde(default)]
    pub skipped: usize,
    /// Losses of the last steps, where `train.skip_loss_spikes` compares with them.
    #[serde(default)]
    pub recent_losses: Vec<f64>,
    /// Tokens that went through training steps.
    pub tokens: usize,
    /// Time of the training steps.
    pub step_seconds: f64,
    /// Time since the start of training, without what lay between stopping and going on.
    pub elapsed_seconds: f64,
    /// What decides the run besides its recipe.
    pub identity: Identity,
}

/// What no counter reaches, and far from where arithmetic with it ends.
const MOST: u64 = 1 << 53;

/// Thirty thousand years.
const MOST_SECONDS: f64 = 1e12;

impl RunState {
    /// Before the first step of a run of `total_steps`.
    pub fn new(total_steps: usize, identity: Identity) -> Self {
        Self {
            step: 0,
            total_steps,
            updates: 0,
            passes: 0,
            evaluation_due: true,
            evaluations: Vec::new(),
            best: None,
            first_loss: None,
            last_loss: None,
            skipped: 0,
            recent_losses: Vec::new(),
            tokens: 0,
            step_seconds: 0.0,
            elapsed_seconds: 0.0,
            identity,
        }
    }

    /// Checks the numbers of a state that was read: a run that goes on counts and calculates with them.
    ///
    /// # Errors
    /// The field and its value.
    pub(super) fn check(&self) -> Result<(), String> {
        let counters = [
            ("step", self.step as u64),
            ("total_steps", self.total_steps as u64),
            ("updates", self.updates),
            ("passes", self.passes),
            ("tokens", self.tokens as u64),
        ];
        if let Some((field, count)) = counters.into_iter().find(|(_, count)| *count > MOST) {
            return Err(format!("`{field}` is {count}, which no run comes to"));
        }
        let times =
            [("step_seconds", self.step_seconds), ("elapsed_seconds", self.elapsed_seconds)];
        match times.into_iter().find(|(_, time)| !(0.0..=MOST_SECONDS).contains(time)) {
            Some((field, time)) => Err(format!("`{field}` is {time}, which is no time of a run")),
            None => Ok(()),
        }
    }
}
