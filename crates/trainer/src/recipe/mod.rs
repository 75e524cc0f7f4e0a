//! The recipe: everything that decides a training run, as a TOML file.
//!
//! ```toml
//! [model]
//! path = "models/SmolLM2-135M-Instruct"
//!
//! [lora]
//! r = 16
//! target_modules = "all-linear"
//!
//! [data]
//! path = "train.jsonl"
//! eval_fraction = 0.05
//!
//! [train]
//! epochs = 2
//! learning_rate = 2e-4
//!
//! [output]
//! dir = "runs/first"
//! ```
//!
//! Every field can also be given as `--set section.field=value`. Paths are relative to the working
//! directory. Names and defaults are those of PEFT, bitsandbytes and the Hugging Face trainer.

mod check;
mod data;
mod error;
mod fields;
mod read;

use std::path::PathBuf;

use kernels::{Backend, DType};
use models::LoraConfig;
use nf4::{QuantConfig, QuantType};
use serde::{Deserialize, Serialize};

use crate::memory::Budget;

pub use self::data::{DataSection, RowFormat, SourceSection};
pub use error::{RecipeError, Suggestion};
pub use read::Override;

/// A training run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The frozen base.
    pub model: ModelSection,
    /// The adapter to train, in PEFT's terms; `None` when `model.adapter` brings its own.
    pub lora: Option<LoraConfig>,
    /// Rows to learn and rows to judge by.
    pub data: DataSection,
    /// Optimization.
    pub train: TrainSection,
    /// What is written.
    pub output: OutputSection,
}

/// `[model]`: the frozen base.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// Checkpoint directory (Hugging Face layout) or GGUF file. Required.
    pub path: PathBuf,
    /// PEFT adapter directory to go on training; excludes `[lora]`, which comes from the adapter.
    pub adapter: Option<PathBuf>,
    /// How the linears of the decoder layers are held. Weights stored in 4 bit stay as they are.
    pub quantize: Quantize,
    /// Weights that share one `absmax`: a power of two, 32 to 4096.
    pub blocksize: usize,
    /// Whether `absmax` is quantized as well (0.37 bits a weight less).
    pub double_quant: bool,
}

impl Default for ModelSection {
    fn default() -> Self {
        let QuantConfig { blocksize, double_quant, .. } = QuantConfig::default();
        Self {
            path: PathBuf::new(),
            adapter: None,
            quantize: Quantize::Nf4,
            blocksize,
            double_quant,
        }
    }
}

/// 4-bit code book of the frozen linears.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Quantize {
    /// 4-bit `NormalFloat` (Dettmers et al. 2023).
    #[default]
    Nf4,
    /// 4-bit float, 2 bits of exponent.
    Fp4,
    /// Kept as stored.
    None,
}

impl Quantize {
    /// The code book, if any.
    pub fn quant_type(self) -> Option<QuantType> {
        match self {
            Self::Nf4 => Some(QuantType::Nf4),
            Self::Fp4 => Some(QuantType::Fp4),
            Self::None => None,
        }
    }
}

/// `[train]`: optimization.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSection {
    /// Passes over the rows; may be a fraction. Ignored where `max_steps` is given.
    pub epochs: f64,
    /// Optimizer steps, whatever the number of epochs.
    pub max_steps: Option<usize>,
    /// Rows of one forward and backward pass, or bins of rows where `data.packing` is on.
    pub batch_size: usize,
    /// Passes before one optimizer step. The loss of a step is the mean over all its trained tokens.
    pub gradient_accumulation_steps: usize,
    /// Optimizer, by the state that it holds.
    pub optim: Optim,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Course of the learning rate after the warmup.
    pub lr_scheduler: Scheduler,
    /// Steps in which the learning rate rises from 0.
    pub warmup_steps: usize,
    /// The same as a share of all steps, rounded up; excludes `warmup_steps`.
    pub warmup_ratio: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Decay of Adam's first moment.
    pub adam_beta1: f64,
    /// Decay of Adam's second moment.
    pub adam_beta2: f64,
    /// Added to the root of Adam's second moment.
    pub adam_epsilon: f64,
    /// Largest norm of all gradients together, to which they are scaled down; 0 turns clipping off.
    pub max_grad_norm: f64,
    /// Seed of the adapter's start, the order of rows, the held-out split and dropout.
    pub seed: u64,
    /// Number type of activations inside the layers.
    pub precision: Precision,
    /// Compute activations again in the backward pass instead of keeping them: less memory, more time, same
    /// gradients. `auto` keeps what `memory_budget` has room for.
    pub gradient_checkpointing: Checkpointing,
    /// Memory of the device that the run may take, like `"22GiB"`; `"auto"` is what is free when it starts.
    pub memory_budget: Budget,
    /// Hand each step to a card as CUDA graphs instead of kernel by kernel: same results, less of the host's
    /// time. Nothing on the processor.
    pub cuda_graphs: bool,
    /// Steps between evaluations; by default one after every epoch. There is always one before the
    /// first and one after the last step.
    pub eval_steps: Option<usize>,
    /// Steps between lines of progress where there is no terminal. `metrics.jsonl` has every step.
    pub logging_steps: usize,
    /// Steps in a row that may be passed over because their loss or gradient is not finite; one more ends the run.
    pub max_skipped_steps: usize,
    /// Pass a step over whose loss lies more than so many standard deviations above the mean of the last 128 steps,
    /// once there are 32; 0 is never. OLMo-core, which has this as `SkipStepOptimizer`, takes 6.
    pub skip_loss_spikes: f64,
}

impl Default for TrainSection {
    fn default() -> Self {
        Self {
            epochs: 1.0,
            max_steps: None,
            batch_size: 8,
            gradient_accumulation_steps: 1,
            optim: Optim::AdamW,
            learning_rate: 2e-4,
            lr_scheduler: Scheduler::Linear,
            warmup_steps: 0,
            warmup_ratio: 0.0,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            seed: 42,
            precision: Precision::Auto,
            gradient_checkpointing: Checkpointing::Auto,
            memory_budget: Budget::Auto,
            cuda_graphs: false,
            eval_steps: None,
            logging_steps: 10,
            max_skipped_steps: 3,
            skip_loss_spikes: 0.0,
        }
    }
}

/// Which activations are computed again in the backward pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "toml::Value", into = "toml::Value")]
pub enum Checkpointing {
    /// As few as the memory allows.
    #[default]
    Auto,
    /// None.
    Off,
    /// All but the layers' inputs.
    On,
}

impl TryFrom<toml::Value> for Checkpointing {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        match &value {
            toml::Value::Boolean(true) => Ok(Self::On),
            toml::Value::Boolean(false) => Ok(Self::Off),
            toml::Value::String(text) if text == "auto" => Ok(Self::Auto),
            _ => Err(format!("is {value}; it must be true, false or \"auto\"")),
        }
    }
}

impl From<Checkpointing> for toml::Value {
    fn from(value: Checkpointing) -> Self {
        match value {
            Checkpointing::Auto => Self::String("auto".to_owned()),
            Checkpointing::Off => Self::Boolean(false),
            Checkpointing::On => Self::Boolean(true),
        }
    }
}

/// Optimizer, by the state that it holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Optim {
    /// Two f32 moments a parameter.
    #[default]
    #[serde(rename = "adamw")]
    AdamW,
    /// Two 8-bit moments a parameter, in blocks of 256 as bitsandbytes has them; f32 for adapter
    /// matrices with fewer than 4096 elements.
    #[serde(rename = "adamw_8bit")]
    AdamW8bit,
}

/// Course of the learning rate after the warmup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheduler {
    /// Stays at its peak.
    Constant,
    /// Falls to 0 in a straight line.
    #[default]
    Linear,
    /// Falls to 0 along half a cosine.
    Cosine,
}

/// Number type of activations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// `bf16` on a card and on processors with AMX or with AVX2 alone, `f32` on others, AVX-512 among them: what is faster.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// Brain floats inside the layers; residual stream, losses, gradients and optimizer in f32.
    Bf16,
}

impl Precision {
    /// `Auto` settled for the backend.
    #[must_use]
    pub fn resolve<K: Backend>(self, backend: &K) -> Self {
        match self {
            Self::Auto if backend.activations() == DType::Bf16 => Self::Bf16,
            Self::Auto => Self::F32,
            given => given,
        }
    }

    /// What the tape is told.
    pub fn on<K: Backend>(self, backend: &K) -> autograd::Precision {
        match self.resolve(backend) {
            Self::Bf16 => autograd::Precision::BF16,
            Self::Auto | Self::F32 => autograd::Precision::F32,
        }
    }
}

/// `[output]`: what is written. No result depends on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputSection {
    /// Directory for adapters, checkpoints, `metrics.jsonl`, `report.html` and the resolved `recipe.toml`. Required.
    pub dir: PathBuf,
    /// Whether an earlier run in `dir` may be replaced.
    pub overwrite: bool,
    /// Minutes between checkpoints; 0 is none by time. There is always one with an evaluation and when a run stops.
    pub checkpoint_minutes: f64,
    /// Steps between checkpoints; by default none by steps.
    pub checkpoint_steps: Option<usize>,
    /// Newest checkpoints to keep, besides the one of the best evaluation; 0 stores none at all.
    pub keep_checkpoints: usize,
    /// Rows to judge by that the model answers before the first step and after the last, for `report.html`.
    pub samples: usize,
    /// Most tokens of such an answer. Rows whose answer has no more count in the answers' scores.
    pub sample_tokens: usize,
    /// Write TensorBoard's event files into `tensorboard`, beside `metrics.jsonl`.
    pub tensorboard: bool,
}

impl Default for OutputSection {
    fn default() -> Self {
        Self {
            dir: PathBuf::new(),
            overwrite: false,
            checkpoint_minutes: 5.0,
            checkpoint_steps: None,
            keep_checkpoints: 2,
            samples: 3,
            sample_tokens: 64,
            tensorboard: true,
        }
    }
}

/// What `[lora]` is where the recipe says nothing.
pub(crate) fn default_lora() -> LoraConfig {
    LoraConfig { r: 16, lora_alpha: 32.0, ..LoraConfig::default() }
}
