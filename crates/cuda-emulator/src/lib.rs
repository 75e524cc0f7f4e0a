//! A CUDA driver library without a GPU: it interprets the PTX that a program ships, checks every
//! memory access, and counts what the hardware would have to do.
//!
//! Text goes one way: [`ptx`] parses a module, [`exec`] lowers each kernel and runs it warp by warp
//! with the scalar operations of [`alu`] over the device memory of [`memory`], what goes wrong is a
//! [`findings::Finding`], and `driver` is the C interface through which a CUDA program sees it.

// An interpreter: what runs for each lane must vanish into the loop over the lanes.
#![allow(clippy::inline_always)]

pub mod alu;
pub mod counters;
pub mod driver;
pub mod exec;
pub mod findings;
pub mod memory;
pub mod profile;
pub mod ptx;
