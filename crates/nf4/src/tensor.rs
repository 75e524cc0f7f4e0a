use std::borrow::Cow;

use crate::dequantize::dequantize_all;
use crate::{BLOCKSIZES, Element, Error, NestedAbsmax, QuantConfig, QuantType, SourceDtype};

/// The scales of a quantised weight.
#[derive(Clone, Debug, PartialEq)]
pub enum Absmax {
    /// One f32 per block.
    Plain(Vec<f32>),
    /// One 8-bit code per block (double quantisation).
    Nested(NestedAbsmax),
}

impl Absmax {
    /// Of the blocks of tensor `name`, quantised in turn if asked for. Errors when their mean then
    /// overflows.
    pub fn new(name: &str, absmax: Vec<f32>, double_quant: bool) -> Result<Self, Error> {
        if double_quant {
            return Ok(Self::Nested(NestedAbsmax::quantize(name, &absmax)?));
        }
        Ok(Self::Plain(absmax))
    }
}

/// What a [`QuantizedTensor`] is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Parts {
    /// The 4-bit code book.
    pub quant_type: QuantType,
    /// Elements per block.
    pub blocksize: usize,
    /// Dtype of the weight before quantisation.
    pub source_dtype: SourceDtype,
    /// Shape of the weight before quantisation.
    pub shape: Vec<usize>,
    /// Two codes per byte, the first in the high nibble; `numel.div_ceil(2)` bytes.
    pub packed: Vec<u8>,
    /// Scales of the `numel.div_ceil(blocksize)` blocks.
    pub absmax: Absmax,
}

/// A weight in 4-bit blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedTensor {
    parts: Parts,
    numel: usize,
}

impl QuantizedTensor {
    /// Puts a tensor together; `name` is used in errors only.
    ///
    /// Errors when the block size is not supported, a length does not fit the shape, or a scale is
    /// not finite.
    pub fn from_parts(name: &str, parts: Parts) -> Result<Self, Error> {
        let known = BLOCKSIZES.contains(&parts.blocksize);
        check_blocksize(name, "blocksize", parts.blocksize, known)?;
        let numel = numel(&parts.shape).ok_or_else(|| Error::Shape {
            name: name.to_owned(),
            shape: parts.shape.clone(),
            numel: parts.packed.len().saturating_mul(2),
        })?;
        check_shape(name, &parts.shape, numel)?;
        check_length(name, "packed", parts.packed.len(), numel.div_ceil(2))?;
        check_absmax(name, &parts.absmax, numel.div_ceil(parts.blocksize))?;
        Ok(Self::new_unchecked(parts))
    }

    /// A tensor of zeros in the layout that quantisation with `config` gives: to find out what it takes. Its memory
    /// is zeroed by the system when it is first read.
    ///
    /// Errors when `shape` or `config` cannot be quantised.
    pub fn zeros(name: &str, shape: &[usize], config: &QuantConfig) -> Result<Self, Error> {
        let numel = numel(shape).unwrap_or(0);
        config.check(name, shape, numel)?;
        let blocks = numel.div_ceil(config.blocksize);
        let absmax = if config.double_quant {
            Absmax::Nested(NestedAbsmax::zeros(blocks))
        } else {
            Absmax::Plain(vec![0.0; blocks])
        };
        Ok(Self::new_unchecked(Parts {
            quant_type: config.quant_type,
            blocksize: config.blocksize,
            source_dtype: SourceDtype::Bf16,
            shape: shape.to_vec(),
            packed: vec![0; numel.div_ceil(2)],
            absmax,
        }))
    }

    /// A tensor from parts that are known to fit each other.
    pub(crate) fn new_unchecked(parts: Parts) -> Self {
        let numel = parts.shape.iter().product();
        Self { parts, numel }
    }

    /// Gives the parts back.
    pub fn into_parts(self) -> Parts {
        self.parts
    }

    /// Two codes per byte, the first in the high nibble.
    pub fn packed(&self) -> &[u8] {
        &self.parts.packed
    }

    /// The scales as stored.
    pub fn absmax(&self) -> &Absmax {
        &self.parts.absmax
    }

    /// The 4-bit code book.
    pub fn quant_type(&self) -> QuantType {
        self.parts.quant_type
    }

    /// Elements per block.
    pub fn blocksize(&self) -> usize {
        self.parts.blocksize
    }

    /// Dtype of the weight before quantisation.
    pub fn source_dtype(&self) -> SourceDtype {
        self.parts.source_dtype
    }

    /// Shape of the weight.
    pub fn shape(&self) -> &[usize] {
        &self.parts.shape
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.numel
    }

    /// Bytes of the codes and scales; the 1 KiB nested map, equal for all tensors, is left out.
    pub fn bytes(&self) -> usize {
        let scales = match &self.parts.absmax {
            Absmax::Plain(absmax) => 4 * absmax.len(),
            Absmax::Nested(nested) => nested.codes.len() + 4 * nested.absmax.len() + 4,
        };
        self.parts.packed.len() + scales
    }

    /// The f32 scale of each block.
    pub fn restored_absmax(&self) -> Cow<'_, [f32]> {
        match &self.parts.absmax {
            Absmax::Plain(absmax) => Cow::Borrowed(absmax),
            Absmax::Nested(nested) => Cow::Owned(nested.restore()),
        }
    }

    /// The restored weight, each value rounded once to `T`.
    pub fn dequantize<T: Element>(&self) -> Vec<T> {
        let mut out = vec![T::from_f32(0.0); self.numel];
        self.dequantize_into(&mut out);
        out
    }

    /// Restores the weight into `out`, which must hold [`numel`](Self::numel) elements.
    pub fn dequantize_into<T: Element>(&self, out: &mut [T]) {
        assert_eq!(out.len(), self.numel, "one slot per element");
        let (absmax, parts) = (self.restored_absmax(), &self.parts);
        dequantize_all(&parts.packed, &absmax, parts.quant_type, parts.blocksize, out);
    }
}

/// Errors unless `shape` holds exactly `numel` elements, at least one.
pub(crate) fn check_shape(name: &str, shape: &[usize], actual: usize) -> Result<(), Error> {
    let (name, shape_owned) = (name.to_owned(), shape.to_vec());
    match numel(shape) {
        Some(0) => Err(Error::Empty { name, shape: shape_owned }),
        Some(numel) if numel == actual => Ok(()),
        _ => Err(Error::Shape { name, shape: shape_owned, numel: actual }),
    }
}

/// Number of elements of a shape, unless it overflows.
fn numel(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |n, d| n.checked_mul(*d))
}

fn check_absmax(name: &str, absmax: &Absmax, blocks: usize) -> Result<(), Error> {
    match absmax {
        Absmax::Plain(absmax) => {
            check_length(name, "absmax", absmax.len(), blocks)?;
            check_finite(name, "absmax", absmax)
        }
        Absmax::Nested(nested) => {
            let blocksize = nested.blocksize;
            check_blocksize(name, "nested_blocksize", blocksize, blocksize > 0)?;
            let groups = blocks.div_ceil(blocksize);
            check_length(name, "absmax", nested.codes.len(), blocks)?;
            check_length(name, "nested_absmax", nested.absmax.len(), groups)?;
            check_finite(name, "nested_absmax", &nested.absmax)?;
            check_finite(name, "nested_quant_map", nested.map.as_slice())?;
            check_finite(name, "nested_offset", &[nested.offset])
        }
    }
}

fn check_blocksize(
    name: &str,
    part: &'static str,
    blocksize: usize,
    valid: bool,
) -> Result<(), Error> {
    if valid {
        return Ok(());
    }
    Err(Error::PartBlocksize { name: name.to_owned(), part, blocksize })
}

fn check_length(
    name: &str,
    part: &'static str,
    actual: usize,
    expected: usize,
) -> Result<(), Error> {
    if actual == expected {
        return Ok(());
    }
    Err(Error::Length { name: name.to_owned(), part, expected, actual })
}

fn check_finite(name: &str, part: &'static str, values: &[f32]) -> Result<(), Error> {
    if values.iter().all(|x| x.is_finite()) {
        return Ok(());
    }
    let name = name.to_owned();
    Err(Error::NonFinitePart { name, part })
}
