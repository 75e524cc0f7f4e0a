//! A tensor in host memory, as a weight file gives it.

use std::borrow::Cow;

use half::{bf16, f16};

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
}

impl HostTensor<'_> {
    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// The elements widened to f32 (exact for both 16-bit types).
    pub fn to_f32(&self) -> Cow<'_, [f32]> {
        match &self.data {
            HostData::F32(x) => Cow::Borrowed(x),
            HostData::Bf16(x) => x.iter().map(|v| v.to_f32()).collect(),
            HostData::F16(x) => x.iter().map(|v| v.to_f32()).collect(),
        }
    }
}
