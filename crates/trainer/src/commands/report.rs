//! `qlora-train report`: a run on one page.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::report;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of a run, which may still be going on.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    report::write(&args.dir)?;
    let path = args.dir.join(report::REPORT);
    writeln!(std::io::stdout(), "{}", path.display()).context("standard output")
}
