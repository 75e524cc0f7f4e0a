//! Rows, chat templates, loss masks, batches.
//!
//! The way of the data: [`Encoder::read`] takes files of rows to token ids and labels and splits off the held-out ones,
//! then [`Dataset::windows`] lays micro-batches for the training step. Rows of any number pass through memory once;
//! what stays is small ([`Dataset`]). The crate knows tokenizers and templates, but no model.

mod batch;
mod cache;
mod continuation;
mod dataset;
pub mod demo;
mod encode;
mod epoch;
mod error;
mod generation;
mod grouping;
mod length;
mod outcome;
mod packing;
pub mod preflight;
mod reading;
mod rng;
pub mod rows;
pub mod score;
mod spans;
mod special;
mod template;
mod unseen;

pub use batch::{Batch, Window};
pub use cache::{Cache, CacheNote};
pub use dataset::{Dataset, HeldOut, Stats};
pub use encode::{EncodeOptions, Encoder, Example, IGNORE, PromptFormat, TrainOn};
pub use epoch::{Epoch, Order};
pub use error::{Error, Limit, Problem, Result, TemplateError};
pub use generation::GenerationCase;
pub use length::Overlength;
pub use reading::{Loaded, Reading};
pub use special::{SpecialToken, SpecialTokens};
pub use template::{Builtin, ChatTemplate};
pub use unseen::Unseen;
