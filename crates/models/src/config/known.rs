//! Fields of `config.json` that need no reader: some change the mathematics and are refused, some never matter.

use serde_json::Value;

/// A value under which a field changes nothing.
#[derive(Clone, Copy)]
pub(super) enum Neutral {
    /// `null`, `false`, 0 or something empty.
    Off,
    /// `null` or 1.
    One,
}

impl Neutral {
    pub(super) fn holds(self, value: &Value) -> bool {
        let number = value.as_f64();
        match (self, value) {
            (_, Value::Null) => true,
            (Self::Off, Value::Bool(on)) => !on,
            (Self::Off, Value::Array(items)) => items.is_empty(),
            (Self::Off, Value::Object(items)) => items.is_empty(),
            (Self::Off, _) => number == Some(0.0),
            (Self::One, _) => number == Some(1.0),
        }
    }

    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Off => "null, false or 0",
            Self::One => "null or 1",
        }
    }
}

/// Fields that ask for mathematics this crate does not have, unless they are neutral.
pub(super) const MATHS: &[(&str, Neutral)] = &[
    ("add_cross_attention", Neutral::Off),
    ("alibi", Neutral::Off),
    ("attention_chunk_size", Neutral::Off),
    ("attention_multiplier", Neutral::One),
    ("attn_logit_softcapping", Neutral::Off),
    ("attn_temperature_tuning", Neutral::Off),
    ("clip_qkv", Neutral::Off),
    ("cross_attention_hidden_size", Neutral::Off),
    ("embedding_multiplier", Neutral::One),
    ("final_logit_softcapping", Neutral::Off),
    ("is_encoder_decoder", Neutral::Off),
    ("logit_scale", Neutral::One),
    ("logits_scaling", Neutral::One),
    ("no_rope_layers", Neutral::Off),
    ("num_experts", Neutral::Off),
    ("num_local_experts", Neutral::Off),
    ("parallel_attn", Neutral::Off),
    ("partial_rotary_factor", Neutral::One),
    ("pretraining_tp", Neutral::One),
    ("pruned_heads", Neutral::Off),
    ("qk_layernorm", Neutral::Off),
    ("query_pre_attn_scalar", Neutral::Off),
    ("residual_multiplier", Neutral::One),
    ("rope_interleaved", Neutral::Off),
    ("rope_local_base_freq", Neutral::Off),
    ("use_bidirectional_attention", Neutral::Off),
    ("use_mrope", Neutral::Off),
    ("use_qk_norm", Neutral::Off),
];

/// Fields that say nothing about the decoder's mathematics: bookkeeping, generation defaults, run-time choices.
pub(super) const IRRELEVANT: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_flash_attn_2_enabled",
    "_from_model_config",
    "_name_or_path",
    "_sliding_window_pattern",
    "attn_implementation",
    "bad_words_ids",
    "begin_suppress_tokens",
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_llama_config",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "prefix",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn neutral_values_are_recognised() {
        for value in [json!(null), json!(false), json!(0), json!(0.0), json!([]), json!({})] {
            assert!(Neutral::Off.holds(&value), "{value}");
        }
        assert!(!Neutral::Off.holds(&json!(30.0)) && !Neutral::Off.holds(&json!("yes")));
        assert!(
            Neutral::One.holds(&json!(1))
                && Neutral::One.holds(&json!(1.0))
                && Neutral::One.holds(&json!(null))
        );
        assert!(!Neutral::One.holds(&json!(2)));
    }
}
