//! Tests of the crate's public face, in one binary.

mod batches;
mod cache;
mod common;
mod conversations;
mod demo;
mod formats;
mod hostile;
mod masks;
mod preflight;
mod reading;
mod rows;
mod sources;
mod split;
mod templates;
