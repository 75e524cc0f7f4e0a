//! Rows, chat templates, loss masks, batches.
//!
//! The way of the data: [`rows::Rows::read`] files, [`split`] off the held-out rows, [`Encoder::encode`]
//! them to token ids and labels, then [`Dataset::windows`] of micro-batches for the training step. The crate knows
//! tokenizers and templates, but no model.

mod batch;
mod continuation;
mod dataset;
pub mod demo;
mod encode;
mod epoch;
mod error;
mod generation;
mod length;
mod packing;
pub mod preflight;
mod rng;
pub mod rows;
pub mod score;
mod spans;
mod special;
mod template;
mod unseen;

pub use batch::{Batch, Window};
pub use dataset::{Dataset, HeldOut, Stats, split};
pub use encode::{EncodeOptions, Encoder, Example, IGNORE, PromptFormat, TrainOn};
pub use epoch::Epoch;
pub use error::{Error, Limit, Problem, Result, TemplateError};
pub use generation::GenerationCase;
pub use length::Overlength;
pub use special::{SpecialToken, SpecialTokens};
pub use template::{Builtin, ChatTemplate};
pub use unseen::Unseen;
