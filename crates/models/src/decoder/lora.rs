//! The trainable adapter of a decoder.

use std::collections::BTreeMap;
use std::path::Path;

use autograd::{LoraLinear, Param, ParamId, Params};
use kernels::{Backend, HostSlice, MemoryKind, Philox};

use super::projection::all_linears;
use super::{Decoder, Projection};
use crate::adapter::{
    InitLoraWeights, LoraConfig, LoraWeights, check_all_match, read_adapter, resolve_targets,
    write_adapter,
};
use crate::{ModelConfig, Result};

/// Marks the random streams that `lora_A` starts from: dropout masks, whose key may be the same seed, are drawn from
/// streams without this bit.
const INIT_STREAM: u64 = 1 << 63;

/// LoRA weights on a backend, and which linear each belongs to.
#[derive(Debug)]
pub struct Adapter<K: Backend> {
    config: LoraConfig,
    params: Params<K>,
    layers: Vec<[Option<LoraLinear>; Projection::ALL.len()]>,
}

impl<K: Backend> Adapter<K> {
    /// A fresh adapter: `A` random, drawn by counter from `seed`; `B` zero, so the model starts
    /// unchanged.
    ///
    /// # Errors
    /// Those of [`check_all_match`].
    pub fn init(decoder: &Decoder<K>, config: &LoraConfig, seed: u64) -> Result<Self> {
        let names: Vec<String> = module_shapes(decoder.config()).into_keys().collect();
        check_all_match(config, &names)?;
        let dry = decoder.backend().is_dry_run();
        let gaussian = config.init_lora_weights == InitLoraWeights::Named("gaussian".to_owned());
        Self::build(decoder, config, |index, target| {
            let philox = Philox::new(seed, INIT_STREAM | index as u64);
            let (r, k) = (target.r, target.in_features);
            // Drawing them is most of a dry run's time.
            let a: Vec<f32> = if dry {
                vec![0.0; r * k]
            } else if gaussian {
                (0..(r * k) as u64).map(|i| philox.normal(i) / r as f32).collect()
            } else {
                let bound = 1.0 / (k as f32).sqrt();
                (0..(r * k) as u64).map(|i| (2.0 * philox.uniform(i) - 1.0) * bound).collect()
            };
            Ok([a, vec![0.0; target.out_features * r]])
        })
    }

    /// An adapter in PEFT's files. Settings that match nothing are passed over, as PEFT does.
    pub fn load(decoder: &Decoder<K>, dir: &Path) -> Result<Self> {
        let (config, mut weights) = read_adapter(dir, &module_shapes(decoder.config()))?;
        Self::build(decoder, &config, |_, target| {
            let LoraWeights { a, b } = weights.remove(&target.module).expect("one per target");
            Ok([a, b])
        })
    }

    /// Writes PEFT's files, f32. `base_model` is what the base was loaded from.
    pub fn save(&self, decoder: &Decoder<K>, dir: &Path, base_model: &str) -> Result<()> {
        write_adapter(dir, &self.config, base_model, &self.weights(decoder)?)
    }

    /// A copy of the weights on the host, by module.
    pub fn weights(&self, decoder: &Decoder<K>) -> Result<BTreeMap<String, LoraWeights>> {
        let mut weights = BTreeMap::new();
        for (layer, p, lora) in self.loras() {
            let download = |id| decoder.backend().download(&self.params.get(id).value);
            let (a, b) = (download(lora.a)?, download(lora.b)?);
            weights.insert(p.module(layer), LoraWeights { a, b });
        }
        Ok(weights)
    }

    fn build(
        decoder: &Decoder<K>,
        config: &LoraConfig,
        mut values: impl FnMut(usize, &Linear) -> Result<[Vec<f32>; 2]>,
    ) -> Result<Self> {
        let linears: Vec<_> = all_linears(decoder.config()).collect();
        let names: Vec<String> = linears.iter().map(|(layer, p, _)| p.module(*layer)).collect();
        let mut params = Params::default();
        let mut layers = vec![[None; Projection::ALL.len()]; decoder.config().num_hidden_layers];
        for target in resolve_targets(config, &names)? {
            let index = names.iter().position(|name| *name == target.module).expect("a given name");
            let (layer, p, [out_features, in_features]) = linears[index];
            let linear = Linear { module: target.module, r: target.r, in_features, out_features };
            let [a, b] = values(index, &linear)?;
            let mut push = |part, shape: [usize; 2], values: &[f32]| -> Result<ParamId> {
                let value =
                    decoder.backend().upload(HostSlice::F32(values), MemoryKind::Adapters)?;
                let name = format!("{}.{part}.weight", linear.module);
                Ok(params.push(Param { name, shape: shape.to_vec(), value }))
            };
            layers[layer][p as usize] = Some(LoraLinear {
                a: push("lora_A", [linear.r, in_features], &a)?,
                b: push("lora_B", [out_features, linear.r], &b)?,
                r: linear.r,
                scale: target.scaling as f32,
            });
        }
        Ok(Self { config: config.clone(), params, layers })
    }

    /// Settings.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// Trainable tensors.
    pub fn params(&self) -> &Params<K> {
        &self.params
    }

    /// Trainable tensors, to be updated.
    pub fn params_mut(&mut self) -> &mut Params<K> {
        &mut self.params
    }

    pub(super) fn get(&self, layer: usize, p: Projection) -> Option<LoraLinear> {
        self.layers[layer][p as usize]
    }

    fn loras(&self) -> impl Iterator<Item = (usize, Projection, LoraLinear)> {
        self.layers.iter().enumerate().flat_map(|(layer, row)| {
            Projection::ALL.into_iter().filter_map(move |p| Some((layer, p, row[p as usize]?)))
        })
    }
}

/// An adapted linear.
struct Linear {
    module: String,
    r: usize,
    in_features: usize,
    out_features: usize,
}

/// Every linear that an adapter may name, with its `[out_features, in_features]`.
fn module_shapes(config: &ModelConfig) -> BTreeMap<String, [usize; 2]> {
    all_linears(config).map(|(layer, p, shape)| (p.module(layer), shape)).collect()
}

#[cfg(test)]
mod tests {
    use kernels::Cpu;

    use super::*;
    use crate::Checkpoint;
    use crate::decoder::{BaseFormat, LoadOptions};

    #[test]
    fn initial_values_are_not_the_draws_of_dropout_masks() {
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/models/llama");
        let source = Checkpoint::open(Path::new(model)).unwrap();
        let options =
            LoadOptions { format: BaseFormat::Dense, narrow: false, progress: &|_, _| () };
        let decoder = Decoder::load(&Cpu::new(), &source, source.config(), &options).unwrap();
        let adapter = Adapter::init(&decoder, &LoraConfig::default(), 7).unwrap();
        for (index, (layer, p, lora)) in adapter.loras().enumerate() {
            let a = decoder.backend().download(&adapter.params().get(lora.a).value).unwrap();
            let bound = 1.0 / (p.shape(decoder.config())[1] as f32).sqrt();
            assert!(a.iter().all(|x| x.abs() <= bound) && a.iter().any(|x| x.abs() > 0.9 * bound));
            // What the first pass draws for the same linear.
            let mask = Philox::new(7, index as u64);
            let same = (0..).zip(&a).filter(|(i, x)| (2.0 * mask.uniform(*i) - 1.0) * bound == **x);
            assert!(same.count() < a.len() / 8, "layer {layer} {p:?}");
        }
    }
}
