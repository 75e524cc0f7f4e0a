//! Writing a checkpoint directory, with bitsandbytes 4-bit weights or as it is.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::Path,
};

use nf4::{QuantConfig, QuantizedTensor, SourceDtype, state};
use serde_json::{Value, json};

use super::{
    HostData, HostTensor, StoredTensor, TensorSource, atomic::AtomicDir, write::dense,
    write_safetensors,
};
use crate::{Error, ModelConfig, Result, Tokenizer, config::BnbConfig, gguf::GgufFile};

/// Shards are held in memory until written, so this bounds what quantizing a model of any size needs
/// (memory-mapped parts do not count).
const MAX_SHARD_BYTES: usize = 1 << 30;

/// Files beside the weights that a quantized copy needs unchanged.
const COPIED: [&str; 11] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
];

/// Writes `target`, a directory that transformers loads through bitsandbytes: the linear layers of the decoder
/// in 4 bit, everything else (embeddings, head, norms, biases) as it is in `source`. Tokenizer files are copied from
/// `source` where it is a directory, and rebuilt from its vocabulary where it is a GGUF file that has one. Memory stays
/// below one shard of 1 GiB plus one layer.
///
/// # Errors
/// [`Error::Format`] when `target` exists and is not empty, [`Error::Tensor`] when a weight is already quantized,
/// [`Error::Quantization`] for a weight with NaN or infinite elements, those of [`Tokenizer::from_gguf`]; nothing is
/// left behind then.
pub fn write_quantized(
    source: &dyn TensorSource,
    config: &ModelConfig,
    quantization: &QuantConfig,
    target: &Path,
) -> Result<()> {
    write_shards(source, config, Some(quantization), target, MAX_SHARD_BYTES)
}

/// Writes `target`, a directory with every tensor of `source` as it is; otherwise as [`write_quantized`].
///
/// # Errors
/// Those of [`write_quantized`], for a source of 4-bit weights too.
pub fn write_checkpoint(
    source: &dyn TensorSource,
    config: &ModelConfig,
    target: &Path,
) -> Result<()> {
    write_shards(source, config, None, target, MAX_SHARD_BYTES)
}

fn write_shards(
    source: &dyn TensorSource,
    config: &ModelConfig,
    quantization: Option<&QuantConfig>,
    target: &Path,
    max_shard_bytes: usize,
) -> Result<()> {
    if fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::format(target, "the output directory is not empty; choose another"));
    }
    let dir = AtomicDir::create(target)?;
    write_tokenizer(source.path(), dir.path())?;
    let written_config = ModelConfig {
        quantization: quantization.map(|quantization| BnbConfig {
            bnb_4bit_quant_type: quantization.quant_type,
            bnb_4bit_use_double_quant: quantization.double_quant,
            bnb_4bit_compute_dtype: config.dtype.unwrap_or(SourceDtype::F32),
        }),
        ..config.clone()
    };
    let path = dir.path().join("config.json");
    write_json(&path, &written_config.to_json(&path)?)?;
    Writer { source, linears: linear_weights(config), quantization }.write(
        config,
        dir.path(),
        max_shard_bytes,
    )?;
    dir.commit()
}

fn linear_weights(config: &ModelConfig) -> HashSet<String> {
    config.linears().into_iter().map(|linear| format!("{}.weight", linear.module)).collect()
}

struct Writer<'a> {
    source: &'a dyn TensorSource,
    linears: HashSet<String>,
    quantization: Option<&'a QuantConfig>,
}

impl<'a> Writer<'a> {
    fn write(&self, config: &ModelConfig, dir: &Path, max_shard_bytes: usize) -> Result<()> {
        let mut shards =
            Shards { dir, max_bytes: max_shard_bytes, pending: Vec::new(), written: Vec::new() };
        for (name, shape) in config.parameters() {
            let tensor = self.source.read_shaped(&name, &shape)?;
            shards.push(self.convert(name, tensor)?)?;
        }
        shards.finish()
    }

    /// The stored tensors of one parameter: one, or the packed weight and its state.
    fn convert(
        &self,
        name: String,
        tensor: HostTensor<'a>,
    ) -> Result<Vec<(String, StoredTensor<'a>)>> {
        let path = self.source.path();
        let Some(config) = self.quantization.filter(|_| self.linears.contains(&name)) else {
            let message = "is already quantized; start from a 16-bit or 32-bit checkpoint";
            let stored = dense(tensor).ok_or_else(|| Error::tensor(path, &name, message))?;
            return Ok(vec![(name, stored)]);
        };
        let module = name.strip_suffix(".weight").unwrap_or(&name);
        let quantized = self.quantize(&name, &tensor, config)?;
        drop(tensor);
        self.source.release(&name);
        let tensors = state::to_tensors(&quantized, module);
        // The quantized tensor goes out of scope, so its parts are copied.
        Ok(tensors
            .into_iter()
            .map(|(key, tensor)| (key, StoredTensor::from(tensor).into_owned()))
            .collect())
    }

    fn quantize(
        &self,
        name: &str,
        tensor: &HostTensor<'_>,
        config: &QuantConfig,
    ) -> Result<QuantizedTensor> {
        let path = self.source.path();
        let shape = &tensor.shape;
        match &tensor.data {
            HostData::F32(data) => nf4::quantize(name, data, shape, config),
            HostData::Bf16(data) => nf4::quantize(name, data, shape, config),
            HostData::F16(data) => nf4::quantize(name, data, shape, config),
            HostData::Quantized(_) => {
                let message = "is already quantized; start from a 16-bit or 32-bit checkpoint";
                return Err(Error::tensor(path, name, message));
            }
        }
        .map_err(Error::quantization(path))
    }
}

/// Collects tensors into files of limited size.
struct Shards<'d, 't> {
    dir: &'d Path,
    max_bytes: usize,
    pending: Vec<(String, StoredTensor<'t>)>,
    /// Names and total bytes of each shard on disk.
    written: Vec<(Vec<String>, usize)>,
}

impl<'t> Shards<'_, 't> {
    /// Adds tensors that belong in one file.
    fn push(&mut self, tensors: Vec<(String, StoredTensor<'t>)>) -> Result<()> {
        if !self.pending.is_empty() && bytes(&self.pending) + bytes(&tensors) > self.max_bytes {
            self.flush()?;
        }
        self.pending.extend(tensors);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let tensors = std::mem::take(&mut self.pending);
        let size = bytes(&tensors);
        let names = tensors.iter().map(|(name, _)| name.clone()).collect();
        write_safetensors(&self.dir.join(partial_name(self.written.len())), tensors)?;
        self.written.push((names, size));
        Ok(())
    }

    /// Gives the files their final names, which hold the number of shards, and writes the index.
    fn finish(mut self) -> Result<()> {
        self.flush()?;
        let count = self.written.len();
        let mut weight_map = BTreeMap::new();
        for (i, (names, _)) in self.written.iter().enumerate() {
            let file = match count {
                1 => "model.safetensors".to_owned(),
                _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
            };
            let to = self.dir.join(&file);
            fs::rename(self.dir.join(partial_name(i)), &to).map_err(Error::io(&to))?;
            weight_map.extend(names.iter().map(|name| (name.clone(), Value::from(file.clone()))));
        }
        if count == 1 {
            return Ok(());
        }
        let total: usize = self.written.iter().map(|(_, size)| size).sum();
        let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
        write_json(&self.dir.join("model.safetensors.index.json"), &index)
    }
}

fn partial_name(shard: usize) -> String {
    format!("shard-{shard}.safetensors")
}

fn bytes(tensors: &[(String, StoredTensor<'_>)]) -> usize {
    tensors.iter().map(|(_, tensor)| tensor.bytes.len()).sum()
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    fs::write(path, format!("{value:#}\n")).map_err(Error::io(path))
}

fn write_tokenizer(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        return copy_tokenizer(from, to);
    }
    let file = GgufFile::open(from)?;
    if file.has_vocabulary() { Tokenizer::from_gguf(&file)?.save(to) } else { Ok(()) }
}

fn copy_tokenizer(from: &Path, to: &Path) -> Result<()> {
    for name in COPIED {
        let file = from.join(name);
        if file.is_file() {
            fs::copy(&file, to.join(name)).map_err(Error::io(&file))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::weights::{Checkpoint, StorageType};

    fn llama() -> (PathBuf, Checkpoint) {
        let path = PathBuf::from(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/fixtures/models/llama"
        ));
        let checkpoint = Checkpoint::open(&path).unwrap();
        (path, checkpoint)
    }

    #[test]
    fn shards_hold_the_same_tensors_as_one_file() {
        let (_, source) = llama();
        let root = tempfile::tempdir().unwrap();
        let (one, many) = (root.path().join("one"), root.path().join("many"));
        let config = QuantConfig::default();
        write_shards(&source, source.config(), Some(&config), &one, usize::MAX).unwrap();
        write_shards(&source, source.config(), Some(&config), &many, 40_000).unwrap();
        assert!(
            many.join("model.safetensors.index.json").is_file()
                && !many.join("model.safetensors").exists()
        );
        let (one, many) = (Checkpoint::open(&one).unwrap(), Checkpoint::open(&many).unwrap());
        assert_eq!(one.names(), many.names());
        for name in one.names() {
            assert_eq!(
                one.read(name).unwrap().to_f32(),
                many.read(name).unwrap().to_f32(),
                "{name}"
            );
        }
        assert_eq!(
            one.info("model.layers.0.mlp.up_proj.weight").unwrap().storage,
            StorageType::Nf4
        );
        assert_eq!(one.info("lm_head.weight").unwrap().storage, StorageType::F32);
        let warnings = &one.config().warnings;
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn quantizing_twice_or_into_a_full_directory_is_refused() {
        let (path, source) = llama();
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("q");
        let config = QuantConfig::default();
        let error = write_quantized(&source, source.config(), &config, &path).unwrap_err();
        assert!(error.to_string().contains("not empty"), "{error}");
        write_quantized(&source, source.config(), &config, &target).unwrap();
        let source = Checkpoint::open(&target).unwrap();
        let error = write_quantized(&source, source.config(), &config, &root.path().join("qq"))
            .unwrap_err();
        assert!(error.to_string().contains("already quantized"), "{error}");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "nothing is left behind");
    }
}
