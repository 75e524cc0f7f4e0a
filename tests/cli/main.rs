//! End-to-end tests of the binary on a tiny model.

#[cfg(feature = "cuda")]
mod cuda;
mod errors;
mod support;
mod tools;
mod train;
mod trajectory;
