//! Supervised fine-tuning: windows of rows -> loss -> gradients -> optimizer, with evaluations between.

mod evaluate;
mod output;
mod plan;
mod run;
mod step;

pub(crate) use evaluate::batch_loss;
pub use evaluate::{Evaluation, evaluate};
pub use output::Output;
pub use plan::Plan;
pub use run::{Summary, train};
pub use step::{SftTrainer, StepOutcome, StepSettings};
