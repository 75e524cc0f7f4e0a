//! LoRA adapters: configuration in PEFT's terms, target matching, and PEFT's files.

mod config;
mod config_file;
mod files;
mod targets;

pub use config::{InitLoraWeights, LoraBias, LoraConfig, TargetModules};
pub use config_file::{AdapterConfig, CONFIG_FILE};
pub use files::{LoraWeights, WEIGHTS_FILE, read_adapter, stored, write_adapter};
pub use targets::{Target, check_all_match, resolve_targets};
