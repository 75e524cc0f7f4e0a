//! Weight files: one [`TensorSource`] trait, and its readers and writers.

mod atomic;
mod bnb;
mod checkpoint;
mod hollow;
mod mmap;
mod names;
mod open;
mod quantized;
mod safetensors;
mod source;
mod summary;
mod tensor;
mod write;

pub use atomic::{AtomicDir, write_bytes, write_file};
pub use checkpoint::SafetensorsCheckpoint;
pub(crate) use checkpoint::elements;
pub use hollow::Hollow;
pub(crate) use mmap::MappedFile;
pub use names::{check_complete, missing_tensor, unused};
pub(crate) use names::{nearest, some_of};
pub use open::Checkpoint;
pub use quantized::{write_checkpoint, write_quantized};
pub(crate) use safetensors::{RawTensor, SafetensorsFile};
pub use source::{StorageType, TensorInfo, TensorSource};
pub use summary::{ParameterCounts, StoredCounts, TrainableParameters, stored_counts};
pub use tensor::{HostData, HostTensor};
pub use write::{StoredTensor, write_safetensors};
