//! LoRA adapters: configuration in PEFT's terms, target matching, and PEFT's files.

mod config;

pub use config::{InitLoraWeights, LoraBias, LoraConfig, TargetModules};
