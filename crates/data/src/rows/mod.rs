//! Rows of a supervised data file (JSON lines) in one of three formats.

mod parse;

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Problem, Result};

/// The formats of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `{"messages": [{"role", "content", "train"?}, ...]}`
    Chat,
    /// `{"prompt": text, "completion": text}`
    Completion,
    /// `{"input_ids": [...], "labels": [...]?}`
    Tokens,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chat => "chat",
            Self::Completion => "prompt/completion",
            Self::Tokens => "pre-tokenised",
        })
    }
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions for the whole conversation.
    System,
    /// The person.
    User,
    /// The model; its words are what is learned.
    Assistant,
}

impl Role {
    /// As data files and templates spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
    /// Whether to learn this turn; by default assistant turns are learned and others are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<bool>,
}

impl Message {
    /// True when the loss covers this turn.
    pub fn is_trained(&self) -> bool {
        self.role == Role::Assistant && self.train != Some(false)
    }
}

/// A conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chat {
    /// The turns, at least one.
    pub messages: Vec<Message>,
}

impl Chat {
    /// Reads a JSON file that holds one conversation: a list of messages, or an object with such a list as `messages`.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| Error::Read { path: path.to_owned(), source })?;
        parse::conversation(text.trim_start_matches('\u{feff}'))
            .map_err(|problem| Error::File { path: path.to_owned(), problem })
    }
}

/// A text and how it goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completion {
    /// Given, not learned.
    pub prompt: String,
    /// Learned.
    pub completion: String,
}

/// A row of token ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// The ids.
    pub input_ids: Vec<u32>,
    /// One entry per id, not shifted; `None` where the loss skips it. Absent: all ids are learned.
    pub labels: Option<Vec<Option<u32>>>,
}

/// What a row holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// A conversation.
    Chat(Chat),
    /// A prompt and its completion.
    Completion(Completion),
    /// Token ids.
    Tokens(Tokens),
}

/// A row and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The line in its file, counted from 1.
    pub line: usize,
    /// What it holds.
    pub content: Content,
}

/// The rows of one file, all of one format; never empty when read from a file.
#[derive(Debug, Clone)]
pub struct Rows {
    /// The file, for messages.
    pub path: PathBuf,
    /// The format of every row.
    pub format: Format,
    /// The rows in file order.
    pub rows: Vec<Row>,
}

impl Rows {
    /// Reads a JSON-lines file. Blank lines are skipped. `format` is told by the first row's fields unless given.
    pub fn read(path: &Path, format: Option<Format>) -> Result<Self> {
        let read_error = |source| Error::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(read_error)?;
        let mut rows = Vec::new();
        let mut format = format;
        for (index, bytes) in BufReader::new(file).split(b'\n').enumerate() {
            let bytes = bytes.map_err(read_error)?;
            let line = index + 1;
            let content =
                parse_line(&bytes, index == 0, &mut format).map_err(Error::row(path, line))?;
            rows.extend(content.map(|content| Row { line, content }));
        }
        match format {
            Some(format) if !rows.is_empty() => Ok(Self { path: path.to_owned(), format, rows }),
            _ => Err(Error::NoRows { path: path.to_owned() }),
        }
    }
}

/// `None` for a blank line; sets `format` when it is not known yet.
fn parse_line(
    bytes: &[u8],
    first: bool,
    format: &mut Option<Format>,
) -> Result<Option<Content>, Problem> {
    let text = std::str::from_utf8(bytes).map_err(|_| Problem::Encoding)?;
    let text = if first { text.trim_start_matches('\u{feff}') } else { text };
    if text.trim().is_empty() {
        return Ok(None);
    }
    let object = parse::object(text)?;
    let found = parse::format_of(&object)?;
    let expected = *format.get_or_insert(found);
    if found != expected {
        return Err(Problem::MixedFormats { expected, found });
    }
    parse::content(&object, found).map(Some)
}
