//! Model configuration: what `config.json` (or GGUF metadata) says about a decoder.

mod fields;
mod known;
mod layers;
mod published;
mod quantization;
mod read;
mod rope;
mod rope_fields;
mod write;

use std::{fmt, path::Path};

use nf4::{QuantType, SourceDtype};
use serde::{Deserialize, Serialize};

use crate::{Error, Result, settings};

pub use layers::LinearShape;
pub use rope::{RopeConfig, RopeScaling};

/// Longest context in tokens.
const MAX_CONTEXT: usize = 1 << 30;
/// No real model is near these bounds, under which the elements of all parameters can be counted without overflow.
const MAX_WIDTH: usize = 1 << 24;
pub(crate) const MAX_LAYERS: usize = 4096;
pub(crate) const MAX_HEAD_DIM: usize = 1 << 16;

/// `value` if it is in `1..=max`. Readers check what they allocate by with this, before they do.
pub(crate) fn in_range(path: &Path, field: &str, value: usize, max: usize) -> Result<usize> {
    if value == 0 || value > max {
        return Err(Error::field(path, field, format!("is {value}; it must be in 1..={max}")));
    }
    Ok(value)
}

/// Decoder families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// Llama 2, 3, 3.x and what shares their layout.
    Llama,
    /// Mistral: Llama with a sliding window.
    Mistral,
    /// Qwen2 and Qwen2.5: bias on q, k, v.
    Qwen2,
    /// Qwen3: RMS norm on each query and key head.
    Qwen3,
}

impl Architecture {
    /// All families.
    pub const ALL: [Self; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// The `model_type` of `config.json`; also `general.architecture` in GGUF, except that Mistral is `llama` there.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// The class name in `architectures`.
    pub fn class_name(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.model_type())
    }
}

/// Everything the decoder needs to know besides its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Decoder family.
    pub architecture: Architecture,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of one head; even. Not always `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Longest sequence the model was trained on, in tokens; rotary scaling may stretch it to
    /// [`context_limit`](Self::context_limit).
    pub max_position_embeddings: usize,
    /// Epsilon of every RMS norm.
    pub rms_norm_eps: f32,
    /// Rotary position embedding.
    pub rope: RopeConfig,
    /// Whether the output head is the embedding table.
    pub tie_word_embeddings: bool,
    /// Bias on q, k and v projections.
    pub qkv_bias: bool,
    /// Bias on the attention output projection.
    pub o_bias: bool,
    /// Bias on gate, up and down projections.
    pub mlp_bias: bool,
    /// RMS norm over `head_dim` on queries and keys.
    pub qk_norm: bool,
    /// Attention window of each layer in tokens, own position included; `None` is full attention.
    pub sliding_window: Vec<Option<usize>>,
    /// Beginning-of-sequence token.
    pub bos_token_id: Option<u32>,
    /// Tokens that end generation.
    pub eos_token_ids: Vec<u32>,
    /// Padding token.
    pub pad_token_id: Option<u32>,
    /// Data type the weights were published in.
    pub dtype: Option<SourceDtype>,
    /// bitsandbytes settings when the weights are stored in 4 bit.
    pub quantization: Option<BnbConfig>,
    /// Fields that were present but not understood, one sentence each; show them to the user.
    pub warnings: Vec<String>,
}

/// The 4-bit part of `quantization_config`, in bitsandbytes' names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BnbConfig {
    /// Code book of the 4-bit weights.
    pub bnb_4bit_quant_type: QuantType,
    /// Whether `absmax` is quantized too.
    pub bnb_4bit_use_double_quant: bool,
    /// Type of the matmul in bitsandbytes.
    pub bnb_4bit_compute_dtype: SourceDtype,
}

impl ModelConfig {
    /// Reads `config.json` of a checkpoint directory, and the special tokens of `generation_config.json`
    /// where there is one.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let mut config = Self::from_json(&settings::read(&path)?, &path)?;
        let path = dir.join("generation_config.json");
        if let Some(text) = settings::read_if_there(&path)? {
            read::extend_special_tokens(&mut config, &text, &path)?;
        }
        Ok(config)
    }

    /// Parses the text of a `config.json` in the layout of transformers 4 or 5; `path` is for messages.
    pub fn from_json(text: &str, path: &Path) -> Result<Self> {
        read::from_json(text, path)
    }

    /// Checks that the fields fit together; every reader ends with this. `path` is for messages.
    pub fn validated(self, path: &Path) -> Result<Self> {
        self.check_dimensions(path)?;
        self.rope.check(self.head_dim, path)?;
        if self.sliding_window.len() != self.num_hidden_layers {
            let message = format!(
                "{} layers have a window setting, but num_hidden_layers is {}",
                self.sliding_window.len(),
                self.num_hidden_layers
            );
            return Err(Error::field(path, "sliding_window", message));
        }
        if self.sliding_window.contains(&Some(0)) {
            return Err(Error::field(
                path,
                "sliding_window",
                "is 0; a window holds at least one token",
            ));
        }
        if !(self.rms_norm_eps.is_finite() && self.rms_norm_eps >= 0.0) {
            let message = format!("is {}; it must be finite and not negative", self.rms_norm_eps);
            return Err(Error::field(path, "rms_norm_eps", message));
        }
        Ok(self)
    }

    fn check_dimensions(&self, path: &Path) -> Result<()> {
        for (field, value, max) in [
            ("hidden_size", self.hidden_size, MAX_WIDTH),
            ("intermediate_size", self.intermediate_size, MAX_WIDTH),
            ("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS),
            ("head_dim", self.head_dim, MAX_HEAD_DIM),
            ("num_attention_heads", self.num_attention_heads, MAX_WIDTH / self.head_dim.max(1)),
            ("num_key_value_heads", self.num_key_value_heads, MAX_WIDTH),
            ("vocab_size", self.vocab_size, MAX_WIDTH),
            ("max_position_embeddings", self.max_position_embeddings, MAX_CONTEXT),
        ] {
            in_range(path, field, value, max)?;
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            let message = format!(
                "{} does not divide num_attention_heads = {}",
                self.num_key_value_heads, self.num_attention_heads
            );
            return Err(Error::field(path, "num_key_value_heads", message));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(Error::field(
                path,
                "head_dim",
                format!("is {}; rotary embedding needs an even one", self.head_dim),
            ));
        }
        Ok(())
    }

    /// Width of the concatenated query heads: the output of `q_proj` and the input of `o_proj`.
    pub fn query_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of the concatenated key (or value) heads: the output of `k_proj` and `v_proj`.
    pub fn key_value_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Longest sequence in tokens that the rotary scaling is made for: what every input is held to.
    pub fn context_limit(&self) -> usize {
        let max = self.max_position_embeddings;
        let stretched = |context: usize, factor: f64| {
            // `as` saturates; a stretch below 1 does not shorten what the model was trained on.
            ((context as f64 * factor) as usize).clamp(max, max.max(MAX_CONTEXT))
        };
        match self.rope.scaling {
            RopeScaling::Linear { factor } | RopeScaling::Dynamic { factor } => {
                stretched(max, factor)
            }
            RopeScaling::Yarn { factor, original_max_position_embeddings, .. } => {
                stretched(original_max_position_embeddings, factor)
            }
            // Llama 3's published maximum includes its factor already.
            RopeScaling::Default
            | RopeScaling::Llama3 { .. }
            | RopeScaling::FrequencyFactors(_) => max,
        }
    }

    /// Inverse frequencies (`head_dim / 2`) and the scale on cos and sin for sequences of up to `seq_len` tokens.
    pub fn rope_tables(&self, seq_len: usize) -> (Vec<f32>, f32) {
        self.rope.tables(seq_len, self.head_dim, self.max_position_embeddings)
    }
}
