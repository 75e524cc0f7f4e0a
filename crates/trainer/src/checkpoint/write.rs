//! Writing checkpoints, and removing those that are no longer needed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use autograd::MomentsState;
use models::LoraConfig;
use models::adapter::{LoraWeights, write_adapter};
use models::weights::{AtomicDir, write_bytes};

use super::manifest::{MANIFEST, Manifest};
use super::{ADAPTER, MOMENTS, RECIPE, RunState, STATE, list, moments, path_of};

/// An adapter on the host.
#[derive(Debug)]
pub struct AdapterFiles {
    /// Settings.
    pub config: LoraConfig,
    /// What the base was loaded from.
    pub base_model: String,
    /// Factors by module.
    pub weights: BTreeMap<String, LoraWeights>,
}

impl AdapterFiles {
    /// Writes PEFT's files; a directory already there is replaced in one step.
    pub fn write(&self, dir: &Path) -> Result<()> {
        Ok(write_adapter(dir, &self.config, &self.base_model, &self.weights)?)
    }

    /// The first module with a value that is not finite.
    pub fn not_finite(&self) -> Option<&str> {
        let bad = |w: &LoraWeights| w.a.iter().chain(&w.b).any(|x| !x.is_finite());
        self.weights.iter().find(|(_, weights)| bad(weights)).map(|(module, _)| module.as_str())
    }
}

/// Everything that a checkpoint holds, on the host.
#[derive(Debug)]
pub struct Snapshot {
    /// The adapter.
    pub adapter: Arc<AdapterFiles>,
    /// The optimizer's moments, by parameter.
    pub moments: Vec<(String, MomentsState)>,
    /// Where the run stands.
    pub state: RunState,
    /// The resolved recipe, in TOML.
    pub recipe: Arc<str>,
}

impl Snapshot {
    /// Writes the checkpoint into `dir`, where it appears complete or not at all; says how many bytes it has.
    pub fn write(&self, dir: &Path) -> Result<u64> {
        let target = AtomicDir::create(&path_of(dir, self.state.step))?;
        self.adapter.write(&target.path().join(ADAPTER))?;
        moments::write(&target.path().join(MOMENTS), &self.moments)?;
        write_bytes(&target.path().join(RECIPE), self.recipe.as_bytes())?;
        let state = serde_json::to_vec_pretty(&self.state)?;
        write_bytes(&target.path().join(STATE), &state)?;
        let manifest = Manifest::of(target.path())?;
        write_bytes(&target.path().join(MANIFEST), &serde_json::to_vec_pretty(&manifest)?)?;
        target.commit()?;
        Ok(manifest.bytes())
    }
}

/// Removes checkpoints of `dir` after one of `step` steps was stored: all but the `keep` newest up to it and the one
/// of `best` steps. Those of more steps belong to a course that the run has left, or are damaged.
pub fn retain(dir: &Path, step: usize, keep: usize, best: Option<usize>) -> Result<()> {
    let all = list(dir).with_context(|| dir.display().to_string())?;
    let past = all.iter().filter(|(at, _)| *at <= step).count();
    for (i, (at, path)) in all.iter().enumerate() {
        let newest = *at <= step && i + keep >= past;
        if newest || *at <= step && Some(*at) == best {
            continue;
        }
        // A directory that is half removed must not look like a checkpoint.
        let manifest = path.join(MANIFEST);
        match std::fs::remove_file(&manifest) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| manifest.display().to_string());
            }
            _ => {}
        }
        std::fs::remove_dir_all(path).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_newest_and_the_best_stay() {
        let dir = tempfile::tempdir().unwrap();
        let names = || list(dir.path()).unwrap().into_iter().map(|(at, _)| at).collect::<Vec<_>>();
        let make = |steps: &[usize]| {
            for step in steps {
                fs::create_dir_all(path_of(dir.path(), *step)).unwrap();
            }
        };
        fs::create_dir(dir.path().join("notes")).unwrap();
        make(&[10, 20, 30, 40]);
        retain(dir.path(), 40, 2, Some(10)).unwrap();
        assert_eq!(names(), [10, 30, 40]);
        // Back to 30, then on to 35: what came after belongs to the course left.
        make(&[35]);
        retain(dir.path(), 35, 2, Some(10)).unwrap();
        assert_eq!(names(), [10, 30, 35]);
        retain(dir.path(), 35, 2, None).unwrap();
        assert_eq!(names(), [30, 35]);
        retain(dir.path(), 35, 1, Some(50)).unwrap();
        assert_eq!(names(), [35]);
        assert!(dir.path().join("notes").exists());
    }
}
