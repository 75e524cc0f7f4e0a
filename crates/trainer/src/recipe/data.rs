//! `[data]`: which rows, and how they are taken.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use data::preflight::Check;
use data::rows::{Format, Source};
use data::{HeldOut, Overlength, PromptFormat, TrainOn};
use serde::{Deserialize, Serialize};

/// `[data]`: rows to learn and rows to judge by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSection {
    /// Rows to learn: a file (JSON lines, JSON, CSV, TSV, Parquet, also as .gz or .zst) or a directory of such files.
    /// Required unless there are `sources`.
    pub path: PathBuf,
    /// What a row is; `auto` tells it by the first row's fields.
    pub format: RowFormat,
    /// Whether `prompt`/`completion` rows are plain text or a user and an assistant turn.
    pub prompt_format: PromptFormat,
    /// Chat template in place of the tokenizer's own: a built-in one (chatml, llama-2, llama-3, mistral, gemma, phi,
    /// alpaca, zephyr) or the path of a Jinja file. It is written beside the adapter.
    pub chat_template: Option<String>,
    /// What the loss covers: `answers`, `last-answer` or `everything`.
    pub train_on: TrainOn,
    /// Rows to evaluate on, in files as those of `path`. At most one of this and the next two can be given.
    pub eval_path: Option<PathBuf>,
    /// Rows of `path` to hold out for evaluation; 0 is none.
    pub eval_rows: usize,
    /// Share of the rows of `path` to hold out for evaluation, below 1; 0 is none.
    pub eval_fraction: f64,
    /// Longest row in tokens; by default the model's context.
    pub max_seq_len: Option<usize>,
    /// What happens to longer rows: `error`, `drop`, `truncate-right` or `truncate-left`.
    pub overlength: Overlength,
    /// Pack rows into bins of `max_seq_len` tokens; then `train.batch_size` counts bins. Rows of a bin do not see
    /// each other.
    pub packing: bool,
    /// Take rows of about equal length into a micro-batch. Micro-batches come in random order, but for the first of the
    /// run, which has the longest rows of all and most tokens. It takes more memory than rows in random order do, and
    /// saves no work, because batches are never padded. Excludes `packing` and needs `shuffle`.
    pub group_by_length: bool,
    /// Whether every epoch has its own order, drawn from `train.seed`; otherwise the file's.
    pub shuffle: bool,
    /// Findings of `qlora-train data check` that do not stop a run, by their names. With `bad-rows` waived, rows that
    /// cannot be used are left out.
    pub waive: Vec<Check>,
    /// Whether the tokens of large files are kept for the next start, in the user's cache.
    pub cache: bool,
    /// Names of fields: from the name that the format has to the one in the files, as `prompt = "question"`.
    pub fields: BTreeMap<String, String>,
    /// Several files or directories in place of `path`, each with settings of its own.
    pub sources: Vec<SourceSection>,
}

impl Default for DataSection {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            format: RowFormat::Auto,
            prompt_format: PromptFormat::Plain,
            chat_template: None,
            train_on: TrainOn::Answers,
            eval_path: None,
            eval_rows: 0,
            eval_fraction: 0.0,
            max_seq_len: None,
            overlength: Overlength::Error,
            packing: false,
            group_by_length: false,
            shuffle: true,
            waive: Vec::new(),
            cache: true,
            fields: BTreeMap::new(),
            sources: Vec::new(),
        }
    }
}

impl DataSection {
    /// Which rows of `path` are held out, if any.
    pub fn held_out(&self) -> Option<HeldOut> {
        match (self.eval_rows, self.eval_fraction) {
            (0, 0.0) => None,
            (0, fraction) => Some(HeldOut::Fraction(fraction)),
            (rows, _) => Some(HeldOut::Rows(rows)),
        }
    }

    /// Where the rows to learn are read from.
    pub fn all_sources(&self) -> Vec<Source> {
        if self.sources.is_empty() {
            return vec![self.source(&self.path)];
        }
        let sources = self.sources.iter();
        sources
            .map(|source| Source {
                path: source.path.clone(),
                format: source.format.given().or(self.format.given()),
                fields: if source.fields.is_empty() { &self.fields } else { &source.fields }
                    .clone(),
                weight: source.weight,
            })
            .collect()
    }

    /// A file or directory with the format and the names of fields that `[data]` gives.
    pub fn source(&self, path: &Path) -> Source {
        Source { format: self.format.given(), fields: self.fields.clone(), ..Source::new(path) }
    }

    /// The rows to learn in a message: the path, or that of the first source.
    pub fn name(&self) -> &Path {
        self.sources.first().map_or(&self.path, |source| &source.path)
    }
}

/// One of several sources.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SourceSection {
    /// A file or directory. Required.
    pub path: PathBuf,
    /// What a row is; by default what `data.format` says.
    pub format: RowFormat,
    /// How often its rows are learned in an epoch: 2 is twice, 0.5 one half of them.
    pub weight: f64,
    /// Names of its fields; by default those of `data.fields`.
    pub fields: BTreeMap<String, String>,
}

impl Default for SourceSection {
    fn default() -> Self {
        Self { path: PathBuf::new(), format: RowFormat::Auto, weight: 1.0, fields: BTreeMap::new() }
    }
}

/// What a row of a data file is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RowFormat {
    /// Told by the first row.
    #[default]
    Auto,
    /// `messages`.
    Chat,
    /// `conversations`.
    ShareGpt,
    /// `instruction`, `input` and `output`.
    Alpaca,
    /// `prompt` and `completion`.
    Completion,
    /// `text`.
    Text,
    /// `input_ids` and, optionally, `labels`.
    Tokens,
    /// `prompt`, `chosen` and `rejected`.
    Preference,
}

impl RowFormat {
    /// The format, where it is given.
    pub fn given(self) -> Option<Format> {
        match self {
            Self::Auto => None,
            Self::Chat => Some(Format::Chat),
            Self::ShareGpt => Some(Format::ShareGpt),
            Self::Alpaca => Some(Format::Alpaca),
            Self::Completion => Some(Format::Completion),
            Self::Text => Some(Format::Text),
            Self::Tokens => Some(Format::Tokens),
            Self::Preference => Some(Format::Preference),
        }
    }
}
