#![expect(
    clippy::inline_always,
    reason = "only inlined code is compiled for the vector width that is picked at run time"
)]

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use pulp::{Arch, Simd, WithSimd};
use serde::{Deserialize, Serialize};

use crate::{Error, QuantConfig, QuantizedTensor, quantize};

/// Elements converted at a time; they stay in the L1 cache.
const BUFFER: usize = 1024;

/// The dtype a weight had before quantisation, named as in a quant state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SourceDtype {
    /// IEEE single precision.
    #[serde(rename = "float32")]
    F32,
    /// bfloat16.
    #[serde(rename = "bfloat16")]
    Bf16,
    /// IEEE half precision.
    #[serde(rename = "float16")]
    F16,
}

impl SourceDtype {
    /// torch's name: `float32`, `bfloat16` or `float16`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }
}

/// A float that weights come in or are restored to.
pub trait Element: Copy + Send + Sync + 'static {
    /// The dtype's name in a quant state.
    const DTYPE: SourceDtype;

    /// The value as f32, exactly.
    fn to_f32(self) -> f32;

    /// The nearest value to `x`, ties to even.
    fn from_f32(x: f32) -> Self;

    /// `data` as f32, written to the front of `buffer` unless it is f32 already.
    ///
    /// `buffer` must be at least as long as `data`.
    fn as_f32<'a>(data: &'a [Self], buffer: &'a mut [f32]) -> &'a [f32] {
        let buffer = &mut buffer[..data.len()];
        for (to, from) in buffer.iter_mut().zip(data) {
            *to = from.to_f32();
        }
        buffer
    }

    /// Writes `data`, rounded to the nearest, to `out` of the same length.
    fn write_f32(data: &[f32], out: &mut [Self]) {
        for (to, from) in out.iter_mut().zip(data) {
            *to = Self::from_f32(*from);
        }
    }

    /// The bits of elements of 16 bits; nothing for others.
    fn as_words(_: &mut [Self]) -> Option<&mut [u16]> {
        None
    }

    /// Fills `out` with rounded f32 values: `produce(start, values)` is to write those from `start` on.
    fn fill(out: &mut [Self], mut produce: impl FnMut(usize, &mut [f32])) {
        let mut buffer = [0.0; BUFFER];
        for (i, out) in out.chunks_mut(BUFFER).enumerate() {
            let buffer = &mut buffer[..out.len()];
            produce(i * BUFFER, buffer);
            Self::write_f32(buffer, out);
        }
    }
}

/// Elements of a weight that is to be quantised, as they come.
#[derive(Clone, Copy, Debug)]
pub enum Elements<'a> {
    /// IEEE single precision.
    F32(&'a [f32]),
    /// bfloat16.
    Bf16(&'a [bf16]),
    /// IEEE half precision.
    F16(&'a [f16]),
}

impl Elements<'_> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(data) => data.len(),
            Self::Bf16(data) => data.len(),
            Self::F16(data) => data.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// [`quantize`] of the elements.
    pub fn quantize(
        &self,
        name: &str,
        shape: &[usize],
        config: &QuantConfig,
    ) -> Result<QuantizedTensor, Error> {
        match self {
            Self::F32(data) => quantize(name, data, shape, config),
            Self::Bf16(data) => quantize(name, data, shape, config),
            Self::F16(data) => quantize(name, data, shape, config),
        }
    }
}

impl Element for f32 {
    const DTYPE: SourceDtype = SourceDtype::F32;

    fn to_f32(self) -> f32 {
        self
    }

    fn from_f32(x: f32) -> Self {
        x
    }

    fn as_f32<'a>(data: &'a [Self], _: &'a mut [f32]) -> &'a [f32] {
        data
    }

    fn fill(out: &mut [Self], mut produce: impl FnMut(usize, &mut [f32])) {
        produce(0, out);
    }
}

impl Element for bf16 {
    const DTYPE: SourceDtype = SourceDtype::Bf16;

    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    // Branch-free, so that loops over slices vectorise; `bf16::from_f32` does not.
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        let bits = x.to_bits();
        let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
        let quiet_nan = (bits >> 16) as u16 | 0x40;
        Self::from_bits(if x.is_nan() { quiet_nan } else { rounded })
    }

    #[inline(always)]
    fn as_words(out: &mut [Self]) -> Option<&mut [u16]> {
        Some(out.reinterpret_cast_mut())
    }

    fn write_f32(data: &[f32], out: &mut [Self]) {
        Arch::new().dispatch(RoundToBf16 { data, out });
    }
}

/// Narrowing 32 to 16 bits is slow in the oldest vectors, so it is compiled for the newer ones too.
struct RoundToBf16<'a> {
    data: &'a [f32],
    out: &'a mut [bf16],
}

impl WithSimd for RoundToBf16<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (to, from) in self.out.iter_mut().zip(self.data) {
            *to = Element::from_f32(*from);
        }
    }
}

impl Element for f16 {
    const DTYPE: SourceDtype = SourceDtype::F16;

    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }

    fn from_f32(x: f32) -> Self {
        f16::from_f32(x)
    }

    // The slice conversions look for the CPU's f16 instructions once instead of per element.
    fn as_f32<'a>(data: &'a [Self], buffer: &'a mut [f32]) -> &'a [f32] {
        let buffer = &mut buffer[..data.len()];
        data.convert_to_f32_slice(buffer);
        buffer
    }

    #[inline(always)]
    fn as_words(out: &mut [Self]) -> Option<&mut [u16]> {
        Some(out.reinterpret_cast_mut())
    }

    fn write_f32(data: &[f32], out: &mut [Self]) {
        out.convert_from_f32_slice(data);
    }
}
