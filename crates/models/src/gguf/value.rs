//! Metadata values of a GGUF file.

use std::ops::Range;

/// One metadata value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// `uint8` to `uint64`.
    Uint(u64),
    /// `int8` to `int64`.
    Int(i64),
    /// `float32` and `float64`; the widening is exact.
    Float(f64),
    /// `bool`.
    Bool(bool),
    /// `string`.
    String(String),
    /// An array, left in the file until it is asked for: a vocabulary can be as large as the rest of the header.
    Array(Array),
}

/// Where an array lies and what it holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Array {
    pub(crate) element: ValueType,
    pub(crate) len: usize,
    /// Byte range in the file, checked against its size.
    pub(crate) range: Range<usize>,
}

/// `enum gguf_type` of gguf.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    pub(crate) fn from_id(id: u32) -> Option<Self> {
        Some(match id {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            8 => Self::String,
            9 => Self::Array,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    /// Fewest bytes a value of this type takes in the file.
    pub(crate) fn min_bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::String => 8,
            Self::Array => 12,
        }
    }
}

impl Value {
    /// The kind of value, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Uint(_) | Self::Int(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Bool(_) => "a boolean",
            Self::String(_) => "a string",
            Self::Array(_) => "an array",
        }
    }
}
