//! Lowering of kernels and their execution.
//!
//! A module's kernels are lowered once: device functions inlined, registers allocated, opcodes
//! resolved to functions. A launch runs blocks on worker threads, the warps of a block in turn to
//! the next barrier, the lanes of a warp in lockstep, lowest program counter first after a
//! divergence. Results of race-free kernels do not depend on seed or number of threads.

mod access;
mod atomics;
mod banks;
mod block;
mod copies;
mod exchange;
mod fault;
mod flatten;
mod instruction;
mod launch;
mod lower;
mod module;
mod registers;
mod settings;
mod shared;
mod space;
mod warp;
mod worker;

pub use launch::{LaunchConfig, Outcome, Touched, launch};
pub use module::{Kernel, KernelParam, LoadError, LoadedModule, ModuleSymbol};
pub use settings::{CheckSet, MatrixOrder, Settings};
