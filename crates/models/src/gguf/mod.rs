//! GGUF files (versions 2 and 3), llama.cpp's single-file checkpoints: metadata, weights and tokenizer.

mod config;
mod dequant;
mod ggml_type;
mod metadata;
mod names;
mod parse;
mod source;
#[cfg(test)]
mod tests;
mod value;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use nf4::SourceDtype;

use crate::{Architecture, Error, Result, weights::MappedFile};
use parse::Header;

/// The frequency divisors of a scaled rotary embedding; part of the configuration, not a weight.
const ROPE_FREQS: &str = "rope_freqs.weight";

/// An open GGUF file of a supported decoder.
///
/// Weights are found under their Hugging Face names and come in the target data type, whatever they are stored as:
/// block formats are decoded to f32 as ggml does it and rounded once. That is what transformers does when it loads a
/// GGUF file in its `dtype`.
pub struct GgufFile {
    file: MappedFile,
    header: Header,
    architecture: Architecture,
    dtype: SourceDtype,
    /// Query and key-value heads whose rows llama.cpp's converter permuted; `None` where it does not.
    head_height: Option<(usize, usize)>,
    /// Hugging Face name to position in `header.tensors`.
    tensors: BTreeMap<String, usize>,
}

impl GgufFile {
    /// Opens `path`; weights will be read as bf16.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_as(path, SourceDtype::Bf16)
    }

    /// Opens `path`; weights will be read as `dtype`.
    ///
    /// Only the header is read. Fails when the file is damaged, is one part of a split checkpoint, has an unsupported
    /// `general.architecture`, or has a tensor that its architecture does not know.
    pub fn open_as(path: &Path, dtype: SourceDtype) -> Result<Self> {
        let file = MappedFile::open(path)?;
        let header = parse::parse(&file).map_err(|e| Error::format(path, e))?;
        let tensors = index_tensors(path, &header)?;
        let mut gguf = Self {
            file,
            header,
            architecture: Architecture::Llama,
            dtype,
            head_height: None,
            tensors,
        };
        gguf.refuse_split()?;
        gguf.architecture = gguf.read_architecture()?;
        gguf.head_height = gguf.read_head_height()?;
        Ok(gguf)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The decoder family.
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    fn refuse_split(&self) -> Result<()> {
        match self.uint("split.count")? {
            None | Some(0 | 1) => Ok(()),
            Some(count) => {
                let message = format!(
                    "the file is one of {count} parts; join them with `llama-gguf-split --merge`"
                );
                Err(Error::format(self.path(), message))
            }
        }
    }

    /// Mistral is stored as `llama`; its window or its name tells them apart.
    fn read_architecture(&self) -> Result<Architecture> {
        let key = "general.architecture";
        let found = self.required(key, self.string(key)?)?;
        let is_mistral = || -> Result<bool> {
            let named = self
                .string("general.name")?
                .is_some_and(|name| name.to_lowercase().contains("mistral"));
            Ok(named
                || self.uint("llama.attention.sliding_window")?.is_some_and(|window| window > 0))
        };
        match found {
            "llama" if is_mistral()? => Ok(Architecture::Mistral),
            "llama" => Ok(Architecture::Llama),
            "qwen2" => Ok(Architecture::Qwen2),
            "qwen3" => Ok(Architecture::Qwen3),
            other => {
                let message =
                    format!("is `{other}`; supported are llama (with Mistral), qwen2 and qwen3");
                Err(Error::field(self.path(), key, message))
            }
        }
    }

    /// The converter reorders the q and k rows of `llama` for interleaved rotary pairs, and of no other family here.
    fn read_head_height(&self) -> Result<Option<(usize, usize)>> {
        if !matches!(self.architecture, Architecture::Llama | Architecture::Mistral) {
            return Ok(None);
        }
        let Some(heads) = self.uint("llama.attention.head_count")? else { return Ok(None) };
        let key_value_heads = self.uint("llama.attention.head_count_kv")?.unwrap_or(heads);
        Ok(Some((heads, key_value_heads)))
    }
}

/// The GGUF file that `path` stands for: itself when it is a file, or the only `.gguf` file of a directory that is
/// not a Hugging Face checkpoint.
///
/// # Errors
/// [`Error::Io`] when `path` cannot be read, [`Error::Format`] for a directory with several GGUF files.
pub fn find(path: &Path) -> Result<Option<PathBuf>> {
    if fs::metadata(path).map_err(Error::io(path))?.is_file() {
        return Ok(Some(path.to_owned()));
    }
    if path.join("config.json").is_file() || path.join("tokenizer.json").is_file() {
        return Ok(None);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(Error::io(path))? {
        let file = entry.map_err(Error::io(path))?.path();
        if file.extension().is_some_and(|extension| extension == "gguf") {
            found.push(file);
        }
    }
    match found.len() {
        0 => Ok(None),
        1 => Ok(found.pop()),
        count => Err(Error::format(path, format!("has {count} GGUF files; give the path of one"))),
    }
}

fn index_tensors(path: &Path, header: &Header) -> Result<BTreeMap<String, usize>> {
    let mut tensors = BTreeMap::new();
    for (i, tensor) in header.tensors.iter().enumerate() {
        if tensor.name == ROPE_FREQS {
            continue;
        }
        let Some(name) = names::hugging_face_name(&tensor.name) else {
            let message = "not a tensor of a llama, mistral, qwen2 or qwen3 decoder; this model is not supported";
            return Err(Error::tensor(path, tensor.name.clone(), message));
        };
        tensors.insert(name, i);
    }
    Ok(tensors)
}
