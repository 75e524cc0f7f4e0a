//! `report.html`: a run on one page, with nothing to load and nothing to run, drawn from `metrics.jsonl`.

mod chart;
mod page;

use std::path::Path;

use anyhow::{Context, Result};

use crate::metrics;

/// File name within the directory of a run.
pub const REPORT: &str = "report.html";

/// Draws the page of the run in `dir` there.
pub fn write(dir: &Path) -> Result<()> {
    let rows = metrics::read(&dir.join("metrics.jsonl"))?;
    let recipe = dir.join("recipe.toml");
    let recipe = std::fs::read_to_string(&recipe).with_context(|| recipe.display().to_string())?;
    let title = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let page = page::render(&title.display().to_string(), &rows, &recipe);
    Ok(models::weights::write_bytes(&dir.join(REPORT), page.as_bytes())?)
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
