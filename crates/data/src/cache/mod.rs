//! Tokens on disk, so that a second start on the same rows need not make them again.
//!
//! An entry is one file, named by a hash of all that its tokens depend on. It appears under that name when it is
//! complete, and is checked as a whole before it is used, so that neither a crash nor another run does any harm. Runs
//! that have an entry open go on with it after it was removed.

mod file;
mod key;

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::dataset::{Collected, Store};
use crate::encode::Encoder;
use crate::error::Limit;
use crate::reading::Reading;
use crate::rows::{self, Head, Source};

pub(crate) use file::Writer;

/// How the names of entries end.
const ENTRY: &str = ".tokens";

/// How the names of files end that are being written.
const PARTIAL: &str = ".partial";

/// A file that was not written to for so long has lost its writer.
const ABANDONED: Duration = Duration::from_hours(24);

/// A directory of tokens that may be removed at any time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// It is made when the first entry is written.
    pub dir: PathBuf,
    /// Files of fewer bytes together are tokenised every time, in less than a second.
    pub at_least: u64,
    /// Bytes of all entries. Above it those go that were not used for longest.
    pub limit: u64,
}

impl Cache {
    /// The directory, with the limits that suit a workstation.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), at_least: 1 << 20, limit: 20 << 30 }
    }
}

/// What came of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheNote {
    /// The tokens are those of an earlier start.
    Reused {
        /// The entry.
        path: PathBuf,
    },
    /// There was an entry that cannot be used; it is made again.
    Damaged {
        /// The entry.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The tokens could not be kept.
    NotKept {
        /// The entry.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl fmt::Display for CacheNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reused { path } => {
                write!(f, "tokens of an earlier start on the same rows: {}", path.display())
            }
            Self::Damaged { path, reason } => {
                write!(f, "{}: {reason}; the rows are tokenised again", path.display())
            }
            Self::NotKept { path, reason } => {
                let path = path.display();
                write!(f, "{path}: {reason}; the next start has to tokenise again")
            }
        }
    }
}

/// The place of a reading's tokens.
#[derive(Debug)]
pub(crate) struct Slot<'a> {
    cache: &'a Cache,
    sources: &'a [Source],
    path: PathBuf,
    files: Vec<key::DataFile>,
}

impl<'a> Slot<'a> {
    /// `None` where nothing is to be kept, or files cannot be read, which reading them will tell.
    pub(crate) fn of(encoder: &Encoder, reading: &Reading<'a>, limit: Limit) -> Option<Self> {
        let cache = reading.cache?;
        let files = key::files(reading.sources)?;
        if files.iter().map(|file| file.bytes).sum::<u64>() < cache.at_least {
            return None;
        }
        let key = key::key(encoder, reading, limit, &files)?;
        Some(Self { cache, sources: reading.sources, path: cache.dir.join(key + ENTRY), files })
    }

    /// Everything of the entry; `None` without one.
    pub(crate) fn open(&self, notes: &mut Vec<CacheNote>) -> Option<(Collected, Store, Head)> {
        let path = self.path.clone();
        let paths = self.files.iter().map(|file| file.path.clone());
        match file::open(&self.path, paths) {
            Ok((all, store, format, left_out)) => {
                notes.push(CacheNote::Reused { path });
                Some((all, store, Head { path: rows::name(self.sources), format, left_out }))
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                None
            }
            Err(error) => {
                notes.push(CacheNote::Damaged { path, reason: error.to_string() });
                None
            }
        }
    }

    /// A file to write the entry to; `None` where there can be none.
    pub(crate) fn writer(&self, notes: &mut Vec<CacheNote>) -> Option<Writer> {
        let writer = fs::create_dir_all(&self.cache.dir).and_then(|()| {
            self.tidy();
            Writer::create(&self.cache.dir)
        });
        writer.map_err(|error| notes.push(self.not_kept(&error.to_string()))).ok()
    }

    /// Makes what was written an entry.
    ///
    /// # Errors
    /// [`Error::Write`](crate::Error::Write) when not even the tokens are written.
    pub(crate) fn keep(
        &self,
        writer: Writer,
        (all, head): (&Collected, &Head),
        notes: &mut Vec<CacheNote>,
    ) -> crate::Result<Store> {
        // Files that changed while they were read are not those that were hashed.
        if !key::unchanged(&self.files) {
            notes.push(self.not_kept("a data file changed while it was read"));
            return writer.unnamed();
        }
        let paths: Vec<&Path> = self.files.iter().map(|file| file.path.as_path()).collect();
        let (store, kept) = writer.keep(&self.path, all, head, &paths)?;
        match kept {
            Ok(()) => self.make_room(),
            Err(error) => notes.push(self.not_kept(&error.to_string())),
        }
        Ok(store)
    }

    fn not_kept(&self, reason: &str) -> CacheNote {
        CacheNote::NotKept { path: self.path.clone(), reason: reason.to_owned() }
    }

    /// Removes what killed runs left half written. What cannot be removed now will be another time.
    fn tidy(&self) {
        for (path, _, used) in files_of(&self.cache.dir, PARTIAL) {
            if used.elapsed().is_ok_and(|age| age > ABANDONED) {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Removes entries but this one, those not used for longest first, while there is too much.
    fn make_room(&self) {
        let mut entries = files_of(&self.cache.dir, ENTRY);
        entries.sort_by_key(|(.., used)| *used);
        let mut bytes: u64 = entries.iter().map(|(_, bytes, _)| bytes).sum();
        for (path, size, _) in entries {
            if bytes > self.cache.limit && path != self.path && fs::remove_file(path).is_ok() {
                bytes -= size;
            }
        }
    }
}

/// Path, size and time of last use of the directory's files with this ending.
fn files_of(dir: &Path, ending: &str) -> Vec<(PathBuf, u64, SystemTime)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let entries = entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(ending));
    let known = entries.filter_map(|entry| {
        let metadata = entry.metadata().ok()?;
        Some((entry.path(), metadata.len(), metadata.modified().ok()?))
    });
    known.collect()
}
