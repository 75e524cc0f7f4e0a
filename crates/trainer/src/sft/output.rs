//! The directory of a run.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use models::tokenizer::Tokenizer;

use crate::progress::warn;
use crate::recipe::Recipe;

/// Names that begin so are those of files and directories that are not complete yet.
const TEMPORARY: &str = ".tmp-";

/// The directory of one run, which no other process writes to.
#[derive(Debug)]
pub struct Output {
    dir: PathBuf,
    /// Written beside each adapter, with the chat template that it was trained with.
    tokenizer: Option<Tokenizer>,
    /// Held as long as this is; the system frees it however the process ends. `None` until there is a directory.
    lock: Option<File>,
}

impl Output {
    /// Names the directory of `recipe`, and refuses one that another process writes to, and, unless the recipe
    /// says that it may be replaced, one that holds a run already. Nothing is written yet.
    pub fn check(recipe: &Recipe) -> Result<Self> {
        let output = Self::open(recipe)?;
        let holds_run = any_exists(&[output.adapter(), output.last_adapter(), output.metrics()])?;
        if holds_run && !recipe.output.overwrite {
            bail!(
                "{}: holds a run already; go on with it (--resume), give another --output, or replace it with --set \
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

    /// What is written beside each adapter.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// The directory of `recipe` to go on in. Refuses one that another process writes to, and one that holds a
    /// run without checkpoints to go on from, which starting again would replace.
    pub fn resume(recipe: &Recipe) -> Result<Self> {
        let output = Self::open(recipe)?;
        let held = any_exists(&[output.adapter(), output.last_adapter()])?;
        if held && !recipe.output.overwrite && !any_exists(&[output.checkpoints()])? {
            bail!(
                "{}: holds a run without checkpoints, which cannot go on; give another --output, or replace it \
                 with --set output.overwrite=true",
                output.dir.display()
            );
        }
        Ok(output)
    }

    fn open(recipe: &Recipe) -> Result<Self> {
        let mut output = Self { dir: recipe.output.dir.clone(), tokenizer: None, lock: None };
        if any_exists(std::slice::from_ref(&output.dir))? {
            output.lock()?;
            output.refuse_links()?;
        }
        Ok(output)
    }

    /// Takes the lock of the directory.
    fn lock(&mut self) -> Result<()> {
        let path = self.dir.join(".lock");
        refuse_link(&path)?;
        let named = || path.display().to_string();
        let file = File::options().create(true).append(true).open(&path).with_context(named)?;
        match file.try_lock() {
            Ok(()) => self.lock = Some(file),
            Err(TryLockError::WouldBlock) => bail!(
                "{}: another process trains into this directory; wait for it, or give another --output",
                self.dir.display()
            ),
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {
                warn(&format!(
                    "{}: this file system has no locks; see that no other process trains into it",
                    self.dir.display()
                ));
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(named),
        }
        Ok(())
    }

    /// A link among the names that are written to would lead what is written elsewhere.
    fn refuse_links(&self) -> Result<()> {
        [
            self.adapter(),
            self.last_adapter(),
            self.checkpoints(),
            self.metrics(),
            self.tensorboard(),
        ]
        .iter()
        .try_for_each(|path| refuse_link(path))
    }

    /// Makes the directory, takes away what a killed process left half written there, and writes the resolved
    /// recipe.
    pub fn start(&mut self, recipe: &Recipe) -> Result<()> {
        fs::create_dir_all(&self.dir).with_context(|| self.dir.display().to_string())?;
        if self.lock.is_none() {
            self.lock()?;
        }
        for dir in [&self.dir, &self.checkpoints()] {
            sweep(dir).with_context(|| dir.display().to_string())?;
        }
        let path = self.dir.join("recipe.toml");
        Ok(models::weights::write_bytes(&path, recipe.to_toml().as_bytes())?)
    }

    /// Removes adapters and checkpoints of an earlier run: once a step was taken, as a run that does not get so
    /// far should not cost them.
    pub fn remove_earlier(&self) -> Result<()> {
        for path in [self.adapter(), self.last_adapter(), self.checkpoints()] {
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| path.display().to_string());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes the samples of an earlier run.
    pub fn remove_samples(&self) -> Result<()> {
        let path = self.samples();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| path.display().to_string())
            }
            _ => Ok(()),
        }
    }

    /// Makes the directory of checkpoints before anything else of the run is stored: an adapter beside it may be
    /// that of a run which was killed before its first checkpoint, and can begin again.
    pub fn promise_checkpoints(&self) -> Result<()> {
        let path = self.checkpoints();
        fs::create_dir_all(&path).with_context(|| path.display().to_string())
    }

    /// The adapter to use: the best by evaluation loss, or the last one where there is no evaluation.
    pub fn adapter(&self) -> PathBuf {
        self.dir.join("adapter")
    }

    /// The adapter as it was stored last.
    pub fn last_adapter(&self) -> PathBuf {
        self.dir.join("adapter-last")
    }

    /// What the run can go on from.
    pub fn checkpoints(&self) -> PathBuf {
        self.dir.join("checkpoints")
    }

    /// `trace.json`, the spans of a profiled run.
    pub fn trace(&self) -> PathBuf {
        self.dir.join("trace.json")
    }

    /// `samples.json`, answers before and after.
    pub fn samples(&self) -> PathBuf {
        self.dir.join("samples.json")
    }

    /// `preflight.json`, what was found in the data.
    pub fn preflight(&self) -> PathBuf {
        self.dir.join("preflight.json")
    }

    /// Directory of TensorBoard's event files.
    pub fn tensorboard(&self) -> PathBuf {
        self.dir.join("tensorboard")
    }

    /// `metrics.jsonl`.
    pub fn metrics(&self) -> PathBuf {
        self.dir.join("metrics.jsonl")
    }
}

/// Whether one of `paths` is there. Not to be able to tell is an error: what is there would be replaced.
fn any_exists(paths: &[PathBuf]) -> Result<bool> {
    for path in paths {
        if path.try_exists().with_context(|| path.display().to_string())? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes what was never completed. Files that others put into an adapter's directory may be in between two places
/// when a process is killed, so that a file of theirs without a name elsewhere stays.
fn sweep(dir: &Path) -> io::Result<()> {
    let entries = match dir.read_dir() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if !is_temporary(&entry.file_name()) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            remove_ours(&entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn is_temporary(name: &std::ffi::OsStr) -> bool {
    name.to_string_lossy().starts_with(TEMPORARY)
}

fn remove_ours(dir: &Path) -> io::Result<()> {
    const OURS: [&str; 5] = [".json", ".jinja", ".safetensors", "recipe.toml", "adapter"];
    for entry in dir.read_dir()? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let ours = name.starts_with(TEMPORARY) || OURS.iter().any(|ours| name.ends_with(ours));
        if !ours && !has_another_name(&entry.metadata()?) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            remove_ours(&entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != ErrorKind::DirectoryNotEmpty => Err(error),
        _ => Ok(()),
    }
}

/// Whether removing a file leaves it elsewhere, as that of an adapter which took the place of another does.
fn has_another_name(file: &fs::Metadata) -> bool {
    #[cfg(unix)]
    return file.is_file() && std::os::unix::fs::MetadataExt::nlink(file) > 1;
    #[cfg(not(unix))]
    return false;
}

fn refuse_link(path: &Path) -> Result<()> {
    let is_link = path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
    anyhow::ensure!(
        !is_link,
        "{}: is a link; a run writes to no place but its own directory",
        path.display()
    );
    Ok(())
}

/// Whether `path` lies in `dir`, links followed.
fn within(path: &Path, dir: &Path) -> bool {
    let real = |path: &Path| path.canonicalize();
    matches!((real(path), real(dir)), (Ok(path), Ok(dir)) if path.starts_with(&dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(dir: &Path) -> Recipe {
        let mut recipe = Recipe::default();
        recipe.output.dir = dir.join("run");
        recipe
    }

    #[test]
    fn an_earlier_run_is_replaced_only_when_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let mut recipe = recipe(dir.path());
        let mut output = Output::check(&recipe).unwrap();
        output.start(&recipe).unwrap();
        drop(output);
        let output = Output::check(&recipe).expect("a recipe alone is no run");
        fs::create_dir(output.adapter()).unwrap();
        let adapter = output.adapter();
        drop(output);
        let error = Output::check(&recipe).unwrap_err().to_string();
        assert!(error.contains("output.overwrite"), "{error}");
        recipe.output.overwrite = true;
        recipe.model.adapter = Some(adapter);
        let error = Output::check(&recipe).unwrap_err().to_string();
        assert!(error.contains("go on from"), "{error}");
        recipe.model.adapter = None;
        let mut output = Output::check(&recipe).unwrap();
        output.start(&recipe).unwrap();
        assert!(output.adapter().exists(), "no step was taken");
        output.remove_earlier().unwrap();
        assert!(!output.adapter().exists());
    }

    #[test]
    fn a_directory_belongs_to_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let recipe = recipe(dir.path());
        let mut output = Output::check(&recipe).unwrap();
        let mut second = Output::check(&recipe).unwrap();
        assert!(!recipe.output.dir.exists(), "nothing is written by a check");
        output.start(&recipe).unwrap();
        for error in [second.start(&recipe).unwrap_err(), Output::resume(&recipe).unwrap_err()] {
            assert!(error.to_string().contains("another process"), "{error}");
        }
        drop(output);
        second.start(&recipe).expect("a lock that nobody holds");
    }

    #[test]
    fn what_was_half_written_goes_and_what_others_wrote_stays() {
        let dir = tempfile::tempdir().unwrap();
        let recipe = recipe(dir.path());
        let run = &recipe.output.dir;
        for half in [".tmp-a", "checkpoints/.tmp-b/adapter", "checkpoints/step-00000002"] {
            fs::create_dir_all(run.join(half)).unwrap();
        }
        for file in [
            ".tmp-a/adapter_config.json",
            ".tmp-a/notes.txt",
            "checkpoints/.tmp-b/adapter/.tmp-c",
            "checkpoints/.tmp-b/optimizer.safetensors",
            ".tmp-d",
            "notes.txt",
        ] {
            fs::write(run.join(file), "x").unwrap();
        }
        // As a run leaves it that is killed when it replaces an adapter.
        fs::create_dir(run.join(".tmp-e")).unwrap();
        fs::write(run.join(".tmp-e/chat_template.jinja"), "x").unwrap();
        fs::hard_link(run.join("notes.txt"), run.join(".tmp-e/notes.txt")).unwrap();
        Output::check(&recipe).unwrap().start(&recipe).unwrap();
        for (path, stays) in [
            (".tmp-a/adapter_config.json", false),
            (".tmp-a/notes.txt", true),
            ("checkpoints/.tmp-b", false),
            ("checkpoints/step-00000002", true),
            (".tmp-d", false),
            (".tmp-e", false),
            ("notes.txt", true),
        ] {
            assert_eq!(run.join(path).exists(), stays, "{path}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_are_refused() {
        for name in ["adapter", "checkpoints", "metrics.jsonl", ".lock"] {
            let dir = tempfile::tempdir().unwrap();
            let recipe = recipe(dir.path());
            fs::create_dir(&recipe.output.dir).unwrap();
            let (link, target) = (recipe.output.dir.join(name), dir.path().join("target"));
            std::os::unix::fs::symlink(&target, link).unwrap();
            let error = Output::check(&recipe).unwrap_err().to_string();
            assert!(error.contains("is a link") && error.contains(name), "{error}");
            assert!(!target.exists());
        }
    }
}
