//! Every numeric operation of the trainer, once per backend.
//!
//! [`Backend`] is the boundary: coarse operations over flat buffers whose shapes come in small
//! parameter structs ([`ops`]). [`Cpu`] is the backend that runs everywhere, `Cuda` (feature `cuda`) the one for NVIDIA cards. [`mod@reference`] holds the
//! slow, obviously right definition of each operation that every backend is tested against.
//!
//! **Architecture Invariant:** this crate knows no model, no file and no tape. It allocates nothing
//! that its caller did not ask for, except scratch of a fixed size.

mod arena;
mod backend;
mod buffer;
mod check;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod error;
mod memory;
pub mod ops;
mod philox;
pub mod reference;
pub mod trace;

pub use backend::Backend;
pub use buffer::{Buffer, DType, HostSlice};
pub use cpu::{Cpu, CpuBuffer, CpuLevel, CpuQuantizedWeight};
#[cfg(feature = "cuda")]
pub use cuda::{
    Cuda, CudaBuffer, CudaHostCopy, CudaQuantizedWeight, DeviceInfo, Route, RouteEntry,
    RouteTiming, Routes,
};
pub use error::{Error, Result};
pub use memory::{LayerMemory, MemoryKind, MemoryLedger, MemoryUsage, Reached};
pub use philox::Philox;
