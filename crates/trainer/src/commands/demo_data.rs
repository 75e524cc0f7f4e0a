//! `qlora-train demo-data`: writes the demonstration set.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use data::demo::MAX_ROWS;
use data::rows::Chat;

use crate::UsageError;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory for `train.jsonl` and `held-out.jsonl`.
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// Rows to train on.
    #[arg(long, default_value_t = 600)]
    rows: usize,
    /// Rows that are in no training file.
    #[arg(long, value_name = "M", default_value_t = 50)]
    held_out: usize,
    /// Seed of the generator.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let count = args.rows.saturating_add(args.held_out);
    if args.rows == 0 || count > MAX_ROWS {
        let message = format!(
            "--rows {} and --held-out {}: give at least 1 row and at most {MAX_ROWS} together",
            args.rows, args.held_out
        );
        return Err(UsageError(message).into());
    }
    fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let rows = data::demo::rows(args.seed, count);
    let (train, held_out) = rows.split_at(args.rows);
    write(&args.out.join("train.jsonl"), train)?;
    write(&args.out.join("held-out.jsonl"), held_out)
}

/// Writes the file, or without rows removes it, for an older one may hold rows that are trained on now.
fn write(path: &Path, rows: &[Chat]) -> Result<()> {
    if rows.is_empty() {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| path.display().to_string())
            }
            _ => Ok(()),
        };
    }
    let mut text = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut text, row)?;
        text.push(b'\n');
    }
    models::weights::write_bytes(path, &text)?;
    writeln!(std::io::stdout(), "{}: {} rows", path.display(), rows.len())?;
    Ok(())
}
