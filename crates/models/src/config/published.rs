//! Shapes of published models, by the names people call them: what their `config.json` says.

use std::path::Path;

use serde_json::json;

use super::ModelConfig;
use crate::{Error, Result};

/// What the families have in common, and each model for itself.
struct Published {
    name: &'static str,
    model_type: &'static str,
    class: &'static str,
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    vocab: usize,
    context: usize,
    rope_theta: f64,
    tied: bool,
}

macro_rules! published {
    ($($name:literal $model_type:literal $class:literal $hidden:literal $intermediate:literal $layers:literal
        $heads:literal $kv_heads:literal $head_dim:literal $vocab:literal $context:literal $theta:literal $tied:literal;)*) => {
        &[$(Published {
            name: $name, model_type: $model_type, class: $class, hidden: $hidden, intermediate: $intermediate,
            layers: $layers, heads: $heads, kv_heads: $kv_heads, head_dim: $head_dim, vocab: $vocab,
            context: $context, rope_theta: $theta, tied: $tied,
        }),*]
    };
}

/// Facts from the models' own `config.json` on the Hugging Face hub.
#[rustfmt::skip]
#[expect(clippy::unreadable_literal, reason = "columns of a table")]
const PUBLISHED: &[Published] = published! {
    "llama-2-7b"     "llama"   "LlamaForCausalLM"   4096 11008 32 32 32 128  32000   4096   10000.0 false;
    "llama-2-13b"    "llama"   "LlamaForCausalLM"   5120 13824 40 40 40 128  32000   4096   10000.0 false;
    "llama-3-8b"     "llama"   "LlamaForCausalLM"   4096 14336 32 32  8 128 128256   8192  500000.0 false;
    "llama-3.1-8b"   "llama"   "LlamaForCausalLM"   4096 14336 32 32  8 128 128256 131072  500000.0 false;
    "llama-3.1-70b"  "llama"   "LlamaForCausalLM"   8192 28672 80 64  8 128 128256 131072  500000.0 false;
    "llama-3.2-1b"   "llama"   "LlamaForCausalLM"   2048  8192 16 32  8  64 128256 131072  500000.0 true;
    "llama-3.2-3b"   "llama"   "LlamaForCausalLM"   3072  8192 28 24  8 128 128256 131072  500000.0 true;
    "mistral-7b"     "mistral" "MistralForCausalLM" 4096 14336 32 32  8 128  32768  32768 1000000.0 false;
    "qwen2.5-0.5b"   "qwen2"   "Qwen2ForCausalLM"    896  4864 24 14  2  64 151936  32768 1000000.0 true;
    "qwen2.5-1.5b"   "qwen2"   "Qwen2ForCausalLM"   1536  8960 28 12  2 128 151936  32768 1000000.0 true;
    "qwen2.5-3b"     "qwen2"   "Qwen2ForCausalLM"   2048 11008 36 16  2 128 151936  32768 1000000.0 true;
    "qwen2.5-7b"     "qwen2"   "Qwen2ForCausalLM"   3584 18944 28 28  4 128 152064  32768 1000000.0 false;
    "qwen2.5-14b"    "qwen2"   "Qwen2ForCausalLM"   5120 13824 48 40  8 128 152064  32768 1000000.0 false;
    "qwen2.5-32b"    "qwen2"   "Qwen2ForCausalLM"   5120 27648 64 40  8 128 152064  32768 1000000.0 false;
    "qwen3-0.6b"     "qwen3"   "Qwen3ForCausalLM"   1024  3072 28 16  8 128 151936  40960 1000000.0 true;
    "qwen3-1.7b"     "qwen3"   "Qwen3ForCausalLM"   2048  6144 28 16  8 128 151936  40960 1000000.0 true;
    "qwen3-4b"       "qwen3"   "Qwen3ForCausalLM"   2560  9728 36 32  8 128 151936  40960 1000000.0 true;
    "qwen3-8b"       "qwen3"   "Qwen3ForCausalLM"   4096 12288 36 32  8 128 151936  40960 1000000.0 false;
    "smollm2-135m"   "llama"   "LlamaForCausalLM"    576  1536 30  9  3  64  49152   8192  100000.0 true;
    "smollm2-360m"   "llama"   "LlamaForCausalLM"    960  2560 32 15  5  64  49152   8192  100000.0 true;
    "smollm2-1.7b"   "llama"   "LlamaForCausalLM"   2048  8192 24 32 32  64  49152   8192  130000.0 true;
    "tinyllama-1.1b" "llama"   "LlamaForCausalLM"   2048  5632 22 32  4  64  32000   2048   10000.0 false;
};

impl ModelConfig {
    /// Names that [`published`](Self::published) knows.
    pub fn published_names() -> impl Iterator<Item = &'static str> {
        PUBLISHED.iter().map(|model| model.name)
    }

    /// The shape of a published model: enough to count with, its tokens and rotary scaling left out.
    ///
    /// # Errors
    /// [`Error::Format`] with the known names, when `name` is none of them.
    pub fn published(name: &str) -> Result<Self> {
        let lower = name.to_lowercase();
        let Some(model) = PUBLISHED.iter().find(|model| model.name == lower) else {
            let names: Vec<_> = Self::published_names().collect();
            let message =
                format!("is not the name of a known model; known are {}", names.join(", "));
            return Err(Error::format(Path::new(name), message));
        };
        let fields = json!({
            "model_type": model.model_type,
            "architectures": [model.class],
            "hidden_size": model.hidden,
            "intermediate_size": model.intermediate,
            "num_hidden_layers": model.layers,
            "num_attention_heads": model.heads,
            "num_key_value_heads": model.kv_heads,
            "head_dim": model.head_dim,
            "vocab_size": model.vocab,
            "max_position_embeddings": model.context,
            "rope_theta": model.rope_theta,
            "tie_word_embeddings": model.tied,
            "rms_norm_eps": 1e-5,
            "hidden_act": "silu",
            "torch_dtype": "bfloat16",
        });
        Self::from_json(&fields.to_string(), Path::new(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::ParameterCounts;

    #[test]
    fn models_have_the_parameters_that_they_are_known_for() {
        // As the model cards and papers give them.
        for (name, parameters) in [
            ("llama-2-7b", 6_738_415_616),
            ("llama-2-13b", 13_015_864_320),
            ("llama-3.1-8b", 8_030_261_248),
            ("llama-3.2-1b", 1_235_814_400),
            ("mistral-7b", 7_248_023_552),
            ("qwen2.5-0.5b", 494_032_768),
            ("qwen2.5-7b", 7_615_616_512),
            ("qwen3-0.6b", 596_049_920),
            ("qwen3-8b", 8_190_735_360),
            ("smollm2-135m", 134_515_008),
            ("smollm2-1.7b", 1_711_376_384),
            ("tinyllama-1.1b", 1_100_048_384),
        ] {
            let config = ModelConfig::published(name).unwrap();
            assert_eq!(ParameterCounts::of(&config).total(), parameters, "{name}");
        }
        for name in ModelConfig::published_names() {
            let config = ModelConfig::published(&name.to_uppercase()).unwrap();
            assert!(config.warnings.is_empty(), "{name}: {:?}", config.warnings);
        }
        let error = ModelConfig::published("llama-9").unwrap_err().to_string();
        assert!(error.contains("llama-3.1-8b"), "{error}");
    }
}
