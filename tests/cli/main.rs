//! End-to-end tests of the binary on a tiny model.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
mod cuda_faults;
mod data;
mod errors;
mod hostile;
mod memory;
mod resume;
mod support;
mod telemetry;
mod tools;
mod train;
mod trajectory;
