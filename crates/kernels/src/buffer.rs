//! Element types, host slices, and what every backend's buffer can say of itself.

use half::bf16;

/// Element type of a [`Buffer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// bfloat16: f32 with a 7-bit mantissa.
    Bf16,
    /// Unsigned 32-bit: token ids, positions, sequence bounds.
    U32,
    /// Unsigned 8-bit: codes of optimizer state.
    U8,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::Bf16 => 2,
            Self::U8 => 1,
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::U32 => "u32",
            Self::U8 => "u8",
        })
    }
}

/// Host data to upload; the buffer made from it has the same element type.
#[derive(Debug, Clone, Copy)]
pub enum HostSlice<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// bfloat16.
    Bf16(&'a [bf16]),
    /// Ids, positions, bounds.
    U32(&'a [u32]),
    /// Codes.
    U8(&'a [u8]),
}

impl HostSlice<'_> {
    /// Number of elements.
    pub const fn len(&self) -> usize {
        match self {
            Self::F32(x) => x.len(),
            Self::Bf16(x) => x.len(),
            Self::U32(x) => x.len(),
            Self::U8(x) => x.len(),
        }
    }

    /// Whether there are no elements.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element type.
    pub const fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::Bf16(_) => DType::Bf16,
            Self::U32(_) => DType::U32,
            Self::U8(_) => DType::U8,
        }
    }
}

/// Flat typed storage in a backend's memory, freed (or given back to the backend's pool) on drop.
pub trait Buffer: Send + Sync + std::fmt::Debug {
    /// Element type.
    fn dtype(&self) -> DType;
    /// Number of elements.
    fn len(&self) -> usize;
    /// Whether there are no elements.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Bytes held.
    fn bytes(&self) -> usize {
        self.len() * self.dtype().size()
    }
}
