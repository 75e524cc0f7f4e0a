//! The emulated driver under test: real CUDA programs through cudarc, and kernels in this process.

mod broken;
mod common;
mod coverage;
mod driver;
mod driver_api;
mod host;
mod mutation;
mod opcodes;
mod samples;
mod used_bytes;
