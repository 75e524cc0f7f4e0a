//! Files of settings, which are read whole.

use std::{fs, path::Path};

use crate::{Error, Result};

/// Far above any file of settings there is; a shard index of thousands of experts has some ten million bytes.
const MOST_BYTES: u64 = 64 << 20;

/// Reads a text file. What is no file, like a device that a link leads to, may have no end.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, [`Error::Format`] when it is no file or has more than 64 MiB.
pub(crate) fn read(path: &Path) -> Result<String> {
    check(path, MOST_BYTES)?;
    fs::read_to_string(path).map_err(Error::io(path))
}

/// [`read`], or `None` when there is no such file.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<String>> {
    match read(path) {
        Ok(text) => Ok(Some(text)),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Refuses what is no file, and a file of more than `most` bytes.
pub(crate) fn check(path: &Path, most: u64) -> Result<()> {
    let metadata = fs::metadata(path).map_err(Error::io(path))?;
    if !metadata.is_file() {
        return Err(Error::format(path, "is not a file"));
    }
    if metadata.len() > most {
        let message = format!("has {} bytes, too many for what it is named", metadata.len());
        return Err(Error::format(path, message));
    }
    Ok(())
}
