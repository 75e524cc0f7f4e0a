//! Model configuration: what `config.json` (or GGUF metadata) says about a decoder.

mod rope;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use rope::{RopeConfig, RopeScaling};

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
    /// Longest sequence the model was made for, in tokens.
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
    pub dtype: Option<FloatType>,
    /// bitsandbytes settings when the weights are stored in 4 bit.
    pub quantization: Option<BnbConfig>,
    /// Fields that were present but not understood, one sentence each; show them to the user.
    pub warnings: Vec<String>,
}

/// Floating-point types of published weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FloatType {
    /// `float32`.
    Float32,
    /// `bfloat16`.
    Bfloat16,
    /// `float16`.
    Float16,
}

/// The 4-bit part of `quantization_config`, in bitsandbytes' names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BnbConfig {
    /// `nf4` or `fp4`.
    pub bnb_4bit_quant_type: String,
    /// Whether absmax is quantized too.
    pub bnb_4bit_use_double_quant: bool,
    /// Type of the matmul in bitsandbytes.
    pub bnb_4bit_compute_dtype: FloatType,
}
