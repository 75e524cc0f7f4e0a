//! Where the tokens of rows lie.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::entry::Entry;
use crate::encode::Example;
use crate::error::{Error, Result};

/// Token ids and labels of rows, as bytes.
#[derive(Debug)]
pub(crate) enum Store {
    Memory(Vec<u8>),
    File(TokenFile),
}

/// A file that begins with them.
#[derive(Debug)]
pub(crate) struct TokenFile {
    path: PathBuf,
    file: Mutex<File>,
}

impl TokenFile {
    pub(crate) fn new(path: PathBuf, file: File) -> Self {
        Self { path, file: Mutex::new(file) }
    }

    fn read(&self, start: u64, bytes: &mut [u8]) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(bytes)
    }
}

impl Store {
    /// The example of an entry.
    pub(crate) fn example(&self, entry: &Entry) -> Result<Example> {
        match self {
            Self::Memory(all) => {
                let start = entry.start as usize;
                Ok(entry.example(&all[start..start + entry.bytes()]))
            }
            Self::File(file) => {
                let mut bytes = vec![0; entry.bytes()];
                file.read(entry.start, &mut bytes)
                    .map_err(|source| Error::Read { path: file.path.clone(), source })?;
                Ok(entry.example(&bytes))
            }
        }
    }
}
