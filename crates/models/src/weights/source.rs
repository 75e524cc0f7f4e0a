//! The trait every weight format implements.

use std::{fmt, path::Path};

use crate::{HostTensor, Result};

/// How the elements of a stored tensor are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageType {
    /// 32-bit IEEE floats.
    F32,
    /// 16-bit brain floats.
    Bf16,
    /// 16-bit IEEE floats.
    F16,
    /// NF4 blocks with a bitsandbytes quantization state.
    Nf4,
    /// FP4 blocks with a bitsandbytes quantization state.
    Fp4,
    /// A GGUF block format, by its ggml name (`"Q4_K"`); readers hand it out decoded.
    Ggml(&'static str),
    /// A type that is listed but cannot be read as a weight (`"I64"`).
    Other(&'static str),
}

impl fmt::Display for StorageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
            Self::Nf4 => "NF4",
            Self::Fp4 => "FP4",
            Self::Ggml(name) | Self::Other(name) => name,
        })
    }
}

/// Type, shape and size of one stored tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Encoding in the file.
    pub storage: StorageType,
    /// Logical shape, row-major, Hugging Face order (`[out, in]` for a linear weight);
    /// for 4-bit weights the shape before packing.
    pub shape: Vec<usize>,
    /// Bytes in the file, quantization state included.
    pub bytes: u64,
}

impl TensorInfo {
    /// Number of logical elements; saturates on absurd shapes.
    pub fn numel(&self) -> usize {
        self.shape.iter().fold(1, |n, d| n.saturating_mul(*d))
    }
}

/// Named tensors of one checkpoint, under their Hugging Face names
/// (`model.layers.0.self_attn.q_proj.weight`), whatever the file format calls them.
///
/// Nothing is decoded before [`read`](Self::read), and nothing read is kept: the caller decides what stays in memory.
pub trait TensorSource: Send + Sync {
    /// The file or directory, for messages.
    fn path(&self) -> &Path;

    /// The file that holds a tensor, for messages.
    fn file(&self, _name: &str) -> &Path {
        self.path()
    }

    /// All tensor names, sorted. A 4-bit weight is one name; the tensors of its quantization state are not listed.
    fn names(&self) -> Vec<&str>;

    /// Metadata of a tensor, or `None` when there is no such tensor.
    fn info(&self, name: &str) -> Option<TensorInfo>;

    /// Reads one tensor: borrowed from the file mapping where the encoding allows it, decoded otherwise.
    ///
    /// # Errors
    /// [`Error::Tensor`](crate::Error::Tensor) when the tensor does not exist (the message has the nearest name)
    /// or its contents are damaged.
    fn read(&self, name: &str) -> Result<HostTensor<'_>>;

    /// Takes what reading a tensor left in memory out of it, where that is a mapping of a file. Reading it again is
    /// as before.
    fn release(&self, _name: &str) {}

    /// The same of all tensors, and of what was read beside them.
    fn release_all(&self) {}

    /// [`read`](Self::read), and checks the shape.
    ///
    /// # Errors
    /// Those of `read`, and [`Error::Tensor`](crate::Error::Tensor) with both shapes.
    fn read_shaped(&self, name: &str, shape: &[usize]) -> Result<HostTensor<'_>> {
        self.read(name)?.expect_shape(self.path(), name, shape)
    }
}
