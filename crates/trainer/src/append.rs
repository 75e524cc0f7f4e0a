//! Files that only grow while a run goes on.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::progress::warn;

/// Appends whole records: what was measured stays when the run does not. A record that cannot be written, as on a
/// full disk, is kept and written with a later one; no run ends for it.
#[derive(Debug)]
pub(crate) struct Appender {
    path: PathBuf,
    file: File,
    /// Bytes of whole records in the file.
    written: u64,
    pending: Vec<u8>,
    /// Whether a failure was told already.
    told: bool,
}

impl Appender {
    /// Opens or makes a file, and goes on after as much of what it holds as `keep` says.
    pub(crate) fn open(path: &Path, keep: impl FnOnce(&[u8]) -> usize) -> Result<Self> {
        let at = || path.display().to_string();
        let text = match std::fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            text => text.with_context(at)?,
        };
        let file = File::options().create(true).append(true).open(path).with_context(at)?;
        let written = keep(&text) as u64;
        file.set_len(written).with_context(at)?;
        Ok(Self { path: path.to_owned(), file, written, pending: Vec::new(), told: false })
    }

    /// Adds a record.
    pub(crate) fn append(&mut self, record: &[u8]) {
        self.pending.extend_from_slice(record);
        match self.file.write_all(&self.pending) {
            Ok(()) => {
                self.written += self.pending.len() as u64;
                self.pending.clear();
                self.told = false;
            }
            Err(error) => {
                // Whatever part of a record got through; where this fails too, the reader stops there.
                let _ = self.file.set_len(self.written);
                if !self.told {
                    let path = self.path.display();
                    warn(&format!("{path}: {error}; its rows are kept and written later"));
                }
                self.told = true;
            }
        }
    }

    /// The file, to make its records durable.
    pub(crate) fn file(&self) -> Result<File> {
        self.file.try_clone().with_context(|| self.path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn records_wait_for_a_disk_that_is_full() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records");
        let mut appender = Appender::open(&path, <[u8]>::len).unwrap();
        appender.append(b"1 ");
        let full = File::options().write(true).open("/dev/full").unwrap();
        let file = std::mem::replace(&mut appender.file, full);
        appender.append(b"2 ");
        appender.append(b"3 ");
        assert_eq!(std::fs::read(&path).unwrap(), b"1 ");
        appender.file = file;
        appender.append(b"4 ");
        assert_eq!(std::fs::read(&path).unwrap(), b"1 2 3 4 ");
    }
}
