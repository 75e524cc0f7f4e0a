//! Read-only file mappings.

use std::{
    fs::File,
    ops::Deref,
    path::{Path, PathBuf},
};

use crate::{Error, Result};

/// A whole file mapped into memory; pages are read when touched and dropped by the system under pressure.
pub(crate) struct MappedFile {
    path: PathBuf,
    map: memmap2::Mmap,
}

impl MappedFile {
    /// Maps `path` for reading.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be opened or mapped, also when it is a directory.
    #[expect(unsafe_code, reason = "mapping a file is inherently subject to other processes")]
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        // SAFETY: the mapping is private and read-only, and this process never writes a file that it has mapped
        // (outputs are written beside and renamed). The user upholds that no other program truncates or rewrites
        // a checkpoint while it is in use; every format reader treats the bytes as untrusted.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(path))?;
        Ok(Self { path: path.to_owned(), map })
    }

    /// Takes the pages of `bytes`, a part of this file, out of the process's memory: they are read again when touched.
    /// What is no part of it is left alone.
    #[cfg_attr(unix, expect(unsafe_code, reason = "dropping pages of a mapping is"))]
    pub(crate) fn release(&self, bytes: &[u8]) {
        let offset = (bytes.as_ptr() as usize).wrapping_sub(self.map.as_ptr() as usize);
        if offset >= self.map.len() || bytes.len() > self.map.len() - offset {
            return;
        }
        #[cfg(unix)]
        {
            // Only memory depends on it.
            // SAFETY: the mapping is read-only, so no page has anything to lose: its content is the file's.
            let _ = unsafe {
                self.map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    offset,
                    bytes.len(),
                )
            };
        }
    }

    /// The file's path as it was given.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}
