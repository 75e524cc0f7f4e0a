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
    pub(super) packed: Region,
    /// Absmax, and codes and map of nested ones, held for their lifetime: `scales` has their addresses.
    #[cfg_attr(not(test), expect(dead_code, reason = "held for their lifetime"))]
    pub(super) held: Vec<Region>,
    pub(super) scales: BlockScales,
    numel: usize,
}

impl CudaQuantizedWeight {
    pub(super) fn new(memory: &Arc<Memory>, weight: &nf4::QuantizedTensor) -> Result<Self> {
        let packed = Region::upload(memory, weight.packed(), MemoryKind::Weights)?;
        Self::of(
            memory,
            packed,
            weight.absmax(),
            weight.quant_type(),
            weight.blocksize(),
            weight.numel(),
        )
    }

    /// Takes packed codes that are on the device already.
    pub(super) fn of(
        memory: &Arc<Memory>,
        packed: Region,
        absmax: &nf4::Absmax,
        quant_type: nf4::QuantType,
        blocksize: usize,
        numel: usize,
    ) -> Result<Self> {
        let upload = |bytes: &[u8]| Region::upload(memory, bytes, MemoryKind::QuantState);
        let mut scales = BlockScales {
            log2_block: blocksize.ilog2(),
            codebook: *quant_type.values(),
            ..BlockScales::default()
        };
        let held = match absmax {
            nf4::Absmax::Plain(absmax) => vec![upload(bytemuck::cast_slice(absmax))?],
            nf4::Absmax::Nested(nested) => {
                let absmax = upload(bytemuck::cast_slice(&nested.absmax))?;
                let codes = upload(&nested.codes)?;
                let map = upload(bytemuck::cast_slice(&nested.map[..]))?;
                (scales.codes, scales.map) = (codes.address, map.address);
                scales.offset = nested.offset;
                scales.log2_nested = nested.blocksize.ilog2();
                vec![absmax, codes, map]
            }
        };
        scales.absmax = held[0].address;
        Ok(Self { packed, held, scales, numel })
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
