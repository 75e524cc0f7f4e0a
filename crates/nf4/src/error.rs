use thiserror::Error;

/// Everything that can go wrong when quantising or when reading quantised tensors.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The block size to quantise with is not one bitsandbytes knows.
    #[error("blocksize {blocksize} is not supported; use one of {:?}", crate::BLOCKSIZES)]
    Blocksize {
        /// The value that was asked for.
        blocksize: usize,
    },
    /// A quantised tensor has blocks of a size that there is not.
    #[error(
        "tensor `{name}`: {part} {blocksize} is not one bitsandbytes writes; the checkpoint is damaged"
    )]
    PartBlocksize {
        /// Name of the tensor.
        name: String,
        /// Which blocks: `blocksize`, or `nested_blocksize` for those of the scales.
        part: &'static str,
        /// The size found.
        blocksize: usize,
    },
    /// The shape's product is not the number of elements given.
    #[error("tensor `{name}`: shape {shape:?} does not hold {numel} elements")]
    Shape {
        /// Name of the tensor.
        name: String,
        /// The shape that was given.
        shape: Vec<usize>,
        /// Number of elements in the data.
        numel: usize,
    },
    /// There is nothing to quantise.
    #[error("tensor `{name}` has no elements (shape {shape:?})")]
    Empty {
        /// Name of the tensor.
        name: String,
        /// The shape that was given.
        shape: Vec<usize>,
    },
    /// A weight is NaN or infinite, which no block scale can represent.
    #[error("tensor `{name}`: element {index} (flat index) is {value}; weights must be finite")]
    NonFinite {
        /// Name of the tensor.
        name: String,
        /// Flat row-major index of the first such element.
        index: usize,
        /// The value found there.
        value: f32,
    },
    /// The block maxima are so large that their sum is not a finite f32.
    #[error(
        "tensor `{name}`: the mean of its block maxima overflows f32; turn double quantisation off"
    )]
    OffsetOverflow {
        /// Name of the tensor.
        name: String,
    },
    /// A part of a quantised tensor has the wrong length.
    #[error("tensor `{name}`: {part} has length {actual}, expected {expected}")]
    Length {
        /// Name of the tensor.
        name: String,
        /// Which part: packed codes, absmax, ...
        part: &'static str,
        /// Length that shape and block size call for.
        expected: usize,
        /// Length found.
        actual: usize,
    },
    /// A scale read from elsewhere is NaN or infinite.
    #[error("tensor `{name}`: {part} holds a value that is not finite; the checkpoint is damaged")]
    NonFinitePart {
        /// Name of the tensor.
        name: String,
        /// Which part: absmax, nested absmax, offset, map.
        part: &'static str,
    },
    /// A key that the bitsandbytes format needs is not there.
    #[error("key `{key}` is missing; is this a bitsandbytes 4-bit checkpoint?")]
    MissingKey {
        /// The full key.
        key: String,
    },
    /// A tensor of the quant state has the wrong dtype.
    #[error("key `{key}` has dtype {actual}, expected {expected}")]
    Dtype {
        /// The full key.
        key: String,
        /// The dtype the format calls for.
        expected: &'static str,
        /// The dtype found.
        actual: &'static str,
    },
    /// The JSON of the quant state cannot be read.
    #[error("key `{key}`: the quant state is not the JSON that bitsandbytes writes")]
    StateJson {
        /// The full key.
        key: String,
        /// What the JSON reader said.
        source: serde_json::Error,
    },
    /// The quant state says something this crate cannot honour.
    #[error("key `{key}`: {message}")]
    State {
        /// The full key.
        key: String,
        /// What is wrong and what was expected.
        message: String,
    },
}
