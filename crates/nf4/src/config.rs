use crate::tensor::check_shape;
use crate::{Error, QuantType};

/// The block sizes bitsandbytes accepts.
pub const BLOCKSIZES: [usize; 8] = [32, 64, 128, 256, 512, 1024, 2048, 4096];

/// How a weight is quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantConfig {
    /// The 4-bit code book.
    pub quant_type: QuantType,
    /// Elements that share one `absmax`; one of [`BLOCKSIZES`].
    pub blocksize: usize,
    /// Whether the `absmax` values are quantised to 8 bits too.
    pub double_quant: bool,
}

impl QuantConfig {
    /// A checked configuration. Errors when `blocksize` is not in [`BLOCKSIZES`].
    pub fn new(quant_type: QuantType, blocksize: usize, double_quant: bool) -> Result<Self, Error> {
        check_blocksize(blocksize)?;
        Ok(Self { quant_type, blocksize, double_quant })
    }

    /// Errors when the block size is not in [`BLOCKSIZES`], or `shape` does not hold `numel` elements,
    /// at least one; `name` is used in errors only.
    pub fn check(&self, name: &str, shape: &[usize], numel: usize) -> Result<(), Error> {
        check_blocksize(self.blocksize)?;
        check_shape(name, shape, numel)
    }
}

impl Default for QuantConfig {
    /// QLoRA's choice: NF4, blocks of 64, double quantisation.
    fn default() -> Self {
        Self { quant_type: QuantType::Nf4, blocksize: 64, double_quant: true }
    }
}

fn check_blocksize(blocksize: usize) -> Result<(), Error> {
    if BLOCKSIZES.contains(&blocksize) { Ok(()) } else { Err(Error::Blocksize { blocksize }) }
}
