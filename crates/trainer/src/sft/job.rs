//! What a run is asked for, and what it came to.

use std::sync::Arc;
use std::time::Duration;

use data::Dataset;
use data::score::Scores;
use models::decoder::Keep;

use super::{Evaluation, Output, Prompts};
use crate::checkpoint::{Checkpoint, Identity};
use crate::profile::Profile;
use crate::recipe::Recipe;
use crate::stop::{Stop, Stops};

/// A run to do, or to go on with.
#[derive(Debug)]
pub struct Job<'a> {
    /// What decides it, resolved.
    pub recipe: &'a Recipe,
    /// What else does.
    pub identity: Identity,
    /// Rows to learn.
    pub train_set: &'a Dataset,
    /// Rows to judge by.
    pub eval_set: Option<&'a Dataset>,
    /// What the model answers before and after, if anything.
    pub prompts: Option<&'a Prompts>,
    /// What is kept of each layer.
    pub keep: Arc<[Keep]>,
    /// Where results go.
    pub output: &'a Output,
    /// What to go on from.
    pub checkpoint: Option<&'a Checkpoint>,
    /// What may end the run early.
    pub stops: Stops,
    /// Takes in all steps but the first, which allocates what later ones reuse.
    pub profile: Option<&'a mut Profile>,
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Steps taken, those before a checkpoint that it went on from included.
    pub steps: usize,
    /// Steps of the whole run.
    pub total_steps: usize,
    /// Loss of the first step.
    pub first_loss: f64,
    /// Loss of the last step.
    pub last_loss: f64,
    /// Evaluations, with the number of steps before each; empty without held-out rows.
    pub evaluations: Vec<(usize, Evaluation)>,
    /// How good answers to the samples were before the first step and after the last; `None` without any.
    pub scores: Option<[Scores; 2]>,
    /// Steps after which the adapter was stored that is to be used.
    pub best_step: usize,
    /// Steps passed over.
    pub skipped: usize,
    /// Tokens that went through training steps.
    pub tokens: usize,
    /// Time of the training steps.
    pub step_time: Duration,
    /// Time of everything after loading.
    pub elapsed: Duration,
    /// Checkpoints stored since it was begun or gone on with.
    pub checkpoints: usize,
    /// Time that training stood still for them.
    pub blocked: Duration,
    /// Why it ended before its last step.
    pub stopped: Option<Stop>,
}
