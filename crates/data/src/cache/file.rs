//! The file of an entry: the rows' tokens, then one record for each row, then what else there is to tell in JSON, then
//! a footer with the sizes of these and a checksum of everything. Numbers are little-endian.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crc32fast::Hasher;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::PARTIAL;
use crate::dataset::{Collected, Entry, Marks, Note, Store, TokenFile, What};
use crate::error::{Error, Problem, Result};
use crate::rows::{BadRow, BadRows, Format, Head, Place, Unit};

const MAGIC: [u8; 8] = *b"qltokens";

/// Five numbers of 64 bits and five of 32.
const RECORD: usize = 60;

/// The magic number, three sizes and the checksum.
const FOOTER: usize = 36;

/// Of copies between files and memory.
const BLOCK: usize = 1 << 20;

/// A row's place: number of its file, whether the file is counted in rows, line or row.
type Spot = (u32, bool, usize);

/// Bad rows: how many, and the first ones with what is wrong with them.
type Bad = (usize, Vec<(Spot, String)>);

/// What there is besides tokens and records.
#[derive(Debug, Serialize, Deserialize)]
struct Meta {
    format: Format,
    left_out: usize,
    unread: Bad,
    bad: Bad,
    notes: Vec<(Spot, u64, What)>,
}

/// Writes an entry under a temporary name.
#[derive(Debug)]
pub(crate) struct Writer {
    out: BufWriter<NamedTempFile>,
    tokens: u64,
    checksum: Hasher,
}

impl Writer {
    pub(super) fn create(dir: &Path) -> io::Result<Self> {
        let file = tempfile::Builder::new().suffix(PARTIAL).tempfile_in(dir)?;
        let out = BufWriter::with_capacity(BLOCK, file);
        Ok(Self { out, tokens: 0, checksum: Hasher::new() })
    }

    /// Adds tokens.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.tokens += bytes.len() as u64;
        self.put(bytes).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Write { path: self.out.get_ref().path().to_owned(), source }
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.checksum.update(bytes);
        self.out.write_all(bytes)
    }

    /// The tokens as they are, in a file that goes with the program.
    pub(super) fn unnamed(mut self) -> Result<Store> {
        self.out.flush().map_err(|source| self.failed(source))?;
        // What is in the buffer is written, and nothing else can fail.
        let (file, path) = self.out.into_parts().0.into_parts();
        Ok(Store::File(TokenFile::new(path.to_path_buf(), file)))
    }

    /// Completes the entry and gives it its name. Where that fails, the tokens are there all the same.
    pub(super) fn keep(
        mut self,
        path: &Path,
        all: &Collected,
        head: &Head,
        files: &[&Path],
    ) -> Result<(Store, io::Result<()>)> {
        self.out.flush().map_err(|source| self.failed(source))?;
        let written = self.rest(all, head, files).and_then(|()| {
            self.out.flush()?;
            self.out.get_ref().as_file().sync_all()
        });
        let (file, temporary) = self.out.into_parts().0.into_parts();
        let kept = written.and_then(|()| Ok(temporary.persist(path)?));
        Ok((Store::File(TokenFile::new(path.to_owned(), file)), kept))
    }

    fn rest(&mut self, all: &Collected, head: &Head, files: &[&Path]) -> io::Result<()> {
        let mut files = Numbers::of(files);
        for (entry, key) in all.entries.iter().zip(&all.keys) {
            self.put(&record(entry, *key, files.spot(&entry.place)))?;
        }
        let mut bad = |bad: &BadRows| {
            let first = bad.first.iter();
            let text = |bad: &BadRow| (files.spot(&bad.place), bad.problem.to_string());
            (bad.count, first.map(text).collect())
        };
        let (unread, bad) = (bad(&all.unread), bad(&all.bad));
        let notes = all.notes.iter().map(|note| (files.spot(&note.place), note.key, note.what));
        let meta = Meta {
            format: head.format,
            left_out: head.left_out,
            unread,
            bad,
            notes: notes.collect(),
        };
        let meta = serde_json::to_vec(&meta)?;
        self.put(&meta)?;
        self.put(&MAGIC)?;
        for size in [self.tokens, all.entries.len() as u64, meta.len() as u64] {
            self.put(&size.to_le_bytes())?;
        }
        let checksum = self.checksum.clone().finalize();
        self.put(&checksum.to_le_bytes())
    }
}

/// The numbers of files in the order in which they are read.
struct Numbers<'a> {
    numbers: HashMap<&'a Path, u32>,
    /// Most rows are from the file of the row before.
    last: Option<(Arc<PathBuf>, u32)>,
}

impl<'a> Numbers<'a> {
    fn of(files: &[&'a Path]) -> Self {
        Self { numbers: files.iter().copied().zip(0..).collect(), last: None }
    }

    fn spot(&mut self, place: &Place) -> Spot {
        let (file, unit) = place.source();
        let number = match &self.last {
            Some((last, number)) if Arc::ptr_eq(last, file) => *number,
            _ => self.numbers.get(file.as_path()).copied().unwrap_or(u32::MAX),
        };
        self.last = Some((Arc::clone(file), number));
        (number, unit == Unit::Row, place.number)
    }
}

fn record(entry: &Entry, key: u64, (file, is_row, number): Spot) -> [u8; RECORD] {
    let Entry { start, tokens, trained, copies, whole, prompt, own_labels, marks, .. } = entry;
    let Marks { cut, double_bos, ends } = *marks;
    let flags = [*own_labels, cut, double_bos, ends, is_row];
    let flags = flags.iter().rev().fold(0, |flags, flag| flags << 1 | u32::from(*flag));
    let prompt = prompt.map_or(0, NonZeroU64::get);
    let mut bytes = [0; RECORD];
    let (wide, narrow) = bytes.split_at_mut(40);
    for (to, number) in wide.chunks_exact_mut(8).zip([number as u64, *start, *whole, prompt, key]) {
        to.copy_from_slice(&number.to_le_bytes());
    }
    for (to, number) in narrow.chunks_exact_mut(4).zip([*tokens, *trained, *copies, file, flags]) {
        to.copy_from_slice(&number.to_le_bytes());
    }
    bytes
}

/// Reads an entry whose files are these, and checks all of it: rows, tokens, the rows' format, and how many a weight
/// leaves out. What is wrong with it is an error of the kind
/// [`io::ErrorKind::InvalidData`], or what the system says.
pub(super) fn open(
    path: &Path,
    files: impl Iterator<Item = PathBuf>,
) -> io::Result<(Collected, Store, Format, usize)> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let end = length.checked_sub(FOOTER as u64).ok_or_else(|| damaged("it is cut short"))?;
    file.seek(SeekFrom::Start(end))?;
    let mut footer = [0; FOOTER];
    file.read_exact(&mut footer)?;
    let [magic, tokens, rows, meta] =
        [0, 8, 16, 24].map(|at| u64::from_le_bytes(footer[at..at + 8].try_into().expect("eight")));
    let records = rows.checked_mul(RECORD as u64).ok_or_else(|| damaged("its sizes are wrong"))?;
    let sizes = [tokens, records, meta].into_iter().try_fold(0, u64::checked_add);
    if magic != u64::from_le_bytes(MAGIC) || sizes != Some(end) {
        return Err(damaged("it is cut short or no file of tokens"));
    }
    file.seek(SeekFrom::Start(0))?;
    let mut reader = Checked { reader: BufReader::with_capacity(BLOCK, file), sum: Hasher::new() };
    io::copy(&mut reader.by_ref().take(tokens), &mut io::sink())?;
    let files: Vec<Arc<PathBuf>> = files.map(Arc::new).collect();
    let mut all = Collected::default();
    for _ in 0..rows {
        let mut bytes = [0; RECORD];
        reader.read_exact(&mut bytes)?;
        let (entry, key) = parsed(&bytes, &files)?;
        if entry.start.checked_add(entry.bytes() as u64).is_none_or(|end| end > tokens) {
            return Err(damaged("a row lies outside of it"));
        }
        all.entries.push(entry);
        all.keys.push(key);
    }
    let mut text = vec![0; meta as usize];
    reader.read_exact(&mut text)?;
    io::copy(&mut reader.by_ref().take(FOOTER as u64 - 4), &mut io::sink())?;
    if reader.sum.finalize().to_le_bytes() != footer[FOOTER - 4..] {
        return Err(damaged("its checksum is wrong"));
    }
    let meta: Meta = serde_json::from_slice(&text).map_err(|error| damaged(&error.to_string()))?;
    let (format, left_out) = (meta.format, meta.left_out);
    rest(meta, &mut all, &files)?;
    let file = reader.reader.into_inner();
    // Of use to whoever makes room; that it is not known is no reason to do without the tokens.
    let _ = file.set_modified(SystemTime::now());
    Ok((all, Store::File(TokenFile::new(path.to_owned(), file)), format, left_out))
}

/// Sums what is read.
struct Checked<R> {
    reader: R,
    sum: Hasher,
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(bytes)?;
        self.sum.update(&bytes[..read]);
        Ok(read)
    }
}

fn damaged(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

fn place((file, is_row, number): Spot, files: &[Arc<PathBuf>]) -> io::Result<Place> {
    let file = files.get(file as usize).ok_or_else(|| damaged("a row is from no data file"))?;
    Ok(Place::new(file, if is_row { Unit::Row } else { Unit::Line }, number))
}

fn parsed(bytes: &[u8; RECORD], files: &[Arc<PathBuf>]) -> io::Result<(Entry, u64)> {
    let wide =
        |at: usize| u64::from_le_bytes(bytes[8 * at..8 * at + 8].try_into().expect("eight bytes"));
    let narrow = |at: usize| {
        let at = 40 + 4 * at;
        u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
    };
    let flag = |at: u32| narrow(4) >> at & 1 == 1;
    let entry = Entry {
        place: place((narrow(3), flag(4), wide(0) as usize), files)?,
        start: wide(1),
        whole: wide(2),
        prompt: NonZeroU64::new(wide(3)),
        tokens: narrow(0),
        trained: narrow(1),
        copies: narrow(2),
        own_labels: flag(0),
        marks: Marks { cut: flag(1), double_bos: flag(2), ends: flag(3) },
    };
    Ok((entry, wide(4)))
}

fn rest(meta: Meta, all: &mut Collected, files: &[Arc<PathBuf>]) -> io::Result<()> {
    let bad = |(count, first): Bad| {
        let row =
            |(spot, text)| Ok(BadRow { place: place(spot, files)?, problem: Problem::Told(text) });
        let first = first.into_iter().map(row).collect::<io::Result<_>>()?;
        io::Result::Ok(BadRows { first, count })
    };
    all.unread = bad(meta.unread)?;
    all.bad = bad(meta.bad)?;
    let note = |(spot, key, what)| Ok(Note { place: place(spot, files)?, key, what });
    all.notes = meta.notes.into_iter().map(note).collect::<io::Result<_>>()?;
    Ok(())
}
