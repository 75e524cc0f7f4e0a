//! What a run needs to go on where it stopped, as directories `step-N` that appear whole or not at all.
//!
//! Each holds the adapter in PEFT's files, the optimizer's moments, the counters of the run, its recipe, and a
//! manifest with the size and SHA-256 of all of these. There is no pointer to the latest one that could name
//! another: it is the one with the highest number. A directory gets its name when its files are durable.

mod digest;
mod identity;
mod manifest;
mod moments;
mod open;
mod state;
mod write;

use std::path::{Path, PathBuf};

pub use digest::content_hash;
pub use identity::{Difference, Identity, differences};
pub use open::{Checkpoint, CheckpointError, latest};
pub use state::RunState;
pub use write::{AdapterFiles, Snapshot, retain};

const ADAPTER: &str = "adapter";
const MOMENTS: &str = "optimizer.safetensors";
const RECIPE: &str = "recipe.toml";
const STATE: &str = "state.json";
const PREFIX: &str = "step-";

/// Where the checkpoint after `step` steps lies in `dir`.
pub fn path_of(dir: &Path, step: usize) -> PathBuf {
    dir.join(format!("{PREFIX}{step:08}"))
}

/// The checkpoints in `dir`, oldest first, with the steps before each; none where there is no `dir`.
///
/// # Errors
/// That of the system, when `dir` cannot be read.
pub fn list(dir: &Path) -> std::io::Result<Vec<(usize, PathBuf)>> {
    let entries = match dir.read_dir() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let step = name.strip_prefix(PREFIX).and_then(|step| step.parse().ok());
        found.extend(step.map(|step| (step, path.clone())));
    }
    found.sort();
    Ok(found)
}
