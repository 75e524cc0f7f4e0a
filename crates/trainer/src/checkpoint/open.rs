//! Reading a checkpoint that may be damaged.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use autograd::{AdamWState, Params};
use kernels::Backend;

use super::manifest::Manifest;
use super::{ADAPTER, MOMENTS, RECIPE, RunState, STATE, list, moments};
use crate::progress::warn;
use crate::recipe::Recipe;

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file is missing or not what was written.
    #[error("{path}: {what}", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Written in a layout that this program does not know.
    #[error(
        "{path}: written by {program} in version {version} of the format, which this program does not read",
        path = .path.display()
    )]
    Version {
        /// The checkpoint.
        path: PathBuf,
        /// Its version.
        version: u32,
        /// What wrote it.
        program: String,
    },
}

/// A checkpoint whose files are what was written.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    /// Where the run stood.
    pub state: RunState,
    /// Its recipe, as resolved.
    pub recipe: Recipe,
}

impl Checkpoint {
    /// Opens a checkpoint and checks every byte of it.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        Manifest::verify(dir)?;
        let damaged =
            |name: &str, what: String| CheckpointError::Damaged { path: dir.join(name), what };
        let text = std::fs::read(dir.join(STATE)).map_err(|e| damaged(STATE, e.to_string()))?;
        let state: RunState =
            serde_json::from_slice(&text).map_err(|e| damaged(STATE, e.to_string()))?;
        state.check().map_err(|what| damaged(STATE, what))?;
        let recipe =
            Recipe::read(&dir.join(RECIPE), &[]).map_err(|e| damaged(RECIPE, e.to_string()))?;
        Ok(Self { dir: dir.to_owned(), state, recipe })
    }

    /// The checkpoint's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The adapter, in PEFT's files.
    pub fn adapter(&self) -> PathBuf {
        self.dir.join(ADAPTER)
    }

    /// The optimizer over `params`.
    pub fn optimizer<K: Backend>(&self, params: &Params<K>) -> Result<AdamWState> {
        let names = params.iter().map(|param| param.name.as_str());
        let moments = moments::read(&self.dir.join(MOMENTS), names)?;
        Ok(AdamWState { step: self.state.updates, moments })
    }
}

/// The newest checkpoint in `dir` that is whole; `None` where there is none at all. Says which were passed over.
pub fn latest(dir: &Path) -> Result<Option<Checkpoint>> {
    let all = list(dir).with_context(|| dir.display().to_string())?;
    for (_, path) in all.iter().rev() {
        match Checkpoint::open(path) {
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            Err(error @ CheckpointError::Damaged { .. }) => {
                warn(&format!("damaged checkpoint: {error}; using the one before"));
            }
            Err(error) => return Err(error.into()),
        }
    }
    if let Some((_, path)) = all.last() {
        bail!(
            "{}: every checkpoint is damaged, up to {}; start again with --set output.overwrite=true",
            dir.display(),
            path.display()
        );
    }
    Ok(None)
}
