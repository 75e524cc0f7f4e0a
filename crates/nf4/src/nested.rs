use crate::Error;
use crate::dynamic8::{self, Rounding};
use crate::torch_sum::sum;

/// Absmax values that share one nested scale.
const NESTED_BLOCKSIZE: usize = 256;

/// The `absmax` values of a weight, quantised to 8 bits around their mean (double quantisation).
#[derive(Clone, Debug, PartialEq)]
pub struct NestedAbsmax {
    /// One code per block of the weight.
    pub codes: Vec<u8>,
    /// One scale per `blocksize` codes.
    pub absmax: Vec<f32>,
    /// The mean that was taken off before quantising.
    pub offset: f32,
    /// Codes that share one scale; bitsandbytes writes 256.
    pub blocksize: usize,
    /// Value of each code; [`dynamic8::map`] unless a checkpoint says otherwise.
    pub map: Box<[f32; 256]>,
}

impl NestedAbsmax {
    /// Quantises the absmax values of tensor `name`, rounding as bitsandbytes' CPU backend does.
    pub(crate) fn quantize(name: &str, absmax: &[f32]) -> Result<Self, Error> {
        let offset = sum(absmax) / absmax.len() as f32;
        if !offset.is_finite() {
            let name = name.to_owned();
            return Err(Error::OffsetOverflow { name });
        }
        let centred: Vec<f32> = absmax.iter().map(|x| x - offset).collect();
        let quantized = dynamic8::quantize(&centred, NESTED_BLOCKSIZE, Rounding::Table);
        Ok(Self {
            codes: quantized.codes,
            absmax: quantized.absmax,
            offset,
            blocksize: NESTED_BLOCKSIZE,
            map: Box::new(*dynamic8::map()),
        })
    }

    /// Zeros in the layout of the absmax of `blocks` blocks.
    pub(crate) fn zeros(blocks: usize) -> Self {
        Self {
            codes: vec![0; blocks],
            absmax: vec![0.0; blocks.div_ceil(NESTED_BLOCKSIZE)],
            offset: 0.0,
            blocksize: NESTED_BLOCKSIZE,
            map: Box::new(*dynamic8::map()),
        }
    }

    /// The f32 absmax of each block: `map[code] * absmax + offset`, each step rounded.
    pub fn restore(&self) -> Vec<f32> {
        let mut restored = Vec::with_capacity(self.codes.len());
        for (codes, absmax) in self.codes.chunks(self.blocksize).zip(&self.absmax) {
            let value = |code: &u8| self.map[*code as usize] * absmax + self.offset;
            restored.extend(codes.iter().map(value));
        }
        restored
    }
}
