//! The error type of the crate.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::rows::Format;

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
    /// The file holds nothing but blank lines.
    #[error("{path}: the file has no rows; each line must be one JSON object", path = .path.display())]
    NoRows {
        /// The file.
        path: PathBuf,
    },
    /// One row cannot be used.
    #[error("{path}, line {line}: {problem}", path = .path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// Its line, counted from 1.
        line: usize,
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

impl Error {
    pub(crate) fn row(path: &Path, line: usize) -> impl FnOnce(Problem) -> Self {
        let path = path.to_owned();
        move |problem| Self::Row { path, line, problem }
    }
}

/// What is wrong with one row.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The line is not UTF-8.
    #[error("not valid UTF-8; save the file as UTF-8")]
    Encoding,
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
        "no known format: found {found}; expected `messages`, or `prompt` and `completion`, or `input_ids`"
    )]
    UnknownFormat {
        /// The fields found.
        found: String,
    },
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
        "{tokens} tokens, more than {limit}; shorten the row, or set overlength = \"drop\" or \"truncate\""
    )]
    TooLong {
        /// The row's length.
        tokens: usize,
        /// The limit and where it comes from.
        limit: Limit,
    },
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
        "the model has no chat template; use `prompt`/`completion` rows, or a model whose tokenizer has one"
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
    /// It needs more work or memory than a template should.
    #[error(
        "the chat template did more work than allowed (template line {line}); is there an endless loop?"
    )]
    TooMuchWork {
        /// The template's line, counted from 1.
        line: usize,
    },
}
