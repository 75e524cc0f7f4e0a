//! Tests of the crate's public face, in one binary.

mod batches;
mod common;
mod conversations;
mod demo;
mod formats;
mod hostile;
mod masks;
mod preflight;
mod rows;
mod sources;
mod split;
mod templates;
