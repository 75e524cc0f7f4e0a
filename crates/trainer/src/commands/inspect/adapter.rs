//! What a PEFT adapter holds.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use models::ModelConfig;
use models::adapter::{AdapterConfig, TargetModules, WEIGHTS_FILE};
use models::weights::Checkpoint;
use safetensors::SafeTensors;

use super::table::{Entry, size, table};
use crate::base::{count_parameters, trainable_line};

pub(super) fn report(dir: &Path, model: Option<&Path>) -> Result<String> {
    let AdapterConfig { lora, base_model } = AdapterConfig::read(dir)?;
    let entries = entries(&dir.join(WEIGHTS_FILE))?;
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

fn entries(path: &Path) -> Result<Vec<Entry>> {
    let shown = || path.display().to_string();
    let bytes = std::fs::read(path).with_context(shown)?;
    let file = SafeTensors::deserialize(&bytes).with_context(shown)?;
    let mut entries: Vec<Entry> = file
        .iter()
        .map(|(name, view)| Entry {
            name: name.to_owned(),
            dtype: format!("{:?}", view.dtype()),
            shape: view.shape().to_vec(),
            bytes: view.data().len() as u64,
        })
        .collect();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}
