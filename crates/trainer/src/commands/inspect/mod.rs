//! `qlora-train inspect`: says what a model, an adapter or a data file holds.

mod adapter;
mod model;
mod rows;
mod table;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// First bytes of a GGUF file.
const GGUF_MAGIC: &[u8] = b"GGUF";

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Checkpoint directory, GGUF file, PEFT adapter directory, or data file (JSON lines).
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// The model that an adapter or data file is for: counts all its parameters, or tokens.
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let (path, model) = (args.path.as_path(), args.model.as_deref());
    let report = match kind(path)? {
        Kind::Adapter => adapter::report(path, model)?,
        Kind::Model => model::report(path)?,
        Kind::Rows => rows::report(path, model)?,
    };
    std::io::stdout().write_all(report.as_bytes())?;
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Adapter,
    Model,
    Rows,
}

fn kind(path: &Path) -> Result<Kind> {
    let shown = || path.display().to_string();
    if path.metadata().with_context(shown)?.is_dir() {
        return if path.join(models::adapter::CONFIG_FILE).is_file() {
            Ok(Kind::Adapter)
        } else if path.join("config.json").is_file() || models::gguf::find(path)?.is_some() {
            Ok(Kind::Model)
        } else {
            bail!("{}: neither config.json nor {} is here", shown(), models::adapter::CONFIG_FILE)
        };
    }
    let mut start = Vec::new();
    let file = std::fs::File::open(path).with_context(shown)?;
    file.take(GGUF_MAGIC.len() as u64).read_to_end(&mut start).with_context(shown)?;
    if start == GGUF_MAGIC {
        return Ok(Kind::Model);
    }
    if path.extension().is_some_and(|extension| extension == "safetensors") {
        bail!("{}: give the directory that holds this file", shown());
    }
    Ok(Kind::Rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_content() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        assert_eq!(kind(&put("a", "GGUF....")).unwrap(), Kind::Model);
        assert_eq!(kind(&put("b", "{}")).unwrap(), Kind::Rows);
        assert!(kind(&put("c.safetensors", "")).is_err());
        assert!(kind(dir.path()).is_err());
        put("config.json", "{}");
        assert_eq!(kind(dir.path()).unwrap(), Kind::Model);
        put("adapter_config.json", "{}");
        assert_eq!(kind(dir.path()).unwrap(), Kind::Adapter);
    }
}
