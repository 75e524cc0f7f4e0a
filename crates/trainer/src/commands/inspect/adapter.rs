//! What a PEFT adapter holds.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use models::adapter::{AdapterConfig, TargetModules, stored};
use models::weights::Checkpoint;
use models::{ModelConfig, TensorInfo};

use super::table::{Entry, size, table};
use crate::base::{count_parameters, trainable_line};

pub(super) fn report(dir: &Path, model: Option<&Path>) -> Result<String> {
    let AdapterConfig { lora, base_model } = AdapterConfig::read(dir)?;
    let entries = entries(dir)?;
    let base = base_config(model, base_model.as_deref())?;
    let targets = match &lora.target_modules {
        TargetModules::Pattern(pattern) => pattern.clone(),
        TargetModules::Names(names) => names.join(", "),
    };
    let mut text = String::new();
    writeln!(text, "LoRA adapter for {}", base_model.as_deref().unwrap_or("a model not named"))?;
    let scaling = if lora.use_rslora { ", rank-stabilised" } else { "" };
    writeln!(
        text,
        "r {}, lora_alpha {}{scaling}, lora_dropout {}",
        lora.r, lora.lora_alpha, lora.lora_dropout
    )?;
    writeln!(text, "target modules: {targets}\n")?;
    text.push_str(&table(&entries));
    let bytes = entries.iter().map(|entry| entry.bytes).sum();
    let trainable: usize = entries.iter().map(|entry| entry.shape.iter().product::<usize>()).sum();
    writeln!(text, "\n{} tensors, {}", entries.len(), size(bytes))?;
    match base {
        Some(config) => {
            writeln!(text, "{}", trainable_line(trainable, count_parameters(&config)))?;
        }
        None => {
            writeln!(text, "trainable params: {trainable} (give --model to count all parameters)")?;
        }
    }
    Ok(text)
}

/// The model given, or the one the adapter names if it is on this machine.
fn base_config(given: Option<&Path>, named: Option<&str>) -> Result<Option<ModelConfig>> {
    let path = match (given, named) {
        (Some(path), _) => path,
        (None, Some(name)) if Path::new(name).exists() => Path::new(name),
        _ => return Ok(None),
    };
    Ok(Some(Checkpoint::open(path)?.config().clone()))
}

fn entries(dir: &Path) -> Result<Vec<Entry>> {
    let entry = |(name, TensorInfo { storage, shape, bytes })| Entry {
        name,
        dtype: storage.to_string(),
        shape,
        bytes,
    };
    Ok(stored(dir)?.into_iter().map(entry).collect())
}
