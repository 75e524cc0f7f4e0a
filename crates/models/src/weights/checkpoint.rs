//! A Hugging Face checkpoint directory: one safetensors file, or shards with an index.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

use half::{bf16, f16};
use serde::Deserialize;

use super::{
    HostData, HostTensor, StorageType, TensorInfo, TensorSource, bnb,
    names::missing_tensor,
    safetensors::{RawTensor, SafetensorsFile},
};
use crate::{Error, Result, settings};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The tensors of a checkpoint directory. Files are mapped, not read: opening costs the headers only.
pub struct SafetensorsCheckpoint {
    dir: PathBuf,
    shards: Vec<SafetensorsFile>,
    /// Stored tensor name to shard.
    stored: BTreeMap<String, usize>,
    /// Names of 4-bit weights; the tensors of their state are hidden.
    quantized: BTreeMap<String, TensorInfo>,
    names: Vec<String>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl SafetensorsCheckpoint {
    /// Opens the weights of a checkpoint directory.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] when a file is missing, cut off or damaged, [`Error::Tensor`] when the
    /// index and the shards disagree.
    pub fn open(dir: &Path) -> Result<Self> {
        let (shards, index) = if dir.join(SINGLE).is_file() {
            (vec![SafetensorsFile::open(&dir.join(SINGLE))?], None)
        } else if dir.join(INDEX).is_file() {
            let index = read_index(&dir.join(INDEX))?;
            (open_shards(dir, &index)?, Some(index))
        } else {
            return Err(no_weights(dir));
        };
        let stored = locate(&shards)?;
        if let Some(index) = index {
            check_index(dir, &index, &shards, &stored)?;
        }
        Self::group(dir, shards, stored)
    }

    /// Tells 4-bit weights, and hides their state tensors.
    fn group(
        dir: &Path,
        shards: Vec<SafetensorsFile>,
        stored: BTreeMap<String, usize>,
    ) -> Result<Self> {
        let mut this = Self {
            dir: dir.to_owned(),
            shards,
            stored,
            quantized: BTreeMap::new(),
            names: Vec::new(),
        };
        for key in this.stored.keys() {
            if let Some(weight) = bnb::quantized_weight(key) {
                let get = |key: &str| this.raw(key);
                this.quantized.insert(weight.to_owned(), bnb::info(dir, weight, key, get)?);
            }
        }
        let hidden = |key: &&String| {
            bnb::state_owner(key).is_some_and(|weight| this.quantized.contains_key(weight))
        };
        this.names = this.stored.keys().filter(|key| !hidden(key)).cloned().collect();
        Ok(this)
    }

    fn raw(&self, name: &str) -> Option<RawTensor<'_>> {
        self.shards[*self.stored.get(name)?].get(name)
    }

    fn dense(&self, name: &str, raw: RawTensor<'_>) -> Result<StorageType> {
        match raw.storage() {
            StorageType::Other(_) => {
                let message = format!(
                    "has type {:?}; weights are F32, BF16, F16 or bitsandbytes 4-bit",
                    raw.dtype
                );
                Err(Error::tensor(&self.dir, name, message))
            }
            float => Ok(float),
        }
    }
}

impl TensorSource for SafetensorsCheckpoint {
    fn path(&self) -> &Path {
        &self.dir
    }

    fn file(&self, name: &str) -> &Path {
        self.stored.get(name).map_or(&self.dir, |&shard| self.shards[shard].path())
    }

    fn names(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        if let Some(info) = self.quantized.get(name) {
            return Some(info.clone());
        }
        Some(self.raw(name)?.info())
    }

    fn read(&self, name: &str) -> Result<HostTensor<'_>> {
        if self.quantized.contains_key(name) {
            let tensor = bnb::read(&self.dir, name, |key| self.raw(key))?;
            return Ok(HostTensor {
                shape: tensor.shape().to_vec(),
                data: HostData::Quantized(tensor),
            });
        }
        let raw = self.raw(name).ok_or_else(|| missing_tensor(self, name))?;
        let data = match self.dense(name, raw)? {
            StorageType::F32 => HostData::F32(elements::<f32>(raw.bytes)),
            StorageType::Bf16 => HostData::Bf16(elements::<bf16>(raw.bytes)),
            _ => HostData::F16(elements::<f16>(raw.bytes)),
        };
        Ok(HostTensor { shape: raw.shape.to_vec(), data })
    }

    fn release(&self, name: &str) {
        // The state of a 4-bit weight lies under names of its own, and is small.
        if let Some(&shard) = self.stored.get(name) {
            self.shards[shard].release(name);
        }
    }

    fn release_all(&self) {
        self.shards.iter().for_each(SafetensorsFile::release_all);
    }
}

/// Borrows the elements where the file aligns them, copies them otherwise.
pub(crate) fn elements<T: bytemuck::Pod>(bytes: &[u8]) -> std::borrow::Cow<'_, [T]> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(elements) => elements.into(),
        Err(_) => bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect(),
    }
}

fn read_index(path: &Path) -> Result<Index> {
    let text = settings::read(path)?;
    serde_json::from_str(&text).map_err(|e| Error::format(path, format!("not a shard index: {e}")))
}

fn open_shards(dir: &Path, index: &Index) -> Result<Vec<SafetensorsFile>> {
    let files: std::collections::BTreeSet<&String> = index.weight_map.values().collect();
    files
        .into_iter()
        .map(|file| {
            if !is_file_name(file) {
                let message = format!("shard `{file}` is not a file name of this directory");
                return Err(Error::format(&dir.join(INDEX), message));
            }
            let path = dir.join(file);
            if path.is_file() {
                return SafetensorsFile::open(&path);
            }
            let message =
                format!("shard {file} is named here but is not in the directory; download it");
            Err(Error::format(&dir.join(INDEX), message))
        })
        .collect()
}

fn locate(shards: &[SafetensorsFile]) -> Result<BTreeMap<String, usize>> {
    let mut stored = BTreeMap::new();
    for (i, shard) in shards.iter().enumerate() {
        for name in shard.names() {
            if let Some(first) = stored.insert(name.clone(), i) {
                let other = shards[first].path().display();
                return Err(Error::tensor(shard.path(), name, format!("is also in {other}")));
            }
        }
    }
    Ok(stored)
}

/// A downloaded index must not lead out of its directory.
fn is_file_name(file: &str) -> bool {
    let mut parts = Path::new(file).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
}

/// Each tensor must be in the shard that the index names.
fn check_index(
    dir: &Path,
    index: &Index,
    shards: &[SafetensorsFile],
    stored: &BTreeMap<String, usize>,
) -> Result<()> {
    for (name, file) in &index.weight_map {
        let found = stored.get(name).map(|shard| shards[*shard].path());
        if found == Some(&dir.join(file)) {
            continue;
        }
        let found = found.map_or("nowhere".to_owned(), |path| path.display().to_string());
        let message = format!("the index says it is in {file}, but it is in {found}");
        return Err(Error::tensor(&dir.join(INDEX), name, message));
    }
    Ok(())
}

fn no_weights(dir: &Path) -> Error {
    let old = dir.join("pytorch_model.bin").is_file()
        || dir.join("pytorch_model.bin.index.json").is_file();
    let hint =
        if old { "; pytorch_model.bin is not read, save the model as safetensors" } else { "" };
    Error::format(dir, format!("neither {SINGLE} nor {INDEX} is here{hint}"))
}
