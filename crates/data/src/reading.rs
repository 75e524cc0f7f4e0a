//! Files -> encoded rows, a chunk at a time, so that memory holds no more text than a few chunks.

use std::panic::resume_unwind;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use rayon::prelude::*;

use crate::cache::{Cache, CacheNote, Slot};
use crate::dataset::{Collected, Collector, Dataset, HeldOut, Sink, Store, split};
use crate::encode::{CHUNK, EncodeOptions, Encoder};
use crate::error::{Limit, Result};
use crate::length;
use crate::rows::{self, BadRow, Content, Head, Row, Source};

/// Text of a chunk, in bytes, however few rows it has.
const CHUNK_BYTES: usize = 8 << 20;

/// What to read, and how.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// Files and directories.
    pub sources: &'a [Source],
    /// How rows are encoded.
    pub options: EncodeOptions,
    /// Rows to hold out for evaluation, and the seed of their draw.
    pub held_out: Option<(HeldOut, u64)>,
    /// Where tokens are kept from one start to the next.
    pub cache: Option<&'a Cache>,
    /// Rows that are read and encoded at a time, on which no result depends.
    pub chunk: usize,
}

impl<'a> Reading<'a> {
    /// All rows of `sources`, as they are encoded every time.
    pub fn new(sources: &'a [Source], options: EncodeOptions) -> Self {
        Self { sources, options, held_out: None, cache: None, chunk: CHUNK }
    }
}

/// What was read.
#[derive(Debug)]
pub struct Loaded {
    /// Rows to learn.
    pub train: Dataset,
    /// Rows that are held out, if there are any.
    pub eval: Option<Dataset>,
    /// What came of the cache.
    pub cache: Vec<CacheNote>,
}

impl Encoder {
    /// Reads and encodes the rows of files. Rows that cannot be used are in the data sets, with the reason.
    ///
    /// Files are read once, and of each row only a few dozen bytes stay in memory, or its tokens too where they are not
    /// kept in a cache.
    ///
    /// # Errors
    /// Those of [`Rows::read_all`](crate::rows::Rows::read_all); [`Error::Setting`](crate::Error::Setting) when no row is
    /// left, or rows cannot be held out; [`Error::Write`](crate::Error::Write) when there is no room for the cache.
    pub fn read(&self, reading: &Reading<'_>) -> Result<Loaded> {
        let limit = length::limit(&reading.options)?;
        let mut notes = Vec::new();
        let slot = Slot::of(self, reading, limit);
        let (all, store, head) = match slot.as_ref().and_then(|slot| slot.open(&mut notes)) {
            Some(found) => found,
            None => self.tokenise(reading, limit, slot.as_ref(), &mut notes)?,
        };
        let packing = reading.options.packing.then_some(limit.tokens());
        let (all, keys) = all.dataset(store, head, packing);
        let (train, eval) = match reading.held_out {
            // Without a usable row there is nothing to hold out, and the rows themselves say why.
            Some((held_out, _)) if all.read() > 0 => {
                let (train, eval) = split(all, &keys, held_out)?;
                (train, Some(eval).filter(|eval| eval.read() > 0))
            }
            _ => (all, None),
        };
        let (train, eval) = (train.some(limit)?, eval.map(|eval| eval.some(limit)).transpose()?);
        Ok(Loaded { train, eval, cache: notes })
    }

    fn tokenise(
        &self,
        reading: &Reading<'_>,
        limit: Limit,
        slot: Option<&Slot<'_>>,
        notes: &mut Vec<CacheNote>,
    ) -> Result<(Collected, Store, Head)> {
        let writer = slot.and_then(|slot| Some((slot, slot.writer(notes)?)));
        let (slot, sink) = match writer {
            Some((slot, writer)) => (Some(slot), Sink::File(writer)),
            None => (None, Sink::Memory(Vec::new())),
        };
        let mut collector = Collector::new(sink);
        let head = self.stream(reading, limit, &mut collector)?;
        let (all, sink) = collector.finish();
        let store = match (sink, slot) {
            (Sink::File(writer), Some(slot)) => slot.keep(writer, (&all, &head), notes)?,
            (Sink::File(_), None) => unreachable!("files are of slots"),
            (Sink::Memory(bytes), _) => Store::Memory(bytes),
        };
        Ok((all, store, head))
    }

    /// One thread reads on while the others encode what was read before.
    fn stream(
        &self,
        reading: &Reading<'_>,
        limit: Limit,
        collector: &mut Collector,
    ) -> Result<Head> {
        let Reading { sources, options, held_out, chunk, .. } = *reading;
        let seed = held_out.map(|(_, seed)| seed);
        thread::scope(|scope| {
            let (sender, receiver) = sync_channel(1);
            let reader = scope.spawn(move || chunks(sources, chunk, &sender));
            for rows in receiver {
                let rows = rows.into_par_iter().with_min_len(16);
                let code = |row: Row| self.code(&row, &options, limit, seed);
                let coded: Vec<_> = rows.map(|row| row.map(code)).collect();
                coded.into_iter().try_for_each(|row| collector.add(row))?;
            }
            reader.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }
}

type Chunk = Vec<Result<Row, BadRow>>;

/// Hands rows on, so many at a time.
fn chunks(sources: &[Source], size: usize, to: &SyncSender<Chunk>) -> Result<Head> {
    let (mut chunk, mut bytes) = (Chunk::new(), 0);
    let head = rows::each(sources, &mut |row| {
        bytes += row.as_ref().map_or(0, |row| text_bytes(&row.content));
        chunk.push(row);
        if chunk.len() >= size || bytes >= CHUNK_BYTES {
            bytes = 0;
            // Nobody listens any more after an error, which the listener tells.
            let _ = to.send(std::mem::take(&mut chunk));
        }
    })?;
    let _ = to.send(chunk);
    Ok(head)
}

/// About how much memory a row takes.
fn text_bytes(content: &Content) -> usize {
    match content {
        Content::Chat(chat) => chat.messages.iter().map(|message| message.text().len()).sum(),
        Content::Completion(it) => it.prompt.len() + it.completion.len(),
        Content::Text(text) => text.len(),
        Content::Tokens(tokens) => 8 * tokens.input_ids.len(),
        // It is not encoded.
        Content::Preference(_) => 0,
    }
}
