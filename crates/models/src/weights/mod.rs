//! Weight files: one [`TensorSource`] trait, and its readers and writers.

mod source;
mod tensor;

pub use source::{StorageType, TensorInfo, TensorSource};
pub use tensor::{HostData, HostTensor};
