//! A CUDA driver library without a GPU: it interprets the PTX that a program ships, checks every
//! memory access, and counts what the hardware would have to do.

// An interpreter: what runs for each lane must vanish into the loop over the lanes.
#![allow(clippy::inline_always)]

pub mod ptx;
