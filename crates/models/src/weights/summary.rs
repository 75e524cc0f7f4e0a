//! Counting parameters.

use std::collections::BTreeMap;

use super::{StorageType, TensorSource};
use crate::{LoraConfig, ModelConfig, Result, adapter::resolve_targets};

/// Parameters of a model by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParameterCounts {
    /// The embedding table.
    pub embeddings: usize,
    /// Weights of the decoder's linear layers.
    pub linears: usize,
    /// Biases of the decoder's linear layers.
    pub biases: usize,
    /// RMS norm weights.
    pub norms: usize,
    /// The output head; 0 when it is the embedding table.
    pub head: usize,
}

impl ParameterCounts {
    /// Counts the parameters that `config` implies.
    pub fn of(config: &ModelConfig) -> Self {
        let mut counts = Self::default();
        for (name, shape) in config.parameters() {
            let kind = match name.as_str() {
                "model.embed_tokens.weight" => &mut counts.embeddings,
                "lm_head.weight" => &mut counts.head,
                name if name.strip_suffix(".bias").is_some() => &mut counts.biases,
                name if name.ends_with("norm.weight") => &mut counts.norms,
                _ => &mut counts.linears,
            };
            *kind += shape.iter().product::<usize>();
        }
        counts
    }

    /// All parameters.
    pub fn total(&self) -> usize {
        self.embeddings + self.linears + self.biases + self.norms + self.head
    }
}

/// What PEFT's `print_trainable_parameters` reports. 4-bit weights count their logical elements, a tied head counts
/// once, and `all` includes the adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainableParameters {
    /// Adapter parameters.
    pub trainable: usize,
    /// Adapter and base model parameters.
    pub all: usize,
}

impl TrainableParameters {
    /// Counts for an adapter on a model.
    ///
    /// # Errors
    /// Those of [`resolve_targets`].
    pub fn of(config: &ModelConfig, lora: &LoraConfig) -> Result<Self> {
        let linears = config.linears();
        let names: Vec<String> = linears.iter().map(|linear| linear.module.clone()).collect();
        let sizes: BTreeMap<&str, usize> =
            linears.iter().map(|l| (l.module.as_str(), l.in_features + l.out_features)).collect();
        let targets = resolve_targets(lora, &names)?;
        let trainable = targets.iter().map(|target| target.r * sizes[target.module.as_str()]).sum();
        Ok(Self { trainable, all: trainable + ParameterCounts::of(config).total() })
    }
}

/// Number of tensors, elements and bytes stored in one type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoredCounts {
    /// Tensors.
    pub tensors: usize,
    /// Logical elements.
    pub elements: usize,
    /// Bytes in the files, quantization state included.
    pub bytes: u64,
}

/// What a checkpoint stores, by type, in order of the type's name.
pub fn stored_counts(source: &dyn TensorSource) -> Vec<(StorageType, StoredCounts)> {
    let mut counts: BTreeMap<String, (StorageType, StoredCounts)> = BTreeMap::new();
    for info in source.names().into_iter().filter_map(|name| source.info(name)) {
        let (_, count) = counts
            .entry(info.storage.to_string())
            .or_insert((info.storage, StoredCounts::default()));
        count.tensors += 1;
        count.elements = count.elements.saturating_add(info.numel());
        count.bytes += info.bytes;
    }
    counts.into_values().collect()
}
