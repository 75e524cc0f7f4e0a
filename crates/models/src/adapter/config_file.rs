//! `adapter_config.json`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{LoraBias, LoraConfig, TargetModules, config::CAUSAL_LM, targets::last_names};
use crate::{Error, Result, settings};

/// File name within an adapter directory.
pub const CONFIG_FILE: &str = "adapter_config.json";

/// Fields of [`LoraConfig`]; everything else in the file must be known to be harmless.
const UNDERSTOOD: [&str; 12] = [
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "modules_to_save",
    "bias",
    "task_type",
    "init_lora_weights",
];

/// Fields that do not change what a loaded adapter computes, whatever their value.
const IRRELEVANT: [&str; 9] = [
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "inference_mode",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "revision",
];

/// An `adapter_config.json`: the settings, and where the base model came from.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// The settings.
    pub lora: LoraConfig,
    /// `base_model_name_or_path`, if any.
    pub base_model: Option<String>,
}

impl AdapterConfig {
    /// Reads the configuration of the adapter in `dir`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Format`], and [`Error::Field`] for features that are not supported yet.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG_FILE);
        let text = settings::read(&path)?;
        let map: Map<String, Value> = serde_json::from_str(&text)
            .map_err(|e| Error::format(&path, format!("not a JSON object: {e}")))?;
        parse(map, &path)
    }
}

fn parse(map: Map<String, Value>, path: &Path) -> Result<AdapterConfig> {
    let kind = map.get("peft_type").unwrap_or(&Value::Null);
    if kind != "LORA" {
        return Err(Error::field(
            path,
            "peft_type",
            format!("is {kind}; only \"LORA\" is supported"),
        ));
    }
    let base_model = map.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned);
    let mut known = Map::new();
    for (field, value) in map {
        if UNDERSTOOD.contains(&field.as_str()) {
            if !value.is_null() {
                known.insert(field, value);
            }
        } else if !IRRELEVANT.contains(&field.as_str()) && !is_neutral(&value) {
            return Err(Error::field(
                path,
                field,
                format!("is {value}; this PEFT feature is not supported yet"),
            ));
        }
    }
    // An adapter without `target_modules` uses PEFT's defaults for the model type.
    known.entry("target_modules").or_insert_with(|| json!(["q_proj", "v_proj"]));
    // A task name is not needed to load an adapter, and what `false` starts from is replaced by the loaded weights.
    known.entry("task_type").or_insert(CAUSAL_LM.into());
    if known.get("init_lora_weights") == Some(&Value::Bool(false)) {
        known.remove("init_lora_weights");
    }
    let lora: LoraConfig = parse_fields(known, path)?;
    lora.validate().map_err(|e| Error::format(path, e.to_string()))?;
    Ok(AdapterConfig { lora, base_model })
}

/// Field by field, so that an error names the field.
fn parse_fields(known: Map<String, Value>, path: &Path) -> Result<LoraConfig> {
    for (field, value) in &known {
        let alone: Map<String, Value> = [(field.clone(), value.clone())].into_iter().collect();
        if let Err(e) = serde_json::from_value::<LoraConfig>(Value::Object(alone)) {
            return Err(Error::field(path, field, format!("is {value}: {e}")));
        }
    }
    serde_json::from_value(Value::Object(known)).map_err(|e| Error::format(path, e.to_string()))
}

fn is_neutral(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// The file's contents, in the subset of fields that the oldest readers know: they stop at a field they do not, so
/// newer ones appear only when they say something. `modules` are the adapted ones.
pub(super) fn to_json(config: &LoraConfig, base_model: &str, modules: &[String]) -> Value {
    let target_modules = match &config.target_modules {
        // The word is younger than the format; short names say the same.
        TargetModules::Pattern(word) if word.eq_ignore_ascii_case("all-linear") => {
            json!(last_names(modules))
        }
        other => json!(other),
    };
    let mut object = json!({
        "auto_mapping": null,
        "base_model_name_or_path": base_model,
        "bias": LoraBias::None,
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": config.init_lora_weights,
        "layers_pattern": null,
        "layers_to_transform": config.layers_to_transform.as_ref().filter(|_| config.restricts_layers()),
        "lora_alpha": number(config.lora_alpha),
        "lora_dropout": config.lora_dropout,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": config.r,
        "revision": null,
        "target_modules": target_modules,
        "task_type": CAUSAL_LM,
    });
    if config.use_rslora {
        object["use_rslora"] = true.into();
    }
    if !config.rank_pattern.is_empty() {
        object["rank_pattern"] = json!(config.rank_pattern);
    }
    if !config.alpha_pattern.is_empty() {
        let alphas = config.alpha_pattern.iter().map(|(key, alpha)| (key.clone(), number(*alpha)));
        object["alpha_pattern"] = Value::Object(alphas.collect());
    }
    object
}

/// Whole numbers without a fraction: PEFT's alpha is an integer.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e9 { json!(value as i64) } else { json!(value) }
}
