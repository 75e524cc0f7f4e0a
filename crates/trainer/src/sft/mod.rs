//! Supervised fine-tuning: windows of rows -> loss -> gradients -> optimizer, with evaluations between.

mod checkpoints;
mod evaluate;
mod guard;
mod job;
mod output;
mod plan;
mod recorder;
mod run;
pub mod samples;
mod saver;
mod snapshot;
mod spikes;
mod step;

pub(crate) use evaluate::batch_loss;
pub use evaluate::{Evaluation, evaluate};
pub use guard::{Culprit, NotFinite, Skipped};
pub use job::{Job, Summary};
pub use output::Output;
pub use plan::Plan;
pub use run::train;
pub use samples::{Prompts, Sample};
pub use spikes::Spike;
pub use step::{SftTrainer, StepOutcome, StepSettings};
