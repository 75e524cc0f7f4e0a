//! End-to-end tests of the binary on a tiny model.

mod errors;
mod support;
mod tools;
mod train;
mod trajectory;
