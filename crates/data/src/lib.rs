//! Rows, chat templates, loss masks, batches.
//!
//! The way of the data: [`rows::Rows::read`] a JSON-lines file, [`split`] off the held-out rows, [`Encoder::encode`]
//! them to token ids and labels, then [`Dataset::windows`] of micro-batches for the training step. The crate knows
//! tokenizers and templates, but no model.

mod batch;
mod continuation;
mod dataset;
pub mod demo;
mod encode;
mod epoch;
mod error;
mod length;
mod packing;
mod rng;
pub mod rows;
mod spans;
mod special;
mod template;

pub use batch::{Batch, Window};
pub use dataset::{Dataset, HeldOut, Stats, split};
pub use encode::{EncodeOptions, Encoder, Example, GenerationCase, IGNORE, PromptFormat};
pub use epoch::Epoch;
pub use error::{Error, Limit, Problem, Result, TemplateError};
pub use length::Overlength;
pub use special::{SpecialToken, SpecialTokens};
pub use template::ChatTemplate;
