//! Frozen weights as the matmuls read them.

use std::borrow::Cow;
use std::sync::Arc;

use super::Cpu;
use super::buffer::{CpuBuffer, Shared};
use super::check::Op;
use super::view::{FloatRef, sized};
use crate::ops::Weight;
use crate::{HostSlice, MemoryKind, Result};

/// A 4-bit weight: packed codes in the backend's own memory and (double-quantised) absmax.
#[derive(Debug)]
pub struct CpuQuantizedWeight {
    packed: CpuBuffer,
    absmax: nf4::Absmax,
    /// Bytes of it.
    absmax_bytes: usize,
    quant_type: nf4::QuantType,
    blocksize: usize,
    numel: usize,
    shared: Arc<Shared>,
}

impl CpuQuantizedWeight {
    pub(super) fn new(shared: &Arc<Shared>, tensor: nf4::QuantizedTensor) -> Result<Self> {
        let numel = tensor.numel();
        let absmax_bytes = tensor.bytes() - tensor.packed().len();
        let nf4::Parts { packed, absmax, quant_type, blocksize, .. } = tensor.into_parts();
        let packed = CpuBuffer::upload(shared, HostSlice::U8(&packed), MemoryKind::Weights)?;
        shared.ledger.add(MemoryKind::QuantState, absmax_bytes);
        let shared = Arc::clone(shared);
        Ok(Self { packed, absmax, absmax_bytes, quant_type, blocksize, numel, shared })
    }

    /// Two codes per byte, the first in the high nibble.
    pub(super) fn packed(&self) -> &[u8] {
        self.packed.as_u8().expect("made as bytes")
    }

    pub(super) const fn absmax(&self) -> &nf4::Absmax {
        &self.absmax
    }

    pub(super) const fn quant_type(&self) -> nf4::QuantType {
        self.quant_type
    }

    pub(super) const fn blocksize(&self) -> usize {
        self.blocksize
    }

    pub(super) const fn numel(&self) -> usize {
        self.numel
    }

    /// Elements `start..start + out.len()`, dequantised; only their own blocks are restored.
    fn read(&self, start: usize, out: &mut [f32], scratch: &mut Vec<f32>) {
        if out.is_empty() {
            return;
        }
        let blocksize = self.blocksize;
        let blocks = start / blocksize..(start + out.len()).div_ceil(blocksize);
        let first = blocks.start * blocksize;
        let absmax = match &self.absmax {
            nf4::Absmax::Plain(absmax) => &absmax[blocks],
            nf4::Absmax::Nested(nested) => {
                let restored = sized(scratch, blocks.len());
                restore(nested, blocks.start, restored);
                restored
            }
        };
        let packed = &self.packed()[first / 2..];
        nf4::dequantize_range(packed, absmax, self.quant_type, blocksize, start - first, out);
    }
}

/// The absmax of the blocks `first..first + out.len()`.
fn restore(nested: &nf4::NestedAbsmax, first: usize, out: &mut [f32]) {
    for (block, out) in (first..).zip(out) {
        let code = nested.codes[block] as usize;
        *out = nested.map[code] * nested.absmax[block / nested.blocksize] + nested.offset;
    }
}

impl Drop for CpuQuantizedWeight {
    fn drop(&mut self) {
        self.shared.ledger.remove(MemoryKind::QuantState, self.absmax_bytes);
    }
}

/// Checked weight `[n, k]`.
#[derive(Debug, Clone, Copy)]
pub(super) enum WeightRef<'a> {
    Dense(FloatRef<'a>),
    Quantized(&'a CpuQuantizedWeight),
}

impl<'a> WeightRef<'a> {
    pub(super) fn new(op: Op, weight: Weight<'a, Cpu>, n: usize, k: usize) -> Result<Self> {
        match weight {
            Weight::Dense(buffer) => Ok(Self::Dense(op.float("weight", buffer, n * k)?)),
            Weight::Quantized(weight) => {
                op.len("weight", weight.numel, n * k)?;
                Ok(Self::Quantized(weight))
            }
        }
    }

    /// Flat elements `start..start + out.len()` in f32; `scratch` holds restored absmax.
    pub(super) fn read(self, start: usize, out: &mut [f32], scratch: &mut Vec<f32>) {
        match self {
            Self::Dense(w) => w.slice(start..start + out.len()).widen_into(out),
            Self::Quantized(w) => w.read(start, out, scratch),
        }
    }

    /// The elements themselves where they are f32 already.
    pub(super) const fn as_f32(self) -> Option<&'a [f32]> {
        match self {
            Self::Dense(FloatRef::F32(w)) => Some(w),
            _ => None,
        }
    }
}

/// A small operand (adapter, bias) in f32.
pub(super) fn to_f32(x: FloatRef<'_>) -> Cow<'_, [f32]> {
    match x {
        FloatRef::F32(x) => Cow::Borrowed(x),
        FloatRef::Bf16(_) => {
            let mut wide = vec![0.0; x.len()];
            x.widen_into(&mut wide);
            Cow::Owned(wide)
        }
    }
}
