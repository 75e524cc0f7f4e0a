//! What can be known about a run's data before its first step.
//!
//! Most fine-tunes that fail do so here: an end that is never learned, a second begin token, answers that are masked
//! or cut off, rows to judge by that are learned. [`Report::new`] looks for all of it in the encoded rows, which are
//! what is trained on, whatever made them.

mod checks;
mod histogram;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::dataset::{Dataset, Stats};
use crate::encode::Encoder;
use crate::rows::Place;

pub use histogram::Histogram;

/// Places that a finding names; it counts all.
const PLACES_NAMED: usize = 5;

/// What is looked for. The names are those that `data.waive` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// Rows that cannot be used; waived, they are left out.
    BadRows,
    /// Rows that begin with two begin tokens.
    DoubleBos,
    /// Rows whose answer does not end with a special token, so that the model does not learn to stop.
    MissingEnd,
    /// Rows to judge by that are learned too.
    Leakage,
    /// Tools or tool calls that the template does not show.
    HiddenTools,
    /// Messages that the template does not show, or not as they are.
    HiddenText,
    /// Rows that are there more than once.
    Duplicates,
    /// Rows to judge by whose question is learned with another answer.
    SharedPrompts,
    /// Tokens that stand for what the vocabulary cannot spell.
    UnknownTokens,
    /// Special tokens written in what somebody says.
    SpecialText,
    /// Many rows too long and cut or left out.
    Overlength,
    /// Little of what goes through the model is learned from.
    LittleTrained,
}

impl Check {
    /// Whether such a finding stops a run unless it is waived.
    pub fn is_fatal(self) -> bool {
        use Check::{BadRows, DoubleBos, HiddenTools, Leakage, MissingEnd};
        matches!(self, BadRows | DoubleBos | MissingEnd | Leakage | HiddenTools)
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked for.
    pub check: Check,
    /// Whether it stops a run unless it is waived.
    pub fatal: bool,
    /// What is wrong and what to do, in one sentence.
    pub message: String,
    /// The first places, with what is wrong there where that differs.
    pub places: Vec<String>,
    /// All places.
    pub count: usize,
}

/// One side in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SideReport {
    /// Rows in the files.
    pub read: usize,
    /// Those of them that cannot be used.
    pub bad: usize,
    /// Those that a source's weight below 1 leaves out.
    pub left_out: usize,
    /// Those that are too long and dropped.
    pub dropped: usize,
    /// Those that are too long and cut.
    pub truncated: usize,
    /// Sizes of the rest.
    #[serde(flatten)]
    pub stats: Stats,
    /// Bins and the tokens that one holds, where rows are packed.
    pub bins: Option<(usize, usize)>,
    /// Rows by their length in tokens.
    pub lengths: Histogram,
}

/// What was found in the data of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Rows to learn.
    pub train: SideReport,
    /// Rows to judge by.
    pub eval: Option<SideReport>,
    /// What is wrong or may be, fatal findings first.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Looks through rows to learn and rows to judge by.
    pub fn new(encoder: &Encoder, train: &Dataset, eval: Option<&Dataset>) -> Self {
        let mut findings = checks::findings(encoder, train, eval);
        findings.sort_by_key(|finding| (!finding.fatal, finding.check));
        Self { train: SideReport::new(train), eval: eval.map(SideReport::new), findings }
    }
}

impl SideReport {
    fn new(rows: &Dataset) -> Self {
        Self {
            read: rows.read() + rows.unread.count + rows.left_out,
            bad: rows.unread.count + rows.bad.count,
            left_out: rows.left_out,
            dropped: rows.dropped(),
            truncated: rows.truncated(),
            stats: rows.stats(),
            bins: rows.bins(),
            lengths: Histogram::new((0..rows.len()).map(|row| rows.length(row))),
        }
    }
}

/// Collects the places of one finding.
#[derive(Debug, Default)]
struct Places {
    first: Vec<String>,
    count: usize,
}

impl Places {
    fn add(&mut self, place: &Place) {
        self.add_text(|| place.to_string());
    }

    fn add_text(&mut self, text: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.len() < PLACES_NAMED {
            self.first.push(text());
        }
    }

    /// The finding, if there is any place.
    fn finding(self, check: Check, message: impl FnOnce(usize) -> String) -> Option<Finding> {
        let Self { first, count } = self;
        let message = (count > 0).then(|| message(count))?;
        Some(Finding { check, fatal: check.is_fatal(), message, places: first, count })
    }
}
