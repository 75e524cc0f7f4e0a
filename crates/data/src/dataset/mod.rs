//! Encoded rows: a small entry of each in memory, the tokens in a store.

mod collector;
mod entry;
mod note;
mod split;
mod store;

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::encode::Example;
use crate::error::{Error, Limit, Result};
use crate::rows::{BadRows, Format, Place};
use crate::unseen::Unseen;

pub(crate) use collector::{Collected, Collector, Sink};
pub(crate) use entry::{Entry, Marks};
pub(crate) use note::{Note, What};
pub use split::HeldOut;
pub(crate) use split::{content_hash, split};
pub(crate) use store::{Store, TokenFile};

/// Encoded rows, in file order.
#[derive(Debug)]
pub struct Dataset {
    pub(crate) entries: Vec<Entry>,
    pub(crate) store: Arc<Store>,
    pub(crate) notes: Vec<Note>,
    /// What was read, for messages.
    pub(crate) path: PathBuf,
    /// The format of the first row.
    pub format: Format,
    /// Rows that a source's weight below 1 leaves out.
    pub(crate) left_out: usize,
    /// Rows that could not be read.
    pub(crate) unread: BadRows,
    /// Rows that were read and cannot be used.
    pub bad: BadRows,
    /// Tokens of the bins that rows are packed into; `None` where each row stays for itself.
    pub packing: Option<usize>,
}

/// Sizes of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Rows.
    pub rows: usize,
    /// Tokens of all rows.
    pub tokens: usize,
    /// Tokens the loss covers.
    pub trained_tokens: usize,
    /// Tokens of the longest row.
    pub longest: usize,
}

/// Rows in memory, each learned once.
impl FromIterator<Example> for Dataset {
    fn from_iter<T: IntoIterator<Item = Example>>(examples: T) -> Self {
        let (mut entries, mut all) = (Vec::new(), Vec::new());
        for example in examples {
            let (entry, bytes) = Entry::new(&example);
            entries.push(Entry { start: all.len() as u64, ..entry });
            all.extend(bytes);
        }
        Self {
            entries,
            store: Arc::new(Store::Memory(all)),
            notes: Vec::new(),
            path: PathBuf::new(),
            format: Format::Tokens,
            left_out: 0,
            unread: BadRows::default(),
            bad: BadRows::default(),
            packing: None,
        }
    }
}

impl Dataset {
    /// Rows.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Row number `row`.
    ///
    /// # Errors
    /// [`Error::Read`] when it is in a file that cannot be read.
    pub fn example(&self, row: usize) -> Result<Example> {
        self.store.example(&self.entries[row])
    }

    /// Where rows are from.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.entries.iter().map(|entry| &entry.place)
    }

    /// These rows, or the first bad one as an error.
    ///
    /// # Errors
    /// [`Error::Row`].
    pub fn strict(mut self) -> Result<Self> {
        std::mem::take(&mut self.unread).strict()?;
        std::mem::take(&mut self.bad).strict()?;
        Ok(self)
    }

    /// Rows that were read, usable or not.
    pub fn read(&self) -> usize {
        self.len() + self.dropped() + self.bad.count
    }

    /// Rows left out because they were too long.
    pub fn dropped(&self) -> usize {
        self.notes.iter().filter(|note| note.what == What::Dropped).count()
    }

    /// Rows of which a part was cut off.
    pub fn truncated(&self) -> usize {
        self.entries.iter().filter(|entry| entry.marks.cut).count()
    }

    /// Rows of which the template leaves a part out.
    pub fn unseen(&self) -> impl Iterator<Item = (&Place, Unseen)> {
        self.notes.iter().filter_map(|note| match note.what {
            What::Unseen(part) => Some((&note.place, part)),
            _ => None,
        })
    }

    /// Tokens of row number `row`.
    pub(crate) fn length(&self, row: usize) -> usize {
        self.entries[row].tokens as usize
    }

    /// Tokens of one pass over the rows, each as often as its source's weight says.
    pub fn tokens_per_epoch(&self) -> usize {
        self.entries.iter().map(|entry| entry.copies as usize * entry.tokens as usize).sum()
    }

    /// Counts rows and tokens.
    pub fn stats(&self) -> Stats {
        let lengths = || self.entries.iter().map(|entry| entry.tokens as usize);
        Stats {
            rows: self.len(),
            tokens: lengths().sum(),
            trained_tokens: self.entries.iter().map(|entry| entry.trained as usize).sum(),
            longest: lengths().max().unwrap_or(0),
        }
    }

    /// An error where every row was dropped.
    pub(crate) fn some(self, limit: Limit) -> Result<Self> {
        if self.is_empty() && self.bad.count == 0 && self.dropped() > 0 {
            let path = self.path.display();
            let message = format!("every row of {path} is longer than {limit}; raise it");
            return Err(Error::Setting { name: "max_seq_len", message });
        }
        Ok(self)
    }
}
