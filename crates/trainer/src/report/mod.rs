//! `report.html`: a run on one page, with nothing to load and nothing to run, drawn from what it wrote.

mod chart;
mod page;
mod preflight;
mod samples;

use std::path::Path;

use anyhow::{Context, Result};

use crate::metrics::{self, Row};
use crate::sft::{self, Sample};
use preflight::Preflight;

/// File name within the directory of a run.
pub const REPORT: &str = "report.html";

/// Draws the page of the run in `dir` there.
pub fn write(dir: &Path) -> Result<()> {
    let recipe = dir.join("recipe.toml");
    let recipe = std::fs::read_to_string(&recipe).with_context(|| recipe.display().to_string())?;
    let title = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let contents = Contents {
        rows: metrics::read(&dir.join("metrics.jsonl"))?,
        recipe,
        preflight: preflight(&dir.join("preflight.json"))?,
        samples: sft::samples::read(&dir.join("samples.json"))?,
    };
    let page = page::render(&title.display().to_string(), &contents);
    Ok(models::weights::write_bytes(&dir.join(REPORT), page.as_bytes())?)
}

/// What a page shows.
#[derive(Debug, Default)]
struct Contents {
    rows: Vec<Row>,
    recipe: String,
    preflight: Option<Preflight>,
    samples: Vec<Sample>,
}

/// What was found in the data, where that was written.
fn preflight(path: &Path) -> Result<Option<Preflight>> {
    let named = || path.display().to_string();
    match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        text => serde_json::from_slice(&text.with_context(named)?).with_context(named),
    }
}

/// Text as it may stand in HTML, in attributes too.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
