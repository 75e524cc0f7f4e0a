//! Rows of data files: conversations, completions, texts, token ids, preferences.
//!
//! [`Rows::read`] takes JSON lines, JSON, CSV and Parquet files, plain or compressed, alone or in a directory. A row
//! that cannot be used does not end the reading: it is kept as a [`BadRow`], so that one look at the data tells all
//! that is wrong with it; [`Rows::strict`] makes the first one an error.

mod alpaca;
mod chat;
mod detect;
mod fields;
mod place;
mod preference;
mod sharegpt;
mod source;
mod tokens;
mod weights;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Problem, Result};

pub use chat::{Chat, Message, Role};
pub use place::{Place, Unit};
pub use preference::Preference;
pub use source::Source;
pub use tokens::Tokens;

pub(crate) type Object = Map<String, Value>;

/// Bad rows that are kept with their reason; more are only counted.
const BAD_ROWS_KEPT: usize = 1000;

/// The formats of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `{"messages": [{"role", "content", "tool_calls"?, "train"?, ...}, ...], "tools"?: [...]}`
    Chat,
    /// `{"conversations": [{"from", "value"}, ...], "system"?, "tools"?}`
    ShareGpt,
    /// `{"instruction", "input"?, "output", "system"?, "history"?}`
    Alpaca,
    /// `{"prompt": text, "completion": text}`
    Completion,
    /// `{"text": text}`
    Text,
    /// `{"input_ids": [...], "labels": [...]?}`
    Tokens,
    /// `{"prompt", "chosen", "rejected"}`, texts or conversations; the prompt may be part of the conversations.
    Preference,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chat => "chat",
            Self::ShareGpt => "ShareGPT",
            Self::Alpaca => "Alpaca",
            Self::Completion => "prompt/completion",
            Self::Text => "text",
            Self::Tokens => "pre-tokenised",
            Self::Preference => "preference",
        })
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

/// What a row holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Content {
    /// A conversation.
    Chat(Chat),
    /// A prompt and its completion.
    Completion(Completion),
    /// A text, learned as a whole.
    Text(String),
    /// Token ids.
    Tokens(Tokens),
    /// A better and a worse answer.
    Preference(Preference),
}

/// A row and where it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// File and line.
    pub place: Place,
    /// What it holds.
    pub content: Content,
    /// How often it is learned in one pass over the data; at least 1.
    pub copies: usize,
}

/// A row that cannot be used.
#[derive(Debug)]
pub struct BadRow {
    /// File and line.
    pub place: Place,
    /// What is wrong with it.
    pub problem: Problem,
}

impl From<BadRow> for Error {
    fn from(BadRow { place, problem }: BadRow) -> Self {
        Self::Row { place, problem }
    }
}

/// Rows that cannot be used: the first thousand, and how many there are.
#[derive(Debug, Default)]
pub struct BadRows {
    /// The first ones, in order.
    pub first: Vec<BadRow>,
    /// All of them.
    pub count: usize,
}

impl BadRows {
    pub(crate) fn push(&mut self, place: Place, problem: Problem) {
        self.count += 1;
        if self.first.len() < BAD_ROWS_KEPT {
            self.first.push(BadRow { place, problem });
        }
    }

    pub(crate) fn strict(self) -> Result<()> {
        self.first.into_iter().next().map_or(Ok(()), |bad| Err(bad.into()))
    }
}

/// The rows of one or more files.
#[derive(Debug)]
pub struct Rows {
    /// What was read, for messages.
    pub path: PathBuf,
    /// The format of the first row.
    pub format: Format,
    /// The rows in the order of the files.
    pub rows: Vec<Row>,
    /// Rows that cannot be used.
    pub bad: BadRows,
    /// Rows that a source's weight below 1 leaves out.
    pub left_out: usize,
}

impl Rows {
    /// Reads a file or the files of a directory. `format` is told by the first row's fields unless given.
    ///
    /// # Errors
    /// [`Error::Read`] for a file that cannot be read to its end, [`Error::NoRows`] where there is none.
    pub fn read(path: &Path, format: Option<Format>) -> Result<Self> {
        Self::read_all(&[Source { format, ..Source::new(path) }])
    }

    /// Reads several sources, one after the other.
    ///
    /// # Errors
    /// Those of [`read`](Self::read), and [`Error::Setting`] for a weight that is no positive number.
    pub fn read_all(sources: &[Source]) -> Result<Self> {
        let (mut rows, mut bad) = (Vec::new(), BadRows::default());
        let Head { path, format, left_out } = each(sources, &mut |row| match row {
            Ok(row) => rows.push(row),
            Err(BadRow { place, problem }) => bad.push(place, problem),
        })?;
        Ok(Self { path, format, rows, bad, left_out })
    }

    /// These rows, or the first bad one as an error.
    ///
    /// # Errors
    /// [`Error::Row`].
    pub fn strict(mut self) -> Result<Self> {
        std::mem::take(&mut self.bad).strict()?;
        Ok(self)
    }
}

/// What a reading tells besides rows.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) path: PathBuf,
    pub(crate) format: Format,
    pub(crate) left_out: usize,
}

/// Hands on the rows of `sources`, one by one.
pub(crate) fn each(
    sources: &[Source],
    on_row: &mut dyn FnMut(Result<Row, BadRow>),
) -> Result<Head> {
    let (mut any, mut first_format, mut left_out) = (false, None, 0);
    for source in sources {
        let weight = weights::Weight::new(source)?;
        source.read(&mut |place, object| {
            any = true;
            let content = object.and_then(|(object, format)| {
                first_format.get_or_insert(format);
                content(&object, format)
            });
            match content {
                Ok(content) => match weight.copies(&content) {
                    0 => left_out += 1,
                    copies => on_row(Ok(Row { place, content, copies })),
                },
                Err(problem) => on_row(Err(BadRow { place, problem })),
            }
        })?;
    }
    let path = name(sources);
    if !any {
        return Err(Error::NoRows { path });
    }
    Ok(Head { path, format: first_format.unwrap_or(Format::Chat), left_out })
}

/// What sources are called in messages.
pub(crate) fn name(sources: &[Source]) -> PathBuf {
    sources.first().map_or_else(PathBuf::new, |source| source.path.clone())
}

/// Reads the format's own fields. Other top-level fields (ids, sources...) are of no concern.
fn content(object: &Object, format: Format) -> Result<Content, Problem> {
    match format {
        Format::Chat => chat::row(object).map(Content::Chat),
        Format::ShareGpt => sharegpt::row(object).map(Content::Chat),
        Format::Alpaca => alpaca::row(object).map(Content::Chat),
        Format::Completion => Ok(Content::Completion(Completion {
            prompt: fields::string(object, "prompt")?,
            completion: fields::string(object, "completion")?,
        })),
        Format::Text => fields::string(object, "text").map(Content::Text),
        Format::Tokens => tokens::row(object).map(Content::Tokens),
        Format::Preference => preference::row(object).map(Content::Preference),
    }
}

impl Chat {
    /// Reads a JSON file that holds one conversation: a list of messages, or an object with such a list as `messages`.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| Error::Read { path: path.to_owned(), source })?;
        chat::conversation(text.trim_start_matches('\u{feff}'))
            .map_err(|problem| Error::File { path: path.to_owned(), problem })
    }
}
