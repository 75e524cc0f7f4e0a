//! What can be wrong with a recipe.

use std::fmt;
use std::path::PathBuf;

/// Errors of recipes. `origin` is the file or the command-line option that the value comes from.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The file could not be read.
    #[error("{path}: {source}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason the system gave.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path}: {message}", path = .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The parser's words, with line and column.
        message: String,
    },
    /// An override is not `section.field=value`.
    #[error("{origin}: {message}")]
    Override {
        /// The option as typed.
        origin: String,
        /// What is wrong and what is expected.
        message: String,
    },
    /// A field that recipes do not have.
    #[error("{origin}: unknown field `{field}`{suggestion}")]
    Unknown {
        /// File or option.
        origin: String,
        /// The field, with its section.
        field: String,
        /// What may have been meant.
        suggestion: Suggestion,
    },
    /// A value of the wrong type or out of range.
    #[error("{origin}: `{field}`: {message}")]
    Value {
        /// File or option.
        origin: String,
        /// The field, with its section.
        field: String,
        /// The value found and what is allowed.
        message: String,
    },
}

impl RecipeError {
    /// Whether the command line, not a file, is at fault.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Read { .. } | Self::Syntax { .. } => false,
            Self::Override { .. } => true,
            Self::Unknown { origin, .. } | Self::Value { origin, .. } => origin.starts_with("--"),
        }
    }
}

/// The valid name nearest to an unknown one, or all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Suggestion {
    /// A name so near that it was probably meant.
    Nearest(String),
    /// No name is near; these are valid.
    OneOf(Vec<String>),
}

impl fmt::Display for Suggestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nearest(name) => write!(f, "; did you mean `{name}`?"),
            Self::OneOf(names) => write!(f, "; valid are {}", names.join(", ")),
        }
    }
}
