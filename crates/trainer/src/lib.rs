//! Recipe, objective, loop, metrics and one module per subcommand.
//!
//! **Architecture Invariant:** everything that decides a run is in its [`recipe`], which is written
//! beside the adapter as it was resolved. No result depends on the number of threads.

mod append;
pub mod base;
mod cache;
pub mod checkpoint;
mod cli;
pub mod commands;
pub mod device;
mod error;
mod log;
pub mod memory;
pub mod metrics;
pub mod prepare;
pub mod profile;
mod progress;
pub mod recipe;
pub mod report;
pub mod schedule;
pub mod sft;
pub mod stop;
pub mod tensorboard;
#[cfg(feature = "cuda")]
pub mod tuning;

pub use cli::Cli;
pub use error::{UsageError, describe, exit_code, is_broken_pipe, tell};
