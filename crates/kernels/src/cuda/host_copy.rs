//! Buffers put away in the host's memory.

use std::sync::Arc;

use super::CudaBuffer;
use super::memory::Memory;
use crate::{Buffer, DType, MemoryKind, Result};

/// A buffer's content in the host's memory; none of it in a dry run.
#[derive(Debug)]
pub struct CudaHostCopy {
    values: Vec<u8>,
    dtype: DType,
    len: usize,
    memory: Arc<Memory>,
}

impl CudaHostCopy {
    /// Waits until the buffer has been written and read.
    pub(super) fn of(memory: &Arc<Memory>, buffer: &CudaBuffer) -> Result<Self> {
        let (dtype, len) = (buffer.dtype(), buffer.len());
        let dry_run = memory.driver.is_dry_run();
        let mut values = vec![0; if dry_run { 0 } else { buffer.bytes() }];
        memory.driver.copy_out(buffer.address(), &mut values)?;
        memory.ledger.add_host(len * dtype.size());
        Ok(Self { values, dtype, len, memory: Arc::clone(memory) })
    }

    pub(super) fn upload(&self, kind: MemoryKind) -> Result<CudaBuffer> {
        let buffer = CudaBuffer::alloc(&self.memory, self.dtype, self.len, kind)?;
        self.memory.driver.copy_in(buffer.address(), &self.values)?;
        Ok(buffer)
    }
}

impl Drop for CudaHostCopy {
    fn drop(&mut self) {
        self.memory.ledger.remove_host(self.len * self.dtype.size());
    }
}
