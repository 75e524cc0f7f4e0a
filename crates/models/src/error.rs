//! The error type of the crate.

use std::path::{Path, PathBuf};

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong while reading or writing models and adapters.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be read or written.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The reason the system gave.
        source: std::io::Error,
    },
    /// A file is not what its format asks for (bad JSON, truncated or damaged contents).
    #[error("{path}: {message}", path = .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong and, where known, at which position.
        message: String,
    },
    /// A field of a configuration file is missing, contradictory or asks for something unsupported.
    #[error("{path}: field `{field}`: {message}", path = .path.display())]
    Field {
        /// The configuration file.
        path: PathBuf,
        /// The field, dotted when nested.
        field: String,
        /// The value found and what is supported.
        message: String,
    },
    /// A tensor is missing, has the wrong shape or type, or is not expected.
    #[error("{path}: tensor `{name}`: {message}", path = .path.display())]
    Tensor {
        /// The checkpoint or adapter.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// What is wrong with it.
        message: String,
    },
    /// A weight is NaN or infinite.
    #[error(
        "{path}: tensor `{name}`: element {index} (flat index) is {value}; weights must be finite: the file is damaged, \
         or what wrote it had diverged",
        path = .path.display()
    )]
    NotFinite {
        /// The weight file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// Row-major index of the first such element.
        index: usize,
        /// The element.
        value: f32,
    },
    /// A 4-bit weight could not be quantized or put together from its parts.
    #[error("{path}: {source}", path = .path.display())]
    Quantization {
        /// The checkpoint.
        path: PathBuf,
        /// The reason, with the tensor's name.
        source: nf4::Error,
    },
    /// A text or ids that the tokenizer cannot take.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// LoRA settings that no model or this model cannot satisfy.
    #[error("LoRA: {0}")]
    Lora(String),
    /// Tokens that the model cannot take.
    #[error("{0}")]
    Input(String),
    /// The forward or backward pass failed.
    #[error(transparent)]
    Autograd(#[from] autograd::Error),
    /// An operation of the backend failed.
    #[error(transparent)]
    Kernel(#[from] kernels::Error),
}

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn quantization(path: &Path) -> impl FnOnce(nf4::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Quantization { path, source }
    }

    pub(crate) fn wrong_shape(
        path: &Path,
        name: &str,
        found: &[usize],
        expected: &[usize],
    ) -> Self {
        Self::tensor(path, name, format!("has shape {found:?}, expected {expected:?}"))
    }

    /// An error of the `tokenizers` crate.
    #[expect(clippy::needless_pass_by_value, reason = "an argument of map_err")]
    pub(crate) fn tokenizer(source: tokenizers::Error) -> Self {
        Self::Tokenizer(source.to_string())
    }

    pub(crate) fn format(path: &Path, message: impl Into<String>) -> Self {
        Self::Format { path: path.to_owned(), message: short(message.into()) }
    }

    pub(crate) fn field(path: &Path, field: impl Into<String>, message: impl Into<String>) -> Self {
        let (field, message) = (short(field.into()), short(message.into()));
        Self::Field { path: path.to_owned(), field, message }
    }

    pub(crate) fn tensor(path: &Path, name: impl Into<String>, message: impl Into<String>) -> Self {
        let (name, message) = (short(name.into()), short(message.into()));
        Self::Tensor { path: path.to_owned(), name, message }
    }
}

/// A text as it is, or without its middle: what a file from elsewhere calls things may have megabytes.
fn short(text: String) -> String {
    const MOST: usize = 1000;
    const KEPT: usize = 400;
    if text.len() <= MOST {
        return text;
    }
    let (start, end) = (text.floor_char_boundary(KEPT), text.ceil_char_boundary(text.len() - KEPT));
    format!("{} ... {}", &text[..start], &text[end..])
}
