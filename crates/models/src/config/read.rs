//! `config.json` to [`ModelConfig`], with the defaults of transformers' configuration classes.

use std::path::Path;

use nf4::SourceDtype;
use serde_json::{Map, Value};

use super::{
    Architecture, MAX_LAYERS, ModelConfig,
    fields::Fields,
    in_range,
    known::{IRRELEVANT, MATHS},
    quantization, rope_fields,
};
use crate::{Error, Result};

/// Mistral's window when `config.json` does not mention it (`MistralConfig`).
const MISTRAL_SLIDING_WINDOW: usize = 4096;
/// The Qwen classes' window and first sliding layer when not mentioned.
const QWEN_SLIDING_WINDOW: usize = 4096;
const QWEN_MAX_WINDOW_LAYERS: usize = 28;

pub(super) fn from_json(text: &str, path: &Path) -> Result<ModelConfig> {
    let map = parse_object(text, path)?;
    let fields = Fields::new(path, "", &map);
    let architecture = architecture(&fields)?;
    refuse_other_maths(&fields)?;
    let mut warnings = Vec::new();
    let config = build(&fields, architecture, &mut warnings)?;
    for (field, value) in fields.rest() {
        if !IRRELEVANT.contains(&field) {
            warnings.push(fields.not_understood(field, value));
        }
    }
    ModelConfig { warnings, ..config }.validated(path)
}

fn parse_object(text: &str, path: &Path) -> Result<Map<String, Value>> {
    serde_json::from_str(text).map_err(|e| Error::format(path, format!("not a JSON object: {e}")))
}

fn architecture(fields: &Fields) -> Result<Architecture> {
    let supported = Architecture::ALL.map(Architecture::model_type).join(", ");
    let name = fields.required("model_type", fields.str("model_type"))?;
    let architecture =
        Architecture::ALL.into_iter().find(|a| a.model_type() == name).ok_or_else(|| {
            fields.error("model_type", format!("is \"{name}\"; supported are {supported}"))
        })?;
    let classes = fields.array("architectures")?.map_or(&[][..], Vec::as_slice);
    let class = architecture.class_name();
    // An empty list is what a configuration that was never attached to a model has.
    if classes.is_empty() || classes.iter().any(|c| c.as_str() == Some(class)) {
        return Ok(architecture);
    }
    let found = Value::from(classes.to_vec());
    Err(fields.error(
        "architectures",
        format!("is {found}; only the language model {class} is supported"),
    ))
}

fn refuse_other_maths(fields: &Fields) -> Result<()> {
    for (field, neutral) in MATHS {
        if let Some(value) = fields.value(field).filter(|v| !neutral.holds(v)) {
            let message =
                format!("is {value}, which is not supported; supported: {}", neutral.describe());
            return Err(fields.error(field, message));
        }
    }
    for field in ["hidden_act", "hidden_activation"] {
        if let Some(act) = fields.str(field)?.filter(|act| !matches!(*act, "silu" | "swish")) {
            return Err(fields.error(field, format!("is \"{act}\"; only \"silu\" is supported")));
        }
    }
    Ok(())
}

fn build(
    fields: &Fields,
    architecture: Architecture,
    warnings: &mut Vec<String>,
) -> Result<ModelConfig> {
    use Architecture::{Llama, Mistral, Qwen2, Qwen3};
    let required = |field| fields.required(field, fields.usize(field));
    let hidden_size = required("hidden_size")?;
    let layers = required("num_hidden_layers")?;
    let num_hidden_layers = in_range(fields.path(), "num_hidden_layers", layers, MAX_LAYERS)?;
    let num_attention_heads = required("num_attention_heads")?;
    let default_kv_heads = match architecture {
        Mistral if !fields.has("num_key_value_heads") => 8,
        Qwen2 | Qwen3 if !fields.has("num_key_value_heads") => 32,
        _ => num_attention_heads,
    };
    let head_dim = match (fields.usize("head_dim")?, architecture) {
        (Some(head_dim), _) => head_dim,
        (None, Qwen3) => 128,
        (None, _) => even_heads(fields, hidden_size, num_attention_heads)?,
    };
    let max_position_embeddings =
        fields.usize("max_position_embeddings")?.unwrap_or(match architecture {
            Llama => 2048,
            Mistral => 131_072,
            Qwen2 | Qwen3 => 32_768,
        });
    let attention_bias =
        matches!(architecture, Llama | Qwen3) && fields.bool("attention_bias")?.unwrap_or(false);
    if let Some(p) = fields.f64("attention_dropout")?.filter(|p| *p != 0.0) {
        let path = fields.path().display();
        warnings.push(format!(
            "{path}: field `attention_dropout` = {p} is not applied: training runs without it"
        ));
    }
    let default_tokens = matches!(architecture, Llama | Mistral);
    Ok(ModelConfig {
        architecture,
        hidden_size,
        intermediate_size: required("intermediate_size")?,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: fields.usize("num_key_value_heads")?.unwrap_or(default_kv_heads),
        head_dim,
        vocab_size: required("vocab_size")?,
        max_position_embeddings,
        rms_norm_eps: fields.f64("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        rope: rope_fields::read(fields, max_position_embeddings, warnings)?,
        tie_word_embeddings: fields.bool("tie_word_embeddings")?.unwrap_or(false),
        qkv_bias: attention_bias || architecture == Qwen2,
        o_bias: attention_bias,
        mlp_bias: architecture == Llama && fields.bool("mlp_bias")?.unwrap_or(false),
        qk_norm: architecture == Qwen3,
        sliding_window: sliding_windows(fields, architecture, num_hidden_layers)?,
        bos_token_id: token_id(fields, "bos_token_id", default_tokens.then_some(1), warnings)?,
        eos_token_ids: token_ids(fields, "eos_token_id", default_tokens.then_some(2), warnings)?,
        pad_token_id: token_id(fields, "pad_token_id", None, warnings)?,
        dtype: dtype(fields)?,
        quantization: quantization::read(fields, warnings)?,
        warnings: Vec::new(),
    })
}

fn even_heads(fields: &Fields, hidden_size: usize, heads: usize) -> Result<usize> {
    if heads == 0 || !hidden_size.is_multiple_of(heads) {
        let message = format!(
            "{heads} does not divide hidden_size = {hidden_size}, and head_dim is not given"
        );
        return Err(fields.error("num_attention_heads", message));
    }
    Ok(hidden_size / heads)
}

/// The window of each layer: Mistral slides everywhere, Qwen where `layer_types` or `max_window_layers` say so.
fn sliding_windows(
    fields: &Fields,
    architecture: Architecture,
    layers: usize,
) -> Result<Vec<Option<usize>>> {
    let window = |default| match fields.usize("sliding_window") {
        Ok(None) if !fields.has("sliding_window") => Ok(Some(default)),
        given => given,
    };
    match architecture {
        Architecture::Llama => Ok(vec![None; layers]),
        Architecture::Mistral => Ok(vec![window(MISTRAL_SLIDING_WINDOW)?; layers]),
        Architecture::Qwen2 | Architecture::Qwen3 => {
            let enabled = fields.bool("use_sliding_window")?.unwrap_or(false);
            let window = window(QWEN_SLIDING_WINDOW)?.filter(|_| enabled);
            let first = fields.usize("max_window_layers")?.unwrap_or(QWEN_MAX_WINDOW_LAYERS);
            match fields.array("layer_types")? {
                Some(types) => types.iter().map(|t| layer_window(fields, t, window)).collect(),
                None => Ok((0..layers).map(|layer| window.filter(|_| layer >= first)).collect()),
            }
        }
    }
}

fn layer_window(
    fields: &Fields,
    layer_type: &Value,
    window: Option<usize>,
) -> Result<Option<usize>> {
    match layer_type.as_str() {
        Some("full_attention") => Ok(None),
        Some("sliding_attention") => Ok(window),
        _ => {
            let message = format!(
                "has {layer_type}; supported are \"full_attention\" and \"sliding_attention\""
            );
            Err(fields.error("layer_types", message))
        }
    }
}

fn dtype(fields: &Fields) -> Result<Option<SourceDtype>> {
    let new = fields.value("dtype");
    let old = fields.value("torch_dtype");
    let (field, value) = if new.is_some() { ("dtype", new) } else { ("torch_dtype", old) };
    value.map(|value| parse_dtype(fields, field, value)).transpose()
}

pub(super) fn parse_dtype(fields: &Fields, field: &str, value: &Value) -> Result<SourceDtype> {
    let name = value.as_str().unwrap_or_default();
    let name = Value::from(name.strip_prefix("torch.").unwrap_or(name));
    serde_json::from_value(name).map_err(|_| {
        fields.error(field, format!("is {value}; supported are float32, bfloat16 and float16"))
    })
}

/// A token id; absent takes `default`, `null` is none. Negative ids, found in early Llama files, are none.
fn token_id(
    fields: &Fields,
    field: &str,
    default: Option<u32>,
    warnings: &mut Vec<String>,
) -> Result<Option<u32>> {
    match fields.value(field) {
        Some(value) => one_token_id(fields, field, value, warnings),
        None => Ok(default.filter(|_| !fields.has(field))),
    }
}

fn token_ids(
    fields: &Fields,
    field: &str,
    default: Option<u32>,
    warnings: &mut Vec<String>,
) -> Result<Vec<u32>> {
    let Some(Value::Array(values)) = fields.value(field) else {
        return Ok(token_id(fields, field, default, warnings)?.into_iter().collect());
    };
    let ids: Result<Vec<_>> =
        values.iter().map(|v| one_token_id(fields, field, v, warnings)).collect();
    Ok(ids?.into_iter().flatten().collect())
}

fn one_token_id(
    fields: &Fields,
    field: &str,
    value: &Value,
    warnings: &mut Vec<String>,
) -> Result<Option<u32>> {
    if let Some(id) = value.as_u64().and_then(|id| u32::try_from(id).ok()) {
        return Ok(Some(id));
    }
    if value.as_i64().is_some_and(|id| id < 0) {
        warnings.push(format!(
            "{}: field `{field}` = {value} is taken as none",
            fields.path().display()
        ));
        return Ok(None);
    }
    Err(fields.error(field, format!("is {value}; expected a token id")))
}

/// Adds the end tokens of `generation_config.json`, and the other special tokens where `config.json` had none.
pub(super) fn extend_special_tokens(
    config: &mut ModelConfig,
    text: &str,
    path: &Path,
) -> Result<()> {
    let map = parse_object(text, path)?;
    let fields = Fields::new(path, "", &map);
    let warnings = &mut config.warnings;
    for id in token_ids(&fields, "eos_token_id", None, warnings)? {
        if !config.eos_token_ids.contains(&id) {
            config.eos_token_ids.push(id);
        }
    }
    let bos = token_id(&fields, "bos_token_id", None, warnings)?;
    config.bos_token_id = config.bos_token_id.or(bos);
    let pad = token_id(&fields, "pad_token_id", None, warnings)?;
    config.pad_token_id = config.pad_token_id.or(pad);
    Ok(())
}
