//! A tensor in host memory, as a weight file gives it.

use std::{borrow::Cow, path::Path};

use half::{bf16, f16};
use nf4::QuantizedTensor;

use crate::{Error, Result};

/// A row-major tensor in host memory.
#[derive(Clone, Debug)]
pub struct HostTensor<'a> {
    /// Logical shape; the product is the number of elements.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: HostData<'a>,
}

/// Elements in the precision of the file.
#[derive(Clone, Debug)]
pub enum HostData<'a> {
    /// 32-bit floats.
    F32(Cow<'a, [f32]>),
    /// Brain floats.
    Bf16(Cow<'a, [bf16]>),
    /// IEEE half floats.
    F16(Cow<'a, [f16]>),
    /// A bitsandbytes 4-bit weight.
    Quantized(QuantizedTensor),
}

impl HostTensor<'_> {
    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// The elements as f32: widened (exact) from 16 bit, dequantized from 4 bit.
    pub fn to_f32(&self) -> Cow<'_, [f32]> {
        match &self.data {
            HostData::F32(x) => Cow::Borrowed(x),
            HostData::Bf16(x) => x.iter().map(|v| v.to_f32()).collect(),
            HostData::F16(x) => x.iter().map(|v| v.to_f32()).collect(),
            HostData::Quantized(x) => Cow::Owned(x.dequantize()),
        }
    }

    /// Passes the tensor on when it has this shape; `path` and `name` are for the message.
    pub fn expect_shape(self, path: &Path, name: &str, shape: &[usize]) -> Result<Self> {
        if self.shape == shape {
            return Ok(self);
        }
        Err(Error::wrong_shape(path, name, &self.shape, shape))
    }
}
