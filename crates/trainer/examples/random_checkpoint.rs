//! Writes a checkpoint of random weights in the shape of a published model: to try how a size of model runs
//! without downloading one.
//!
//!     cargo run --release -p trainer --example random_checkpoint -- mistral-7b TOKENIZER_DIR TARGET [SEED] [VOCAB]
//!
//! Shards of bf16 like those on the hub. Values are near normal, with the deviations that models are begun with: 0.02,
//! and less by the root of twice the layers where a layer adds to the residual stream (Radford et al. 2019). They
//! depend on the model and the seed alone. The tokenizer is that of `TOKENIZER_DIR`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use half::bf16;
use kernels::Philox;
use models::weights::{TensorInfo, TensorSource, write_checkpoint};
use models::{HostData, HostTensor, ModelConfig, StorageType};
use rayon::prelude::*;

/// Elements that a thread draws at a time.
const CHUNK: usize = 1 << 16;
/// Four uniform numbers of 16 bits have this deviation, in units of their last bit: 65536 / sqrt(12) * 2.
const DEVIATION: f32 = 37_837.23;

struct Random {
    tokenizer: PathBuf,
    shapes: BTreeMap<String, Vec<usize>>,
    layers: usize,
    seed: u64,
}

impl Random {
    fn values(&self, name: &str, shape: &[usize]) -> Vec<bf16> {
        let stream = self.shapes.keys().position(|other| other == name).unwrap_or(0);
        let philox = Philox::new(self.seed, stream as u64);
        let adds = name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
        let scale = 0.02 / if adds { (2.0 * self.layers as f32).sqrt() } else { 1.0 } / DEVIATION;
        let mut values = vec![bf16::ZERO; shape.iter().product()];
        values.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
            for (i, pair) in values.chunks_mut(2).enumerate() {
                // Eight numbers of 16 bits: the sum of four is near normal.
                let words = philox.block((chunk * CHUNK / 2 + i) as u64);
                for (value, words) in pair.iter_mut().zip(words.chunks(2)) {
                    let halves = words.iter().flat_map(|word| [word & 0xffff, word >> 16]);
                    let sum = halves.sum::<u32>() as f32 - 2.0 * 65_535.0;
                    *value = bf16::from_f32(sum * scale);
                }
            }
        });
        values
    }
}

impl TensorSource for Random {
    fn path(&self) -> &Path {
        &self.tokenizer
    }

    fn names(&self) -> Vec<&str> {
        self.shapes.keys().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        let shape = self.shapes.get(name)?.clone();
        let bytes = 2 * shape.iter().product::<usize>() as u64;
        Some(TensorInfo { storage: StorageType::Bf16, shape, bytes })
    }

    fn read(&self, name: &str) -> models::Result<HostTensor<'_>> {
        let shape = self.shapes[name].clone();
        let values = match shape.as_slice() {
            // Norms begin at 1, biases at 0.
            [len] => vec![bf16::from_f32(f32::from(!name.ends_with("bias"))); *len],
            _ => self.values(name, &shape),
        };
        Ok(HostTensor { shape, data: HostData::Bf16(values.into()) })
    }
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (model, tokenizer, target, rest) = match args.as_slice() {
        [model, tokenizer, target, rest @ ..] if rest.len() <= 2 => {
            (model, tokenizer, target, rest)
        }
        _ => bail!("usage: random_checkpoint MODEL TOKENIZER_DIR TARGET [SEED] [VOCAB]"),
    };
    let seed = rest.first().map_or(Ok(1), |seed| seed.parse()).context("the seed")?;
    let mut config = ModelConfig::published(model)?;
    if let Some(vocab) = rest.get(1) {
        config.vocab_size = vocab.parse().context("the size of the vocabulary")?;
    }
    let random = Random {
        tokenizer: PathBuf::from(tokenizer),
        shapes: config.parameters().into_iter().collect(),
        layers: config.num_hidden_layers,
        seed,
    };
    write_checkpoint(&random, &config, Path::new(target))?;
    Ok(())
}
