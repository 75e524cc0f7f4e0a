//! Frozen weights as the kernels read them.

use std::sync::Arc;

use super::Cuda;
use super::memory::{Memory, Region};
use super::params::{BlockScales, DTYPE_4BIT, Tensor};
use crate::check::Op;
use crate::ops::Weight;
use crate::{MemoryKind, Result};

/// A 4-bit weight on the device: packed codes and (double-quantised) absmax.
#[derive(Debug)]
pub struct CudaQuantizedWeight {
    packed: Region,
    /// Held for their lifetime; `scales` has their addresses.
    _absmax: Region,
    _nested: Option<[Region; 2]>,
    scales: BlockScales,
    numel: usize,
}

impl CudaQuantizedWeight {
    pub(super) fn new(memory: &Arc<Memory>, weight: &nf4::QuantizedTensor) -> Result<Self> {
        let upload = |bytes: &[u8]| Region::upload(memory, bytes, MemoryKind::Weights);
        let packed = upload(weight.packed())?;
        let mut scales = BlockScales {
            log2_block: weight.blocksize().ilog2(),
            codebook: *weight.quant_type().values(),
            ..BlockScales::default()
        };
        let (absmax, nested) = match weight.absmax() {
            nf4::Absmax::Plain(absmax) => (upload(bytemuck::cast_slice(absmax))?, None),
            nf4::Absmax::Nested(nested) => {
                let absmax = upload(bytemuck::cast_slice(&nested.absmax))?;
                let codes = upload(&nested.codes)?;
                let map = upload(bytemuck::cast_slice(&nested.map[..]))?;
                (scales.codes, scales.map) = (codes.address, map.address);
                scales.offset = nested.offset;
                scales.log2_nested = nested.blocksize.ilog2();
                (absmax, Some([codes, map]))
            }
        };
        scales.absmax = absmax.address;
        Ok(Self { packed, _absmax: absmax, _nested: nested, scales, numel: weight.numel() })
    }
}

impl Op {
    /// A weight `[n, k]`, and its scales if it is quantised.
    pub(super) fn weight(
        self,
        weight: Weight<'_, Cuda>,
        n: usize,
        k: usize,
    ) -> Result<(Tensor, BlockScales)> {
        match weight {
            Weight::Dense(buffer) => {
                Ok((self.tensor("weight", buffer, n * k)?, BlockScales::default()))
            }
            Weight::Quantized(weight) => {
                self.len("weight", weight.numel, n * k)?;
                let tensor = Tensor { data: weight.packed.address, dtype: DTYPE_4BIT, reserved: 0 };
                Ok((tensor, weight.scales))
            }
        }
    }
}
