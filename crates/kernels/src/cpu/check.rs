//! Operand checks that turn a buffer into a typed view or a clear error.

use super::buffer::{CpuBuffer, Storage};
use super::view::{FloatMut, FloatRef};
use crate::{Buffer, Error, Result};

/// Name of an operation, to check its operands under.
#[derive(Debug, Clone, Copy)]
pub(super) struct Op(pub(super) &'static str);

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
            Storage::U32(_) => Err(self.dtype(operand, buffer)),
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
            Storage::U32(_) => unreachable!("checked above"),
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

    pub(super) fn len(self, operand: &'static str, actual: usize, expected: usize) -> Result<()> {
        if actual == expected {
            return Ok(());
        }
        Err(Error::Length { op: self.0, operand, expected, actual })
    }

    /// Every index is a row of a table of `len` rows.
    pub(super) fn indices(self, indices: &[u32], len: usize) -> Result<()> {
        match indices.iter().position(|&i| i as usize >= len) {
            None => Ok(()),
            Some(position) => {
                Err(Error::Index { op: self.0, index: indices[position] as usize, position, len })
            }
        }
    }

    pub(super) fn require(self, condition: bool, what: impl FnOnce() -> String) -> Result<()> {
        if condition {
            return Ok(());
        }
        Err(Error::Parameter { op: self.0, what: what() })
    }

    fn dtype(self, operand: &'static str, buffer: &CpuBuffer) -> Error {
        Error::DType { op: self.0, operand, actual: buffer.dtype() }
    }
}
