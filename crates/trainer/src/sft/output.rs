//! The directory of a run.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use models::tokenizer::Tokenizer;

use crate::recipe::Recipe;

/// Paths of what a run writes.
#[derive(Debug, Clone)]
pub struct Output {
    dir: PathBuf,
    /// Written beside each adapter, with the chat template that it was trained with.
    tokenizer: Option<Tokenizer>,
}

impl Output {
    /// Names the directory of `recipe`, and refuses one that holds a run already, unless the recipe
    /// says that it may be replaced. Nothing is written yet.
    pub fn check(recipe: &Recipe) -> Result<Self> {
        let output = Self { dir: recipe.output.dir.clone(), tokenizer: None };
        let holds_run = [output.adapter(), output.last_adapter(), output.metrics()]
            .iter()
            .any(|path| path.exists());
        if holds_run && !recipe.output.overwrite {
            bail!(
                "{}: holds a run already; give another --output, or replace it with --set \
                 output.overwrite=true",
                output.dir.display()
            );
        }
        if holds_run
            && let Some(adapter) = &recipe.model.adapter
            && within(adapter, &output.dir)
        {
            bail!(
                "{}: the adapter to go on from lies in the output directory, which would be replaced; \
                 give another --output",
                adapter.display()
            );
        }
        Ok(output)
    }

    /// Lets adapters be written with the tokenizer's files beside them, so that whatever runs them uses the same.
    #[must_use]
    pub fn with_tokenizer(self, tokenizer: Tokenizer) -> Self {
        Self { tokenizer: Some(tokenizer), ..self }
    }

    /// Writes the tokenizer's files into an adapter directory, where they are not there yet.
    pub fn complete(&self, adapter: &Path) -> Result<()> {
        match &self.tokenizer {
            Some(tokenizer) if !adapter.join("tokenizer.json").exists() => {
                Ok(tokenizer.save(adapter)?)
            }
            _ => Ok(()),
        }
    }

    /// Makes the directory and writes the resolved recipe.
    pub fn start(&self, recipe: &Recipe) -> Result<()> {
        fs::create_dir_all(&self.dir).with_context(|| self.dir.display().to_string())?;
        let path = self.dir.join("recipe.toml");
        Ok(models::weights::write_bytes(&path, recipe.to_toml().as_bytes())?)
    }

    /// Removes the adapters of an earlier run: once a step was taken, as a run that does not get so far
    /// should not cost them.
    pub fn remove_adapters(&self) -> Result<()> {
        for adapter in [self.adapter(), self.last_adapter()] {
            match fs::remove_dir_all(&adapter) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| adapter.display().to_string());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The adapter to use: the best by evaluation loss, or the last one where there is no evaluation.
    pub fn adapter(&self) -> PathBuf {
        self.dir.join("adapter")
    }

    /// The adapter as of the latest checkpoint.
    pub fn last_adapter(&self) -> PathBuf {
        self.dir.join("adapter-last")
    }

    /// `trace.json`, the spans of a profiled run.
    pub fn trace(&self) -> PathBuf {
        self.dir.join("trace.json")
    }

    /// `metrics.jsonl`.
    pub fn metrics(&self) -> PathBuf {
        self.dir.join("metrics.jsonl")
    }
}

/// Whether `path` lies in `dir`, links followed.
fn within(path: &Path, dir: &Path) -> bool {
    let real = |path: &Path| path.canonicalize();
    matches!((real(path), real(dir)), (Ok(path), Ok(dir)) if path.starts_with(&dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_run_is_replaced_only_when_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let mut recipe = Recipe::default();
        recipe.output.dir = dir.path().join("run");
        let output = Output::check(&recipe).unwrap();
        output.start(&recipe).unwrap();
        Output::check(&recipe).expect("a recipe alone is no run");
        fs::create_dir(output.adapter()).unwrap();
        let error = Output::check(&recipe).unwrap_err().to_string();
        assert!(error.contains("output.overwrite"), "{error}");
        recipe.output.overwrite = true;
        recipe.model.adapter = Some(output.adapter());
        let error = Output::check(&recipe).unwrap_err().to_string();
        assert!(error.contains("go on from"), "{error}");
        recipe.model.adapter = None;
        let output = Output::check(&recipe).unwrap();
        output.start(&recipe).unwrap();
        assert!(output.adapter().exists(), "no step was taken");
        output.remove_adapters().unwrap();
        assert!(!output.adapter().exists());
    }
}
