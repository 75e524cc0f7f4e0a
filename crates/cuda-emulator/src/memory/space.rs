//! Allocations and the host's access to them.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use super::{racy::Bytes, touch::Touches, valid::Valid};

/// Device addresses start here, far from what the host's allocator hands out.
const FIRST_ADDRESS: u64 = 0x1000_0000_0000;
/// At least so many bytes lie between two allocations.
const GUARD: u64 = 4096;
/// Alignment of an allocation, as the CUDA driver's.
const ALIGN: u64 = 256;

/// The device has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{requested} bytes requested, {free} of {capacity} free")]
pub struct OutOfMemory {
    /// Bytes asked for.
    pub requested: u64,
    /// Bytes left.
    pub free: u64,
    /// Bytes of the device.
    pub capacity: u64,
}

/// An address that is not the start of a live allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FreeError {
    /// It was one, and was freed before.
    #[error("{0:#x} was freed before")]
    DoubleFree(u64),
    /// It never was one.
    #[error("{0:#x} is not the start of an allocation")]
    NotAllocated(u64),
}

/// A range that is not inside one live allocation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// Inside an allocation that was freed.
    #[error("{bytes} bytes inside a freed allocation of {size} bytes at {base:#x}")]
    #[allow(missing_docs)]
    Freed { address: u64, bytes: u64, base: u64, size: u64 },
    /// Not inside any allocation; names the nearest one below, if any.
    #[error("{bytes} bytes outside any allocation{}", nearest.map_or(String::new(), |(base, size)| {
        format!("; the nearest below has {size} bytes at {base:#x} and ends {} bytes before",
            address.saturating_sub(base + size))
    }))]
    #[allow(missing_docs)]
    Outside { address: u64, bytes: u64, nearest: Option<(u64, u64)> },
}

/// One allocation.
#[derive(Debug)]
pub(crate) struct Allocation {
    pub(crate) base: u64,
    pub(crate) size: u64,
    pub(crate) data: Bytes,
    pub(crate) valid: Valid,
    pub(crate) touches: Touches,
    counted: bool,
}

impl Allocation {
    fn new(base: Option<u64>, size: u64, counted: bool) -> Option<Self> {
        let len = usize::try_from(size).ok()?;
        let data = Bytes::zeroed(len)?;
        let base = base.unwrap_or_else(|| data.address());
        let (valid, touches) = (Valid::new(len), Touches::new(len));
        Some(Self { base, size, data, valid, touches, counted })
    }
}

/// Device memory. Addresses are never used twice, so that an access to freed memory is always
/// seen as one.
#[derive(Debug)]
pub struct Memory {
    capacity: u64,
    used: u64,
    next: u64,
    live: BTreeMap<u64, Allocation>,
    freed: BTreeMap<u64, u64>,
    launches: AtomicU32,
}

impl Memory {
    /// Empty memory of `capacity` bytes.
    pub fn new(capacity: u64) -> Self {
        Self {
            capacity,
            used: 0,
            next: FIRST_ADDRESS,
            live: BTreeMap::new(),
            freed: BTreeMap::new(),
            launches: AtomicU32::new(0),
        }
    }

    /// Bytes of the device and bytes not allocated.
    pub fn capacity_and_free(&self) -> (u64, u64) {
        (self.capacity, self.capacity - self.used)
    }

    fn out_of_memory(&self, requested: u64) -> OutOfMemory {
        let (capacity, free) = self.capacity_and_free();
        OutOfMemory { requested, free, capacity }
    }

    /// A new allocation of `bytes` > 0 bytes, 256-byte aligned, poisoned with ones and marked as
    /// never written.
    pub fn allocate(&mut self, bytes: u64) -> Result<u64, OutOfMemory> {
        let error = self.out_of_memory(bytes);
        if bytes > error.free {
            return Err(error);
        }
        let base = self.next;
        let allocation = Allocation::new(Some(base), bytes, true).ok_or(error)?;
        for word in 0..allocation.data.len() / 8 {
            allocation.data.u64(word * 8).store(u64::MAX, Relaxed);
        }
        for byte in allocation.data.len() / 8 * 8..allocation.data.len() {
            allocation.data.u8(byte).store(u8::MAX, Relaxed);
        }
        self.next = (base + bytes + GUARD).next_multiple_of(ALIGN);
        self.insert(allocation);
        Ok(base)
    }

    /// An allocation that the host reaches through the same address (managed or pinned memory):
    /// zeroed, all bytes valid, freed like the others. Pinned memory does not count as the device's.
    pub fn allocate_host_visible(&mut self, bytes: u64, counted: bool) -> Result<u64, OutOfMemory> {
        let error = self.out_of_memory(bytes);
        if counted && bytes > error.free {
            return Err(error);
        }
        let allocation = Allocation::new(None, bytes, counted).ok_or(error)?;
        if bytes > 0 {
            allocation.valid.set(0, allocation.data.len());
        }
        let base = allocation.base;
        self.freed.remove(&base);
        self.insert(allocation);
        Ok(base)
    }

    fn insert(&mut self, allocation: Allocation) {
        if allocation.counted {
            self.used += allocation.size;
        }
        self.live.insert(allocation.base, allocation);
    }

    /// Frees an allocation by its first address. The range stays known, so that a later access is
    /// reported as one to freed memory.
    pub fn free(&mut self, address: u64) -> Result<(), FreeError> {
        let Some(allocation) = self.live.remove(&address) else {
            return Err(if self.freed.contains_key(&address) {
                FreeError::DoubleFree(address)
            } else {
                FreeError::NotAllocated(address)
            });
        };
        if allocation.counted {
            self.used -= allocation.size;
        }
        self.freed.insert(address, allocation.size);
        Ok(())
    }

    /// Start and size of the live allocation that holds `address`.
    pub fn range_of(&self, address: u64) -> Option<(u64, u64)> {
        let (_, a) = self.live.range(..=address).next_back()?;
        (address < a.base + a.size).then_some((a.base, a.size))
    }

    /// Start and size of every live allocation, in order of address.
    pub fn live(&self) -> Vec<(u64, u64)> {
        self.live.values().map(|a| (a.base, a.size)).collect()
    }

    pub(crate) fn allocations(&self) -> impl Iterator<Item = &Allocation> {
        self.live.values()
    }

    /// A number for the launch that starts now, never 0.
    pub(crate) fn next_launch(&self) -> u32 {
        self.launches.fetch_add(1, Relaxed).wrapping_add(1)
    }

    /// Why `[address, address + bytes)` cannot be accessed.
    pub(crate) fn explain(&self, address: u64, bytes: u64) -> AccessError {
        let below = self.live.range(..=address).next_back().map(|(_, a)| (a.base, a.size));
        let freed = self.freed.range(..=address).next_back().map(|(&base, &size)| (base, size));
        match freed {
            Some((base, size)) if address < base + size && below.is_none_or(|b| b.0 < base) => {
                AccessError::Freed { address, bytes, base, size }
            }
            _ => AccessError::Outside { address, bytes, nearest: below },
        }
    }

    /// The allocation that holds the whole range, and where in it the range starts.
    fn resolve(&self, address: u64, bytes: u64) -> Result<(&Allocation, usize), AccessError> {
        self.live
            .range(..=address)
            .next_back()
            .map(|(_, a)| (a, address - a.base))
            .filter(|(a, offset)| bytes <= a.size && *offset <= a.size - bytes)
            .map(|(a, offset)| (a, offset as usize))
            .ok_or_else(|| self.explain(address, bytes))
    }

    /// Copies to the host; true when every byte had been written before.
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<bool, AccessError> {
        let (a, offset) = self.resolve(address, out.len() as u64)?;
        a.data.read(offset, out);
        Ok(out.is_empty() || a.valid.all(offset, offset + out.len()))
    }

    /// Copies from the host and marks the bytes as written.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), AccessError> {
        let (a, offset) = self.resolve(address, bytes.len() as u64)?;
        if !bytes.is_empty() {
            a.data.write(offset, bytes);
            a.valid.set(offset, offset + bytes.len());
        }
        Ok(())
    }

    /// Fills `count` elements of `pattern.len()` bytes.
    pub fn fill(&self, address: u64, pattern: &[u8], count: u64) -> Result<(), AccessError> {
        let bytes = count.saturating_mul(pattern.len() as u64);
        let (a, offset) = self.resolve(address, bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        let repeats = (4096 / pattern.len()).clamp(1, count as usize);
        let chunk = pattern.repeat(repeats);
        let end = offset + bytes as usize;
        let mut at = offset;
        while at < end {
            let n = chunk.len().min(end - at);
            a.data.write(at, &chunk[..n]);
            at += n;
        }
        a.valid.set(offset, end);
        Ok(())
    }

    /// Copies within the device; bytes never written stay marked so.
    pub fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<(), AccessError> {
        let (source, s) = self.resolve(from, bytes)?;
        let (target, t) = self.resolve(to, bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        let n = bytes as usize;
        let mut staged = vec![0; n];
        source.data.read(s, &mut staged);
        let holes: Vec<bool> = if source.valid.all(s, s + n) {
            Vec::new()
        } else {
            (s..s + n).map(|at| !source.valid.all(at, at + 1)).collect()
        };
        target.data.write(t, &staged);
        target.valid.set(t, t + n);
        for (i, _) in holes.iter().enumerate().filter(|(_, hole)| **hole) {
            target.valid.clear(t + i);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_never_written_are_ones_and_known_as_such() {
        let mut memory = Memory::new(1 << 20);
        let a = memory.allocate(100).unwrap();
        let mut out = [0; 100];
        assert_eq!(memory.read(a, &mut out), Ok(false));
        assert_eq!(out, [0xff; 100]);
        memory.write(a + 3, &[7; 97]).unwrap();
        assert_eq!(memory.read(a + 3, &mut out[..97]), Ok(true));
        assert_eq!(memory.read(a + 2, &mut out[..97]), Ok(false));
    }

    #[test]
    fn copies_carry_holes() {
        let mut memory = Memory::new(1 << 20);
        let (a, b) = (memory.allocate(64).unwrap(), memory.allocate(64).unwrap());
        memory.fill(a, &[1, 2], 16).unwrap();
        memory.fill(b, &[0], 64).unwrap();
        memory.copy(b, a, 64).unwrap();
        let mut out = [0; 32];
        assert_eq!(memory.read(b, &mut out), Ok(true));
        assert_eq!(out[..4], [1, 2, 1, 2]);
        assert_eq!(memory.read(b + 1, &mut out), Ok(false));
    }

    #[test]
    fn a_freed_range_stays_known() {
        let mut memory = Memory::new(1000);
        let a = memory.allocate(600).unwrap();
        assert_eq!(memory.allocate(600).unwrap_err().free, 400);
        memory.free(a).unwrap();
        assert_eq!(memory.free(a), Err(FreeError::DoubleFree(a)));
        assert_eq!(memory.free(a + 1), Err(FreeError::NotAllocated(a + 1)));
        let b = memory.allocate(600).unwrap();
        assert_ne!(a, b);
        assert!(matches!(memory.write(a, &[1]), Err(AccessError::Freed { .. })));
        assert!(matches!(memory.write(b + 600, &[1]), Err(AccessError::Outside { .. })));
        assert_eq!(memory.range_of(b + 599), Some((b, 600)));
        assert_eq!(memory.range_of(b + 600), None);
    }

    #[test]
    fn the_host_sees_managed_memory_at_its_address() {
        let mut memory = Memory::new(1000);
        let a = memory.allocate_host_visible(16, false).unwrap();
        memory.write(a, &[5; 16]).unwrap();
        assert_eq!(memory.capacity_and_free(), (1000, 1000));
        let mut out = [0; 16];
        assert_eq!(memory.read(a, &mut out), Ok(true));
        assert_eq!(out, [5; 16]);
    }
}
