//! Typed buffers on the device.

use std::borrow::Cow;
use std::sync::Arc;

use super::memory::{Memory, Region};
use super::params::{DTYPE_BF16, DTYPE_F32, Tensor};
use crate::check::Op;
use crate::{Buffer, DType, HostSlice, MemoryKind, Result};

/// Device memory of the [`Cuda`](super::Cuda) backend.
#[derive(Debug)]
pub struct CudaBuffer {
    region: Region,
    dtype: DType,
    len: usize,
    /// Ids, positions and bounds as they were uploaded: checks and grids need them on the host.
    host: Option<Arc<[u32]>>,
}

impl CudaBuffer {
    /// Unspecified content.
    pub(super) fn alloc(
        memory: &Arc<Memory>,
        dtype: DType,
        len: usize,
        kind: MemoryKind,
    ) -> Result<Self> {
        let bytes = len
            .checked_mul(dtype.size())
            .ok_or_else(|| memory.ledger.out_of_memory(kind, usize::MAX))?;
        Ok(Self { region: Region::new(memory, bytes, kind)?, dtype, len, host: None })
    }

    pub(super) fn upload(
        memory: &Arc<Memory>,
        data: HostSlice<'_>,
        kind: MemoryKind,
    ) -> Result<Self> {
        let region = match data {
            HostSlice::F32(x) => Region::upload(memory, x, kind)?,
            HostSlice::Bf16(x) => Region::upload(memory, x, kind)?,
            HostSlice::U32(x) => Region::upload(memory, x, kind)?,
            HostSlice::U8(x) => Region::upload(memory, x, kind)?,
        };
        let host = match data {
            HostSlice::U32(x) => Some(x.into()),
            _ => None,
        };
        Ok(Self { region, dtype: data.dtype(), len: data.len(), host })
    }

    pub(super) fn address(&self) -> u64 {
        self.region.address
    }

    /// Bytes.
    pub(super) fn size(&self) -> usize {
        self.region.bytes
    }

    /// The address of element `start`.
    pub(super) fn at(&self, start: usize) -> u64 {
        self.region.address + (start * self.dtype.size()) as u64
    }

    /// As kernels take it.
    pub(super) fn tensor(&self) -> Tensor {
        let dtype = if self.dtype == DType::Bf16 { DTYPE_BF16 } else { DTYPE_F32 };
        Tensor { data: self.region.address, dtype, reserved: 0 }
    }

    /// The host's copy of u32 elements no longer holds.
    pub(super) fn forget_host(&mut self) {
        self.host = None;
    }

    fn values(&self) -> Result<Cow<'_, [u32]>> {
        if let Some(host) = &self.host {
            return Ok(Cow::Borrowed(host));
        }
        let mut values = vec![0; self.len];
        self.region.driver().copy_out(self.region.address, &mut values)?;
        Ok(Cow::Owned(values))
    }
}

impl Buffer for CudaBuffer {
    fn dtype(&self) -> DType {
        self.dtype
    }

    fn len(&self) -> usize {
        self.len
    }
}

impl Op {
    /// A float operand of `len` elements.
    pub(super) fn tensor(
        self,
        operand: &'static str,
        buffer: &CudaBuffer,
        len: usize,
    ) -> Result<Tensor> {
        self.len(operand, buffer.len, len)?;
        match buffer.dtype {
            DType::F32 | DType::Bf16 => Ok(buffer.tensor()),
            DType::U32 | DType::U8 => Err(self.dtype(operand, buffer)),
        }
    }

    /// The address of an f32 operand of `len` elements.
    pub(super) fn single(
        self,
        operand: &'static str,
        buffer: &CudaBuffer,
        len: usize,
    ) -> Result<u64> {
        self.address(DType::F32, operand, buffer, len)
    }

    /// The address of an operand of `len` elements of one type.
    pub(super) fn address(
        self,
        dtype: DType,
        operand: &'static str,
        buffer: &CudaBuffer,
        len: usize,
    ) -> Result<u64> {
        self.len(operand, buffer.len, len)?;
        if buffer.dtype == dtype {
            return Ok(buffer.address());
        }
        Err(self.dtype(operand, buffer))
    }

    /// The values of a u32 operand of `len` elements.
    pub(super) fn words<'a>(
        self,
        operand: &'static str,
        buffer: &'a CudaBuffer,
        len: usize,
    ) -> Result<Cow<'a, [u32]>> {
        self.len(operand, buffer.len, len)?;
        match buffer.dtype {
            DType::U32 => buffer.values(),
            _ => Err(self.dtype(operand, buffer)),
        }
    }
}
