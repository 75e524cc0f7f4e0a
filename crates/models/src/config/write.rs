//! [`ModelConfig`] to `config.json`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Architecture, ModelConfig, quantization};
use crate::{Error, Result};

/// The release whose layout is written; releases 4 and 5 both read it.
const LAYOUT_VERSION: &str = "4.51.0";

impl ModelConfig {
    /// The object of a `config.json` in the transformers 4 layout; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Field`] when the layout has no words for a setting: rotary frequency factors, or a bias
    /// or window pattern the architecture cannot have.
    pub fn to_json(&self, path: &Path) -> Result<Value> {
        let mut map = self.common(path)?;
        match self.architecture {
            Architecture::Llama => {
                map.insert("attention_bias".into(), self.qkv_bias.into());
                map.insert("mlp_bias".into(), self.mlp_bias.into());
            }
            Architecture::Mistral => {
                map.insert(
                    "sliding_window".into(),
                    self.sliding_window.first().copied().flatten().into(),
                );
            }
            Architecture::Qwen2 => self.insert_layer_types(&mut map),
            Architecture::Qwen3 => {
                map.insert("attention_bias".into(), self.qkv_bias.into());
                self.insert_layer_types(&mut map);
            }
        }
        if let Some(quantization) = self.quantization {
            map.insert("quantization_config".into(), quantization::write(quantization));
        }
        let json = Value::Object(map);
        self.check_round_trip(&json, path)?;
        Ok(json)
    }

    fn common(&self, path: &Path) -> Result<Map<String, Value>> {
        let rope_scaling = match serde_json::to_value(&self.rope.scaling) {
            Ok(value) if value == json!({"rope_type": "default"}) => Value::Null,
            Ok(value) => value,
            Err(_) => {
                let message = "explicit frequency factors cannot be written to config.json";
                return Err(Error::field(path, "rope_scaling", message));
            }
        };
        let object = json!({
            "architectures": [self.architecture.class_name()],
            "model_type": self.architecture.model_type(),
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_position_embeddings,
            // Through the shortest decimal, so that 1e-5 is not written as 9.999999747378752e-6.
            "rms_norm_eps": self.rms_norm_eps.to_string().parse::<f64>().unwrap_or(f64::from(self.rms_norm_eps)),
            "rope_theta": self.rope.theta,
            "rope_scaling": rope_scaling,
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_dropout": 0.0,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": match self.eos_token_ids.as_slice() {
                [] => Value::Null,
                [one] => json!(one),
                many => json!(many),
            },
            "pad_token_id": self.pad_token_id,
            "torch_dtype": self.dtype,
            "transformers_version": LAYOUT_VERSION,
            "use_cache": true,
        });
        let Value::Object(map) = object else { unreachable!("json! of braces is an object") };
        Ok(map)
    }

    fn insert_layer_types(&self, map: &mut Map<String, Value>) {
        let window = self.sliding_window.iter().copied().flatten().next();
        let first =
            self.sliding_window.iter().position(Option::is_some).unwrap_or(self.num_hidden_layers);
        let names = self.sliding_window.iter().map(|w| match w {
            Some(_) => "sliding_attention",
            None => "full_attention",
        });
        map.insert("use_sliding_window".into(), window.is_some().into());
        map.insert("sliding_window".into(), window.into());
        map.insert("max_window_layers".into(), first.into());
        map.insert("layer_types".into(), names.collect());
    }

    /// What was written must say what `self` says, or a setting would be lost without a word.
    fn check_round_trip(&self, json: &Value, path: &Path) -> Result<()> {
        let back = Self::from_json(&json.to_string(), path)?;
        for (field, same) in [
            ("attention_bias", (back.qkv_bias, back.o_bias) == (self.qkv_bias, self.o_bias)),
            ("mlp_bias", back.mlp_bias == self.mlp_bias),
            ("qk_norm", back.qk_norm == self.qk_norm),
            ("sliding_window", back.sliding_window == self.sliding_window),
            ("rope_scaling", back.rope == self.rope),
        ] {
            if !same {
                let message =
                    format!("this setting cannot be written for a {} model", self.architecture);
                return Err(Error::field(path, field, message));
            }
        }
        Ok(())
    }
}
