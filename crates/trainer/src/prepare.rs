//! The data of a run: read, split, encoded, and looked through before the first step.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Result, bail};
use data::preflight::{Check, Finding, Report};
use data::rows::{Format, Source};
use data::{Cache, CacheNote, Dataset, EncodeOptions, HeldOut, Loaded, Reading, Stats};

use crate::base::Base;
use crate::cache;
use crate::progress::{say, warn};
use crate::recipe::{DataSection, Recipe};

/// Rows to learn and rows to judge by.
#[derive(Debug)]
pub struct Prepared {
    /// Rows to learn.
    pub train: Dataset,
    /// Rows to judge by.
    pub eval: Option<Dataset>,
    /// The format of the first row.
    pub format: Format,
    /// What was found in both.
    pub report: Report,
}

/// Reads and encodes the data of `recipe` for its model. What is wrong with it is in the report; see
/// [`Prepared::refuse`].
pub fn prepare(recipe: &Recipe, base: &Base) -> Result<Prepared> {
    let section = &recipe.data;
    let options = EncodeOptions {
        prompt_format: section.prompt_format,
        train_on: section.train_on,
        max_seq_len: section.max_seq_len,
        context: base.config().context_limit(),
        overlength: section.overlength,
        packing: section.packing,
    };
    let cache = section.cache.then(cache::dir).flatten().map(|dir| Cache::new(dir.join("tokens")));
    let read = |sources: &[Source], held_out| {
        let reading = Reading { held_out, cache: cache.as_ref(), ..Reading::new(sources, options) };
        let loaded = base.encoder().read(&reading)?;
        for note in &loaded.cache {
            let tell = if matches!(note, CacheNote::Reused { .. }) { say } else { warn };
            tell(&note.to_string());
        }
        anyhow::Ok(loaded)
    };
    let held_out = section.held_out();
    let Loaded { train, mut eval, .. } =
        read(&section.all_sources(), held_out.map(|held_out| (held_out, recipe.train.seed)))?;
    if let Some(path) = &section.eval_path {
        eval = Some(read(&[section.source(path)], None)?.train);
    } else if let (Some(HeldOut::Fraction(fraction)), None) = (held_out, &eval)
        && train.read() > 0
    {
        warn(&format!(
            "none of {} rows falls into data.eval_fraction = {fraction}: there will be no evaluation",
            train.read()
        ));
    }
    let report = Report::new(base.encoder(), &train, eval.as_ref());
    Ok(Prepared { format: train.format, train, eval, report })
}

impl Prepared {
    /// Says what the data is and what may be wrong with it; an error where something is that is not waived.
    pub fn refuse(mut self, section: &DataSection) -> Result<Self> {
        let eval_path = section.eval_path.as_deref().unwrap_or(section.name());
        for finding in &self.report.findings {
            if !finding.fatal || section.waive.contains(&finding.check) {
                warn(&line(finding));
            }
        }
        let fatal: Vec<&Finding> = unwaived(&self.report, &section.waive).collect();
        if !fatal.is_empty() {
            let lines: Vec<String> = fatal.iter().map(|finding| line(finding)).collect();
            let names: Vec<String> =
                fatal.iter().map(|finding| format!("\"{}\"", finding.check)).collect();
            bail!(
                "{}. `qlora-train data check` tells more; to train all the same, set data.waive = [{}]",
                lines.join("; "),
                names.join(", ")
            );
        }
        // All that is left of bad rows is waived, so an empty side is the only reason left to stop.
        if self.train.is_empty() {
            self.train = self.train.strict()?;
            bail!("{}: no row is left to learn", section.name().display());
        }
        if self.eval.as_ref().is_some_and(Dataset::is_empty) {
            bail!("{}: no row is left to evaluate on", eval_path.display());
        }
        say(&describe("training", section.name(), &self.train));
        if let Some(eval) = &self.eval {
            say(&describe("evaluation", eval_path, eval));
        }
        Ok(self)
    }
}

/// Findings that stop a run.
pub fn unwaived<'a>(report: &'a Report, waived: &'a [Check]) -> impl Iterator<Item = &'a Finding> {
    report.findings.iter().filter(|finding| finding.fatal && !waived.contains(&finding.check))
}

/// A finding on one line, with its first place.
fn line(finding: &Finding) -> String {
    let Finding { check, message, places, .. } = finding;
    match places.first() {
        Some(place) => format!("{check}: {message} (first: {place})"),
        None => format!("{check}: {message}"),
    }
}

fn describe(what: &str, path: &Path, dataset: &Dataset) -> String {
    let Stats { rows, tokens, trained_tokens, longest } = dataset.stats();
    let mut text = format!(
        "{what} data {}: {rows} rows, {tokens} tokens ({trained_tokens} trained), longest row {longest}",
        path.display()
    );
    if let Some((bins, capacity)) = dataset.bins() {
        let full = 100.0 * tokens as f64 / (bins * capacity) as f64;
        write!(text, ", packed into {bins} bins of {capacity} tokens, {full:.1} % full")
            .expect("strings take everything");
    }
    for (rows, what) in [(dataset.dropped(), "dropped"), (dataset.truncated(), "truncated")] {
        if rows > 0 {
            write!(text, ", {rows} too long and {what}").expect("strings take everything");
        }
    }
    text
}
