//! The manifest: which files a checkpoint has, and what is in them.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::digest::file_digest;
use super::open::CheckpointError;
use super::{ADAPTER, MOMENTS, RECIPE, STATE};

/// File name within a checkpoint.
pub(super) const MANIFEST: &str = "manifest.json";

/// Layout of a checkpoint; a change that older programs would misread counts it up.
const VERSION: u32 = 1;

const FORMAT: &str = "qlora-train checkpoint";

/// A manifest names hundreds of bytes; one of this size is none.
const MOST_BYTES: u64 = 1 << 20;

/// The files of a checkpoint. Names come from here alone, never from a manifest.
pub(super) fn files() -> [String; 5] {
    let adapter = |name| format!("{ADAPTER}/{name}");
    [
        adapter(models::adapter::CONFIG_FILE),
        adapter(models::adapter::WEIGHTS_FILE),
        MOMENTS.to_owned(),
        RECIPE.to_owned(),
        STATE.to_owned(),
    ]
}

/// `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    format: String,
    version: u32,
    /// The program that wrote it.
    program: String,
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    bytes: u64,
    sha256: String,
}

/// What tells a manifest of another version, whatever else that has.
#[derive(Deserialize)]
struct Version {
    version: u32,
    program: String,
}

impl Manifest {
    /// Of the files in `dir`.
    pub(super) fn of(dir: &Path) -> anyhow::Result<Self> {
        let mut entries = BTreeMap::new();
        for name in files() {
            let path = dir.join(&name);
            let (bytes, sha256) = file_digest(&path)
                .map_err(|error| anyhow::Error::new(error).context(path.display().to_string()))?;
            entries.insert(name, Entry { bytes, sha256 });
        }
        Ok(Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            program: format!("qlora-train {}", env!("CARGO_PKG_VERSION")),
            files: entries,
        })
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.files.values().map(|entry| entry.bytes).sum()
    }

    /// Checks the files of `dir` against the manifest there.
    pub(super) fn verify(dir: &Path) -> Result<(), CheckpointError> {
        let damaged =
            |name: &str, what: String| CheckpointError::Damaged { path: dir.join(name), what };
        let path = dir.join(MANIFEST);
        let length = file_length(&path).map_err(|e| damaged(MANIFEST, e.to_string()))?;
        if length > MOST_BYTES {
            return Err(damaged(MANIFEST, format!("{length} bytes are too many for a manifest")));
        }
        let text = std::fs::read(&path).map_err(|e| damaged(MANIFEST, e.to_string()))?;
        let not = |e: serde_json::Error| damaged(MANIFEST, format!("not a manifest: {e}"));
        let Version { version, program } = serde_json::from_slice(&text).map_err(not)?;
        if version != VERSION {
            return Err(CheckpointError::Version { path: dir.to_owned(), version, program });
        }
        let this: Self = serde_json::from_slice(&text).map_err(not)?;
        let expected = files();
        if let Some(other) = this.files.keys().find(|name| !expected.contains(name)) {
            return Err(damaged(MANIFEST, format!("`{other}` is no file of a checkpoint")));
        }
        for name in &expected {
            let Some(entry) = this.files.get(name) else {
                return Err(damaged(MANIFEST, format!("does not know {name}")));
            };
            let path = dir.join(name);
            let bytes = file_length(&path).map_err(|e| damaged(name, e.to_string()))?;
            if bytes != entry.bytes {
                let what = format!("has {bytes} bytes, {} were written", entry.bytes);
                return Err(damaged(name, what));
            }
            let (_, sha256) = file_digest(&path).map_err(|e| damaged(name, e.to_string()))?;
            if sha256 != entry.sha256 {
                return Err(damaged(name, "is not what was written (its checksum differs)".into()));
            }
        }
        Ok(())
    }
}

/// Bytes of a file. What else a name may lead to, like a device, may have no end.
fn file_length(path: &Path) -> io::Result<u64> {
    let metadata = std::fs::metadata(path)?;
    if metadata.is_file() { Ok(metadata.len()) } else { Err(io::Error::other("is not a file")) }
}
