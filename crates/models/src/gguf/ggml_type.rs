//! The tensor types of ggml: numbers, block sizes and names.

use crate::StorageType;

/// One ggml tensor type: elements are stored in blocks of a fixed number of elements and bytes.
///
/// Source: `enum ggml_type` in ggml.h and `GGML_QUANT_SIZES` of gguf-py.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GgmlType {
    id: u32,
    /// ggml's name.
    pub(crate) name: &'static str,
    /// Elements in a block.
    pub(crate) block: usize,
    /// Bytes of a block.
    pub(crate) block_bytes: usize,
    /// How to decode it; `None` for types that are only recognised.
    pub(crate) encoding: Option<Encoding>,
}

/// The types that can be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

impl GgmlType {
    /// The type with number `id` in a GGUF file.
    pub(crate) fn from_id(id: u32) -> Option<Self> {
        TYPES.iter().find(|ty| ty.id == id).copied()
    }

    /// The type as the weight readers report it.
    pub(crate) fn storage(self) -> StorageType {
        match self.encoding {
            Some(Encoding::F32) => StorageType::F32,
            Some(Encoding::F16) => StorageType::F16,
            Some(Encoding::Bf16) => StorageType::Bf16,
            Some(_) => StorageType::Ggml(self.name),
            None => StorageType::Other(self.name),
        }
    }

    /// Names of the types that can be decoded, for messages.
    pub(crate) fn supported_names() -> String {
        let names: Vec<_> = TYPES.iter().filter(|ty| ty.encoding.is_some()).collect();
        names.iter().map(|ty| ty.name).collect::<Vec<_>>().join(", ")
    }
}

const fn plain(id: u32, name: &'static str, bytes: usize) -> GgmlType {
    unread(id, name, 1, bytes)
}

const fn unread(id: u32, name: &'static str, block: usize, block_bytes: usize) -> GgmlType {
    GgmlType { id, name, block, block_bytes, encoding: None }
}

const fn read(
    id: u32,
    name: &'static str,
    block: usize,
    block_bytes: usize,
    encoding: Encoding,
) -> GgmlType {
    GgmlType { id, name, block, block_bytes, encoding: Some(encoding) }
}

/// Every type a current GGUF file can name. Missing numbers were removed from the format.
const TYPES: &[GgmlType] = &[
    read(0, "F32", 1, 4, Encoding::F32),
    read(1, "F16", 1, 2, Encoding::F16),
    read(2, "Q4_0", 32, 18, Encoding::Q4_0),
    read(3, "Q4_1", 32, 20, Encoding::Q4_1),
    read(6, "Q5_0", 32, 22, Encoding::Q5_0),
    read(7, "Q5_1", 32, 24, Encoding::Q5_1),
    read(8, "Q8_0", 32, 34, Encoding::Q8_0),
    unread(9, "Q8_1", 32, 40),
    unread(10, "Q2_K", 256, 84),
    unread(11, "Q3_K", 256, 110),
    read(12, "Q4_K", 256, 144, Encoding::Q4K),
    read(13, "Q5_K", 256, 176, Encoding::Q5K),
    read(14, "Q6_K", 256, 210, Encoding::Q6K),
    unread(15, "Q8_K", 256, 292),
    unread(16, "IQ2_XXS", 256, 66),
    unread(17, "IQ2_XS", 256, 74),
    unread(18, "IQ3_XXS", 256, 98),
    unread(19, "IQ1_S", 256, 50),
    unread(20, "IQ4_NL", 32, 18),
    unread(21, "IQ3_S", 256, 110),
    unread(22, "IQ2_S", 256, 82),
    unread(23, "IQ4_XS", 256, 136),
    plain(24, "I8", 1),
    plain(25, "I16", 2),
    plain(26, "I32", 4),
    plain(27, "I64", 8),
    plain(28, "F64", 8),
    unread(29, "IQ1_M", 256, 56),
    read(30, "BF16", 1, 2, Encoding::Bf16),
    unread(34, "TQ1_0", 256, 54),
    unread(35, "TQ2_0", 256, 66),
    unread(39, "MXFP4", 32, 17),
    unread(40, "NVFP4", 64, 36),
    unread(41, "Q1_0", 128, 18),
];
