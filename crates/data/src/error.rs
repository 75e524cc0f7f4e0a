//! The error type of the crate.

use std::fmt;
use std::path::PathBuf;

use crate::rows::{Format, Place};

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong between a data file and a batch.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("{path}: {source}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason the system gave.
        source: std::io::Error,
    },
    /// Tokens cannot be kept.
    #[error(
        "{path}: {source}; make room there, or set data.cache = false, which holds tokens in memory",
        path = .path.display()
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// The reason the system gave.
        source: std::io::Error,
    },
    /// There is nothing but blank lines.
    #[error("{path}: the file has no rows", path = .path.display())]
    NoRows {
        /// The file or directory.
        path: PathBuf,
    },
    /// A directory without data files.
    #[error(
        "{path}: the directory has no file that ends in .jsonl, .ndjson, .json, .csv, .tsv (or one of these with .gz \
         or .zst) or .parquet",
        path = .path.display()
    )]
    NoFiles {
        /// The directory.
        path: PathBuf,
    },
    /// The file cannot be read on from here.
    #[error("{path}, line {line}: {message}", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Its line, counted from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// The Parquet file cannot be read on from here.
    #[error("{path}, row {row}: the Parquet file is damaged or of a kind that is not read: {message}", path = .path.display())]
    DamagedTable {
        /// The file.
        path: PathBuf,
        /// Its row, counted from 1.
        row: usize,
        /// What is wrong.
        message: String,
    },
    /// One row cannot be used.
    #[error("{place}: {problem}")]
    Row {
        /// File and line.
        place: Place,
        /// What is wrong and what to do.
        problem: Problem,
    },
    /// A file of one conversation cannot be used.
    #[error("{path}: {problem}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: Problem,
    },
    /// The chat template does not compile, or the run needs one and the model has none.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// Settings that contradict each other or cannot be met by the data.
    #[error("{name}: {message}")]
    Setting {
        /// The setting's name in the recipe.
        name: &'static str,
        /// What is wrong and what to do.
        message: String,
    },
}

/// What is wrong with one row.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The line is not UTF-8.
    #[error("not valid UTF-8 (byte {byte}{}); save the file as UTF-8", if *.utf16 { ", it looks like UTF-16" } else { "" })]
    Encoding {
        /// The first bad byte of the line, counted from 1.
        byte: usize,
        /// Whether it begins as UTF-16 does.
        utf16: bool,
    },
    /// A record of a table is not like its header.
    #[error("{message}")]
    Table {
        /// What is wrong with it.
        message: String,
    },
    /// The line is not one JSON object.
    #[error("not valid JSON ({message}); each line must be one JSON object")]
    Json {
        /// The parser's words, with the column.
        message: String,
    },
    /// The file is not one conversation.
    #[error(
        "not a conversation ({message}); give a list of {{\"role\", \"content\"}} messages, or an object with such a \
         list as \"messages\""
    )]
    Conversation {
        /// The parser's words, with line and column.
        message: String,
    },
    /// No known format has the row's fields.
    #[error(
        "no known format: found {found}; expected `messages`, `conversations`, `instruction` and `output`, `prompt` and \
         `completion`, `text`, `input_ids`, or `chosen` and `rejected`. Fields of other names can be renamed: \
         data.fields = {{ prompt = \"question\", completion = \"answer\" }}"
    )]
    UnknownFormat {
        /// The fields found.
        found: String,
    },
    /// Several formats have the row's fields.
    #[error("the fields {found} fit several formats ({fitting}); choose one with data.format")]
    AmbiguousFormat {
        /// The fields found.
        found: String,
        /// The formats that they fit.
        fitting: String,
    },
    /// A preference row in supervised training.
    #[error(
        "a preference row, which supervised training cannot use; to learn the better answers alone, set data.format = \
         \"completion\" and data.fields = {{ completion = \"chosen\" }}"
    )]
    Preference,
    /// Another format than the file's.
    #[error("{found} row in a file of {expected} rows; keep one format per file")]
    MixedFormats {
        /// The file's format.
        expected: Format,
        /// The row's.
        found: Format,
    },
    /// A field is missing, has the wrong type or a value that is not allowed.
    #[error("field `{field}`: {message}")]
    Field {
        /// The field, with indices: `messages[2].role`.
        field: String,
        /// What is wrong and what is expected.
        message: String,
    },
    /// The template failed on this row.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The answers cannot be located in the rendered conversation.
    #[error("cannot tell where the answer of messages[{message}] lies: {reason}")]
    Unlocated {
        /// The assistant message.
        message: usize,
        /// Why, and what to do.
        reason: String,
    },
    /// The tokenizer failed.
    #[error("the tokenizer failed: {0}")]
    Tokenizer(String),
    /// The answer has no end token and the model names none.
    #[error(
        "nothing ends the answer: the template writes no special token after it and the model has no eos_token"
    )]
    NoEnd,
    /// Nothing to learn from.
    #[error("all labels are masked: {reason}")]
    AllMasked {
        /// Why, and what to do.
        reason: String,
    },
    /// More tokens than allowed.
    #[error(
        "{tokens} tokens, more than {limit}; shorten the row, or set overlength = \"drop\", \"truncate-right\" or \"truncate-left\""
    )]
    TooLong {
        /// The row's length.
        tokens: usize,
        /// The limit and where it comes from.
        limit: Limit,
    },
    /// What an earlier start found, which is kept with its tokens.
    #[error("{0}")]
    Told(String),
    /// No answer to compare a generation with.
    #[error("no answer to generate: {0}")]
    NoAnswer(&'static str),
}

impl Problem {
    pub(crate) fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Field { field: field.into(), message: message.into() }
    }
}

/// The longest row allowed, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The recipe's `max_seq_len`.
    MaxSeqLen(usize),
    /// The model's context.
    Context(usize),
}

impl Limit {
    /// The number of tokens.
    pub fn tokens(self) -> usize {
        match self {
            Self::MaxSeqLen(tokens) | Self::Context(tokens) => tokens,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MaxSeqLen(tokens) => write!(f, "max_seq_len = {tokens}"),
            Self::Context(tokens) => write!(f, "the model's context of {tokens}"),
        }
    }
}

/// A chat template that is missing, does not compile, or fails while rendering.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The rows need a template and the model has none.
    #[error(
        "the model has no chat template; choose one with data.chat_template (\"chatml\", \"zephyr\", \"alpaca\"...), or use \
         `prompt`/`completion` rows"
    )]
    Missing,
    /// It does not parse, fails while rendering, or refuses the conversation (`raise_exception`).
    #[error("chat template, line {line}: {message}")]
    Failed {
        /// The template's line, counted from 1.
        line: usize,
        /// The template engine's words, or the template's own.
        message: String,
    },
    /// No built-in template and no file has this name.
    #[error(
        "no chat template is called \"{name}\"; built in are {known}; a file is given by its path"
    )]
    Unknown {
        /// What was asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A built-in template is written for special tokens that the model does not have.
    #[error(
        "the chat template \"{name}\" needs the token {token}, which the tokenizer does not have as one; zephyr, alpaca, \
         llama-2 and mistral need none of their own"
    )]
    NoToken {
        /// The template.
        name: &'static str,
        /// The token.
        token: &'static str,
    },
    /// A conversation is not rendered in any sensible time.
    #[error(
        "the chat template did not finish a conversation in {seconds} s; is there an endless loop?"
    )]
    Endless {
        /// The time it was given.
        seconds: u64,
    },
    /// It needs more work or memory than a template should.
    #[error(
        "the chat template did more work than allowed (template line {line}); is there an endless loop?"
    )]
    TooMuchWork {
        /// The template's line, counted from 1.
        line: usize,
    },
}
