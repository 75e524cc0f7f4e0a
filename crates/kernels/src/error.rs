//! What can go wrong in an operation.

use crate::{DType, MemoryKind};

/// Result of a backend operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Errors of the numeric operations. Shapes are in elements.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A buffer does not have the length that the operation's shape asks for.
    #[error("{op}: `{operand}` has {actual} elements, the shape asks for {expected}")]
    Length {
        /// Operation.
        op: &'static str,
        /// Name of the operand in the operation's signature.
        operand: &'static str,
        /// Elements the shape asks for.
        expected: usize,
        /// Elements the buffer has.
        actual: usize,
    },
    /// A buffer has an element type that the operation does not take there.
    #[error("{op}: `{operand}` is {actual}, which this operation does not take")]
    DType {
        /// Operation.
        op: &'static str,
        /// Name of the operand.
        operand: &'static str,
        /// Its element type.
        actual: DType,
    },
    /// An index points outside its table.
    #[error("{op}: index {index} at position {position} is outside a table of {len} rows")]
    Index {
        /// Operation.
        op: &'static str,
        /// The index.
        index: usize,
        /// Where in the index buffer it stands.
        position: usize,
        /// Rows of the table.
        len: usize,
    },
    /// The device has no room for a buffer.
    #[error("out of memory: {bytes} bytes for {kind:?} cannot be allocated{}", held_by(held))]
    OutOfMemory {
        /// What the buffer is for.
        kind: MemoryKind,
        /// Bytes asked for.
        bytes: usize,
        /// Bytes that the backend's buffers held, by what they are for.
        held: Vec<(MemoryKind, usize)>,
    },
    /// The device or its driver refused something.
    #[error("{what}: {message}")]
    Device {
        /// What was asked of it.
        what: String,
        /// The driver's answer, or what is missing.
        message: String,
    },
    /// The environment asks the CPU backend for a level that there is not, or not on this processor.
    #[error("{}", crate::cpu::unusable(asked))]
    Level {
        /// What it asks for.
        asked: String,
    },
    /// A weight cannot be quantised.
    #[error(transparent)]
    Quantize(#[from] nf4::Error),
    /// A parameter has a value with no meaning for the operation.
    #[error("{op}: {what}")]
    Parameter {
        /// Operation.
        op: &'static str,
        /// What is wrong.
        what: String,
    },
}

fn held_by(held: &[(MemoryKind, usize)]) -> String {
    let kinds: Vec<String> = held
        .iter()
        .filter(|(_, bytes)| *bytes > 0)
        .map(|(kind, bytes)| format!("{kind:?} {:.1} MB", *bytes as f64 / 1e6))
        .collect();
    if kinds.is_empty() { String::new() } else { format!("; held are {}", kinds.join(", ")) }
}
