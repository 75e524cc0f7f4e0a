//! Opening a model of any supported format.

use std::path::Path;

use super::{HostTensor, SafetensorsCheckpoint, TensorInfo, TensorSource, check_complete};
use crate::{
    Error, ModelConfig, Result,
    gguf::{self, GgufFile},
};

/// A model on disk: its configuration and its weights, in any supported format.
pub struct Checkpoint {
    config: ModelConfig,
    source: Box<dyn TensorSource>,
}

impl Checkpoint {
    /// Opens a Hugging Face directory, or a GGUF file (or a directory whose only model is one), and checks that all
    /// parameters are there in their right shapes. Reads headers only; show [`ModelConfig::warnings`] of
    /// [`config`](Self::config) to the user.
    ///
    /// # Errors
    /// Any [`Error`] of the configuration and the weight files; see [`check_complete`].
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_file() && path.extension().is_some_and(|e| e == "safetensors" || e == "json") {
            let message = "one file of a checkpoint; give the directory that holds config.json";
            return Err(Error::format(path, message));
        }
        if let Some(file) = gguf::find(path)? {
            let source = GgufFile::open(&file)?;
            return Self::new(source.config()?, Box::new(source));
        }
        let config = ModelConfig::from_dir(path)?;
        Self::new(config, Box::new(SafetensorsCheckpoint::open(path)?))
    }

    fn new(config: ModelConfig, source: Box<dyn TensorSource>) -> Result<Self> {
        check_complete(source.as_ref(), &config)?;
        Ok(Self { config, source })
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The weights, without the configuration.
    pub fn source(&self) -> &dyn TensorSource {
        self.source.as_ref()
    }
}

impl TensorSource for Checkpoint {
    fn path(&self) -> &Path {
        self.source.path()
    }

    fn file(&self, name: &str) -> &Path {
        self.source.file(name)
    }

    fn names(&self) -> Vec<&str> {
        self.source.names()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.source.info(name)
    }

    fn read(&self, name: &str) -> Result<HostTensor<'_>> {
        self.source.read(name)
    }

    fn release(&self, name: &str) {
        self.source.release(name);
    }

    fn release_all(&self) {
        self.source.release_all();
    }
}
