//! What a checkpoint holds.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use models::weights::Checkpoint;
use models::{LoraConfig, ModelConfig, TensorSource};

use super::table::{Entry, size, table};
use crate::base::{count_parameters, trainable_line};
use crate::recipe::default_lora;

pub(super) fn report(path: &Path) -> Result<String> {
    let checkpoint = Checkpoint::open(path)?;
    let config = checkpoint.config();
    let entries = entries(checkpoint.source());
    let mut text = describe(config);
    text.push('\n');
    text.push_str(&table(&entries));
    let bytes = entries.iter().map(|entry| entry.bytes).sum();
    let parameters = count_parameters(config);
    writeln!(text, "\n{parameters} parameters in {} tensors, {}", entries.len(), size(bytes))?;
    let lora = default_lora();
    let trainable = trainable(&lora, config)?;
    writeln!(
        text,
        "LoRA of rank {} on all linears:\n{}",
        lora.r,
        trainable_line(trainable, parameters)
    )?;
    for warning in &config.warnings {
        writeln!(text, "warning: {warning}")?;
    }
    Ok(text)
}

fn describe(config: &ModelConfig) -> String {
    let tied = if config.tie_word_embeddings { "tied" } else { "untied" };
    format!(
        "{} model, {} layers\n\
         hidden size {}, MLP {}, {} heads of {} ({} for keys and values)\n\
         vocabulary {} ({tied}), context {} tokens\n",
        config.architecture,
        config.num_hidden_layers,
        config.hidden_size,
        config.intermediate_size,
        config.num_attention_heads,
        config.head_dim,
        config.num_key_value_heads,
        config.vocab_size,
        config.context_limit(),
    )
}

fn entries(source: &dyn TensorSource) -> Vec<Entry> {
    let entry = |name: &str| {
        let info = source.info(name)?;
        let (dtype, shape) = (info.storage.to_string(), info.shape);
        Some(Entry { name: name.to_owned(), dtype, shape, bytes: info.bytes })
    };
    source.names().into_iter().filter_map(entry).collect()
}

/// Elements of an adapter on a model.
pub(super) fn trainable(lora: &LoraConfig, config: &ModelConfig) -> Result<usize> {
    let linears = config.linears();
    let names: Vec<String> = linears.iter().map(|linear| linear.module.clone()).collect();
    let targets = models::adapter::resolve_targets(lora, &names)?;
    let count = |target: &models::adapter::Target| {
        let linear = linears.iter().find(|linear| linear.module == target.module);
        linear.map_or(0, |linear| target.r * (linear.in_features + linear.out_features))
    };
    Ok(targets.iter().map(count).sum())
}
