//! Tests of the crate's public face, in one binary.

mod batches;
mod common;
mod demo;
mod masks;
mod rows;
mod split;
mod templates;
