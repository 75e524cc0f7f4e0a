//! Weight files: one [`TensorSource`] trait, and its readers and writers.

pub mod atomic;
mod bnb;
mod checkpoint;
mod mmap;
mod names;
mod open;
mod quantized;
mod safetensors;
mod source;
mod tensor;
mod write;

pub use checkpoint::SafetensorsCheckpoint;
pub(crate) use mmap::MappedFile;
pub use names::{check_complete, missing_tensor, unused};
pub use open::Checkpoint;
pub use quantized::write_quantized;
pub use source::{StorageType, TensorInfo, TensorSource};
pub use tensor::{HostData, HostTensor};
pub use write::{StoredTensor, write_safetensors};
