//! Takes encoded rows in, one after the other.

use std::sync::Arc;

use super::{Dataset, Entry, Note, Store, What};
use crate::cache::Writer;
use crate::error::Result;
use crate::outcome::{Coded, Outcome};
use crate::rows::{BadRow, BadRows, Head};

/// Where tokens go.
#[derive(Debug)]
pub(crate) enum Sink {
    Memory(Vec<u8>),
    File(Writer),
}

/// All rows of a reading, not split yet.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    pub(crate) entries: Vec<Entry>,
    /// The rows' hashes, by which they are held out; 0 where none are.
    pub(crate) keys: Vec<u64>,
    pub(crate) notes: Vec<Note>,
    pub(crate) unread: BadRows,
    pub(crate) bad: BadRows,
}

/// Collects rows in their order.
#[derive(Debug)]
pub(crate) struct Collector {
    all: Collected,
    sink: Sink,
    bytes: u64,
}

impl Collector {
    pub(crate) fn new(sink: Sink) -> Self {
        Self { all: Collected::default(), sink, bytes: 0 }
    }

    /// # Errors
    /// [`Error::Write`](crate::Error::Write).
    pub(crate) fn add(&mut self, row: Result<Coded, BadRow>) -> Result<()> {
        let Coded { place, key, special, outcome } = match row {
            Ok(coded) => coded,
            Err(BadRow { place, problem }) => {
                self.all.unread.push(place, problem);
                return Ok(());
            }
        };
        let all = &mut self.all;
        let mut note = |what| all.notes.push(Note { place: place.clone(), key, what });
        special.into_iter().for_each(&mut note);
        match outcome {
            Err(problem) => {
                note(What::Bad);
                all.bad.push(place, problem);
            }
            Ok(Outcome::Dropped) => note(What::Dropped),
            Ok(Outcome::Kept { entry, bytes, unseen, unknown }) => {
                unseen.into_iter().map(What::Unseen).for_each(&mut note);
                Some(unknown).filter(|n| *n > 0).map(What::Unknown).into_iter().for_each(note);
                all.entries.push(Entry { start: self.bytes, ..entry });
                all.keys.push(key);
                self.bytes += bytes.len() as u64;
                match &mut self.sink {
                    Sink::Memory(memory) => memory.extend(bytes),
                    Sink::File(file) => file.append(&bytes)?,
                }
            }
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> (Collected, Sink) {
        (self.all, self.sink)
    }
}

impl Collected {
    /// As a data set, and the hashes of its entries.
    pub(crate) fn dataset(
        self,
        store: Store,
        Head { path, format, left_out }: Head,
        packing: Option<usize>,
    ) -> (Dataset, Vec<u64>) {
        let Self { entries, keys, notes, unread, bad } = self;
        let store = Arc::new(store);
        let dataset =
            Dataset { entries, store, notes, path, format, left_out, unread, bad, packing };
        (dataset, keys)
    }
}
