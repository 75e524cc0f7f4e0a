//! Device memory: allocations that are kept for the next buffer of about their size.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::driver::Driver;
use crate::{MemoryKind, MemoryLedger, Result};

/// Sizes are multiples of this: the driver's alignment, and room for vector loads.
const ALIGN: usize = 256;

/// A device's memory. What is given back is kept, so that a step after the first allocates nothing.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) driver: Driver,
    pub(super) ledger: MemoryLedger,
    /// Idle allocations by size.
    idle: Mutex<BTreeMap<usize, Vec<u64>>>,
}

/// Bytes of the device, given back on drop.
#[derive(Debug)]
pub(super) struct Region {
    pub(super) address: u64,
    /// As asked for.
    pub(super) bytes: usize,
    /// As allocated; 0 for a region of no bytes.
    capacity: usize,
    kind: MemoryKind,
    memory: Arc<Memory>,
}

impl Memory {
    pub(super) fn new(driver: Driver) -> Self {
        Self { driver, ledger: MemoryLedger::default(), idle: Mutex::default() }
    }

    fn with_idle<T>(&self, f: impl FnOnce(&mut BTreeMap<usize, Vec<u64>>) -> T) -> T {
        // The list only caches: what a panic left of it is good enough.
        f(&mut self.idle.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// An idle allocation of `capacity` bytes.
    fn take(&self, capacity: usize) -> Option<u64> {
        self.with_idle(|idle| {
            let list = idle.get_mut(&capacity)?;
            let address = list.pop();
            if list.is_empty() {
                idle.remove(&capacity);
            }
            address
        })
    }

    /// Gives all idle allocations back to the driver.
    fn trim(&self) -> Result<()> {
        let idle = self.with_idle(std::mem::take);
        if idle.is_empty() {
            return Ok(());
        }
        self.driver.synchronize("waiting before memory is freed")?;
        idle.into_values().flatten().for_each(|address| self.driver.free(address));
        Ok(())
    }

    fn find(&self, capacity: usize) -> Result<Option<u64>> {
        if let Some(address) = self.take(capacity) {
            return Ok(Some(address));
        }
        if let Some(address) = self.driver.allocate(capacity)? {
            return Ok(Some(address));
        }
        self.trim()?;
        self.driver.allocate(capacity)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Errors have been reported to whoever asked for the work.
        let _ = self.trim();
    }
}

/// Bytes to allocate for `bytes`: up to an eighth more, so that batches of slightly different lengths
/// share allocations.
fn capacity_for(bytes: usize) -> Option<usize> {
    let step = (1 << bytes.checked_ilog2().unwrap_or(0)) / 8;
    bytes.checked_next_multiple_of(step.max(ALIGN))
}

impl Region {
    pub(super) fn new(memory: &Arc<Memory>, bytes: usize, kind: MemoryKind) -> Result<Self> {
        let full = || memory.ledger.out_of_memory(kind, bytes);
        let capacity = if bytes == 0 { 0 } else { capacity_for(bytes).ok_or_else(full)? };
        let address = match capacity {
            0 => 0,
            _ => memory.find(capacity)?.ok_or_else(full)?,
        };
        memory.ledger.add(kind, bytes);
        Ok(Self { address, bytes, capacity, kind, memory: Arc::clone(memory) })
    }

    pub(super) fn upload<T: bytemuck::NoUninit>(
        memory: &Arc<Memory>,
        data: &[T],
        kind: MemoryKind,
    ) -> Result<Self> {
        let region = Self::new(memory, size_of_val(data), kind)?;
        memory.driver.copy_in(region.address, data)?;
        Ok(region)
    }

    pub(super) fn driver(&self) -> &Driver {
        &self.memory.driver
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.memory.ledger.remove(self.kind, self.bytes);
        if self.capacity > 0 {
            self.memory.with_idle(|idle| idle.entry(self.capacity).or_default().push(self.address));
        }
    }
}
