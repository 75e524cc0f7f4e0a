//! Checkpoints to decoder: configurations, weight readers, tokenizer, adapters, generation.

#[cfg(target_endian = "big")]
compile_error!(
    "weights are read as little-endian without conversion; big-endian targets are not supported"
);

pub mod adapter;
pub mod config;
pub mod decoder;
mod error;
pub mod generate;
pub mod gguf;
mod settings;
pub mod tokenizer;
pub mod weights;

pub use adapter::LoraConfig;
pub use config::{Architecture, ModelConfig, RopeConfig, RopeScaling};
pub use error::{Error, Result};
pub use tokenizer::Tokenizer;
pub use weights::{Checkpoint, HostData, HostTensor, StorageType, TensorInfo, TensorSource};
