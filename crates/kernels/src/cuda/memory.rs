//! Device memory: parts of large allocations, so that a step after the first allocates nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::driver::Driver;
use crate::arena::{Arena, rounded};
use crate::{MemoryKind, MemoryLedger, MemoryUsage, Result};

/// An allocation is a quarter of all before it, within these bounds: few of them, little of the last idle.
const CHUNKS: std::ops::RangeInclusive<usize> = 32 << 20..=1 << 30;
/// Bytes of the one chunk of a dry run: more than any card has.
const ENDLESS: usize = 1 << 42;
/// Set to `separate`, every buffer is an allocation of its own: slow, but tools that know the driver's
/// allocations, such as compute-sanitizer, then see where each buffer ends.
const SEPARATE: &str = "QLORA_CUDA_ALLOCATIONS";

/// A device's memory.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) driver: Driver,
    pub(super) ledger: MemoryLedger,
    /// `None` where every buffer is an allocation of its own.
    arena: Option<Mutex<Arena>>,
}

/// Bytes of the device, given back on drop.
#[derive(Debug)]
pub(super) struct Region {
    pub(super) address: u64,
    /// As asked for.
    pub(super) bytes: usize,
    kind: MemoryKind,
    memory: Arc<Memory>,
}

impl Memory {
    pub(super) fn new(driver: Driver) -> Self {
        let separate = std::env::var_os(SEPARATE).is_some_and(|value| value == "separate");
        let arena = (!separate || driver.is_dry_run()).then(Mutex::default);
        Self { driver, ledger: MemoryLedger::default(), arena }
    }

    pub(super) fn usage(&self) -> MemoryUsage {
        let extent = self.arena.as_ref().map_or(0, |arena| lock(arena).extent());
        self.ledger.usage(extent)
    }

    pub(super) fn reset_peak(&self) {
        self.ledger.reset_peak();
        if let Some(arena) = &self.arena {
            lock(arena).reset_extent();
        }
    }

    /// Makes a chunk of `bytes` where there is none yet.
    pub(super) fn reserve(&self, bytes: usize) -> Result<()> {
        let Some(arena) = &self.arena else { return Ok(()) };
        let mut arena = lock(arena);
        if bytes == 0 || arena.reserved() > 0 {
            return Ok(());
        }
        let bytes = rounded(bytes).unwrap_or(bytes);
        let address = self.driver.allocate(bytes)?;
        let address =
            address.ok_or_else(|| self.ledger.out_of_memory(MemoryKind::Workspace, bytes))?;
        arena.grow(address, bytes);
        Ok(())
    }

    /// An address for `bytes` > 0 bytes; `None` when the device has no room for them.
    fn take(&self, bytes: usize) -> Result<Option<u64>> {
        let Some(bytes) = rounded(bytes) else { return Ok(None) };
        let Some(arena) = &self.arena else { return self.allocate(bytes) };
        let mut arena = lock(arena);
        if let Some(address) = arena.take(bytes) {
            return Ok(Some(address));
        }
        if !self.grow(&mut arena, bytes)? {
            return Ok(None);
        }
        Ok(arena.take(bytes))
    }

    /// Asks a second time: what fails once need not be for want of memory.
    fn allocate(&self, bytes: usize) -> Result<Option<u64>> {
        match self.driver.allocate(bytes)? {
            None => self.driver.allocate(bytes),
            some => Ok(some),
        }
    }

    /// Adds a chunk with room for `bytes`; says whether there was one.
    fn grow(&self, arena: &mut Arena, bytes: usize) -> Result<bool> {
        let ample = (arena.reserved() / 4).clamp(*CHUNKS.start(), *CHUNKS.end());
        let ample = if self.driver.is_dry_run() { ENDLESS } else { ample }.max(bytes);
        for size in [ample, bytes] {
            if let Some(address) = self.driver.allocate(size)? {
                arena.grow(address, size);
                return Ok(true);
            }
        }
        self.give_back(arena)?;
        let Some(address) = self.driver.allocate(bytes)? else { return Ok(false) };
        arena.grow(address, bytes);
        Ok(true)
    }

    /// Gives the chunks that nothing uses back to the driver.
    fn give_back(&self, arena: &mut Arena) -> Result<()> {
        let idle = arena.shrink();
        if !idle.is_empty() {
            self.driver.synchronize("waiting before memory is freed")?;
        }
        for address in idle {
            self.driver.free(address);
        }
        Ok(())
    }

    fn give(&self, address: u64, bytes: usize) {
        match (&self.arena, rounded(bytes)) {
            (Some(arena), Some(bytes)) => lock(arena).give(address, bytes),
            _ => self.driver.free(address),
        }
    }
}

/// What a panic left of the arena is good enough: it is changed only by calls that do not panic.
fn lock(arena: &Mutex<Arena>) -> MutexGuard<'_, Arena> {
    arena.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(arena) = &self.arena {
            // Errors have been reported to whoever asked for the work.
            let _ = self.give_back(&mut lock(arena));
        }
    }
}

impl Region {
    pub(super) fn new(memory: &Arc<Memory>, bytes: usize, kind: MemoryKind) -> Result<Self> {
        let full = || memory.ledger.out_of_memory(kind, bytes);
        let address = match bytes {
            0 => 0,
            _ => memory.take(bytes)?.ok_or_else(full)?,
        };
        memory.ledger.add(kind, bytes);
        Ok(Self { address, bytes, kind, memory: Arc::clone(memory) })
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
        if self.bytes > 0 {
            self.memory.give(self.address, self.bytes);
        }
    }
}
