//! The CUDA driver API: what `libcuda.so.1` exports.
//!
//! The functions of `ffi` are thin: each turns pointers into values and calls the safe core, one
//! process-wide `State` behind a mutex. Handles are numbers that are looked up at every use, so a
//! stale or foreign one is an error, as it is for the real driver. Asynchronous work goes through a
//! `timeline`, which runs it at once or, to bring out missing synchronisation, as late and as
//! reordered as CUDA allows.
//!
//! What differs from a device, beyond what is refused with `CUDA_ERROR_NOT_SUPPORTED`:
//! - A kernel's accesses count, for the order of streams, as one range read and one range written
//!   of each allocation; two kernels that interleave within an allocation look like a conflict.
//! - The host is one participant: that one thread waited orders what another submits afterwards.
//! - Functions of the host run in the thread that submits or waits, which must not be the one that
//!   they wait for.
//! - Stream-ordered allocations cannot be captured, nor graphs be built by hand.
//! - Event times come from counts (`roofline`), not from a clock.

mod allocations;
mod blas;
mod capture;
mod context;
mod copies;
mod error;
mod execute;
mod ffi;
mod graphs;
mod hazards;
mod launches;
mod limits;
mod modules;
mod report;
mod roofline;
mod settings;
mod state;
mod streams;
mod timeline;
mod work;
