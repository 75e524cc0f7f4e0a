//! Where the program keeps what it can make again.

use std::env;
use std::path::{Path, PathBuf};

/// `$XDG_CACHE_HOME/qlora-train`, by default `~/.cache/qlora-train`; `None` where neither that nor `HOME` is set.
pub(crate) fn dir() -> Option<PathBuf> {
    let home = || env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)?;
    Some(cache.join("qlora-train"))
}
