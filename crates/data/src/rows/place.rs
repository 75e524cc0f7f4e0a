//! Where a row came from.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a file is counted in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unit {
    /// Lines of text.
    #[default]
    Line,
    /// Entries of a JSON list or of a table.
    Row,
}

/// A file and a line of it, as every message about a row names them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    file: Arc<PathBuf>,
    unit: Unit,
    /// The line or row, counted from 1.
    pub number: usize,
}

impl Place {
    /// Line or row `number` of `file`, counted from 1.
    pub fn new(file: &Arc<PathBuf>, unit: Unit, number: usize) -> Self {
        Self { file: Arc::clone(file), unit, number }
    }

    pub(crate) fn source(&self) -> (&Arc<PathBuf>, Unit) {
        (&self.file, self.unit)
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Line => "line",
            Unit::Row => "row",
        };
        write!(f, "{}, {unit} {}", self.file.display(), self.number)
    }
}
