//! Operand checks that turn a buffer into a typed view or a clear error.

use super::buffer::{CpuBuffer, Storage};
use super::view::{FloatMut, FloatRef};
use crate::{Buffer, Result};

pub(super) use crate::check::Op;

impl Op {
    pub(super) fn float<'a>(
        self,
        operand: &'static str,
        buffer: &'a CpuBuffer,
        len: usize,
    ) -> Result<FloatRef<'a>> {
        self.len(operand, buffer.len(), len)?;
        match buffer.storage() {
            Storage::F32(x) => Ok(FloatRef::F32(x)),
            Storage::Bf16(x) => Ok(FloatRef::Bf16(x)),
            Storage::U32(_) | Storage::U8(_) => Err(self.dtype(operand, buffer)),
        }
    }

    pub(super) fn float_mut<'a>(
        self,
        operand: &'static str,
        buffer: &'a mut CpuBuffer,
        len: usize,
    ) -> Result<FloatMut<'a>> {
        self.float(operand, buffer, len)?;
        match buffer.storage_mut() {
            Storage::F32(x) => Ok(FloatMut::F32(x)),
            Storage::Bf16(x) => Ok(FloatMut::Bf16(x)),
            Storage::U32(_) | Storage::U8(_) => unreachable!("checked above"),
        }
    }

    pub(super) fn f32<'a>(
        self,
        operand: &'static str,
        buffer: &'a CpuBuffer,
        len: usize,
    ) -> Result<&'a [f32]> {
        self.len(operand, buffer.len(), len)?;
        buffer.as_f32().ok_or_else(|| self.dtype(operand, buffer))
    }

    pub(super) fn f32_mut<'a>(
        self,
        operand: &'static str,
        buffer: &'a mut CpuBuffer,
        len: usize,
    ) -> Result<&'a mut [f32]> {
        self.f32(operand, buffer, len)?;
        match buffer.storage_mut() {
            Storage::F32(x) => Ok(x),
            _ => unreachable!("checked above"),
        }
    }

    pub(super) fn u32<'a>(
        self,
        operand: &'static str,
        buffer: &'a CpuBuffer,
        len: usize,
    ) -> Result<&'a [u32]> {
        self.len(operand, buffer.len(), len)?;
        buffer.as_u32().ok_or_else(|| self.dtype(operand, buffer))
    }

    pub(super) fn u8_mut<'a>(
        self,
        operand: &'static str,
        buffer: &'a mut CpuBuffer,
        len: usize,
    ) -> Result<&'a mut [u8]> {
        self.len(operand, buffer.len(), len)?;
        let error = self.dtype(operand, buffer);
        match buffer.storage_mut() {
            Storage::U8(x) => Ok(x),
            _ => Err(error),
        }
    }
}
