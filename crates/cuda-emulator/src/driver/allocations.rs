//! Allocating and freeing.

use crate::{
    driver::{
        error::{Code, Status},
        ffi::HostPointer,
        state::{Allocation, Id, MemoryKind, State},
        work::Action,
    },
    findings::Check,
    memory::{FreeError, OutOfMemory},
};

impl State {
    fn reserve(&mut self, call: &'static str, bytes: u64, kind: MemoryKind) -> Status<u64> {
        let context = self.context()?;
        let attempt = |state: &mut Self| match kind {
            MemoryKind::Device => state.memory.allocate(bytes),
            MemoryKind::Managed => state.memory.allocate_host_visible(bytes, true),
            MemoryKind::Pinned => state.memory.allocate_host_visible(bytes, false),
        };
        let mut result = attempt(self);
        if result.is_err() && self.timeline.pending() > 0 {
            // Frees that are submitted come to pass before the driver gives up.
            self.drain();
            result = attempt(self);
        }
        let base = result.map_err(|error: OutOfMemory| {
            eprintln!("cuda-emulator: {call}: {error}");
            Code::OUT_OF_MEMORY
        })?;
        self.allocated += 1;
        let serial = self.allocated;
        let allocation = Allocation { context, bytes, kind, serial, call, freed: false };
        self.allocations.insert(base, allocation);
        Ok(base)
    }

    /// `cuMemAlloc`, `cuMemAllocManaged`, `cuMemHostAlloc`.
    pub(crate) fn allocate(
        &mut self,
        call: &'static str,
        bytes: u64,
        kind: MemoryKind,
    ) -> Status<u64> {
        self.context()?;
        self.check_unsafe_call()?;
        if bytes == 0 {
            return Err(Code::INVALID_VALUE);
        }
        self.reserve(call, bytes, kind)
    }

    /// `cuMemAllocAsync`. Nothing is allocated for 0 bytes, and the address is 0.
    pub(crate) fn allocate_async(
        &mut self,
        call: &'static str,
        bytes: u64,
        pool: Id,
        stream: Id,
    ) -> Status<u64> {
        let stream = self.stream(stream)?;
        self.pools.get(pool)?;
        if let Some(capture) = self.streams.get(stream)?.capture {
            self.captures.get_mut(capture)?.invalid = true;
            self.journal.warn("allocating in a captured stream is not supported".into());
            return Err(Code::NOT_SUPPORTED);
        }
        if bytes == 0 {
            return Ok(0);
        }
        let base = self.reserve(call, bytes, MemoryKind::Device)?;
        self.submit(stream, call, Action::Allocate { base, bytes })?;
        Ok(base)
    }

    /// The allocation that starts at `base` and may be freed; a finding says why not.
    fn freeable(&mut self, call: &str, base: u64, pinned: bool) -> Status<Allocation> {
        match self.allocations.get(&base) {
            Some(allocation) if allocation.freed => {
                let message = format!("{base:#x} was freed before");
                self.journal.host(Check::DoubleFree, call, Some(base), message);
                Err(Code::INVALID_VALUE)
            }
            Some(allocation) if (allocation.kind == MemoryKind::Pinned) == pinned => {
                Ok(allocation.clone())
            }
            Some(allocation) => {
                let message = format!("{base:#x} was made by {}", allocation.call);
                self.journal.host(Check::Arguments, call, Some(base), message);
                Err(Code::INVALID_VALUE)
            }
            None => {
                // Memory knows whether it ever was an allocation. A module's variable is one too.
                let error = match self.memory.range_of(base) {
                    Some(_) => FreeError::NotAllocated(base),
                    None => self.memory.free(base).err().unwrap_or(FreeError::NotAllocated(base)),
                };
                self.journal.host(Check::DoubleFree, call, Some(base), error.to_string());
                Err(Code::INVALID_VALUE)
            }
        }
    }

    /// `cuMemFree` and `cuMemFreeHost`, which wait for the device. Freeing 0 does nothing.
    pub(crate) fn free(&mut self, call: &'static str, base: u64, pinned: bool) -> Status {
        let context = self.context()?;
        if base == 0 {
            return Ok(());
        }
        self.check_unsafe_call()?;
        self.freeable(call, base, pinned)?;
        self.wait_for_all();
        self.allocations.remove(&base);
        self.hazards.forget(base);
        let _ = self.memory.free(base);
        self.surface(context)
    }

    /// `cuMemFreeAsync`.
    pub(crate) fn free_async(&mut self, base: u64, stream: Id) -> Status {
        const CALL: &str = "cuMemFreeAsync";
        let stream = self.stream(stream)?;
        if base == 0 {
            return Ok(());
        }
        if let Some(capture) = self.streams.get(stream)?.capture {
            self.captures.get_mut(capture)?.invalid = true;
            self.journal.warn("freeing in a captured stream is not supported".into());
            return Err(Code::NOT_SUPPORTED);
        }
        let bytes = self.freeable(CALL, base, false)?.bytes;
        if let Some(allocation) = self.allocations.get_mut(&base) {
            allocation.freed = true;
        }
        self.submit(stream, CALL, Action::Free { base, bytes })?;
        Ok(())
    }

    /// `cuMemHostRegister`: the host's own memory becomes pinned. The device cannot address it.
    pub(crate) fn register(&mut self, host: HostPointer, bytes: u64, flags: u32) -> Status {
        const DEVICE_MAP: u32 = 2;
        self.context()?;
        self.check_unsafe_call()?;
        if bytes == 0 || host.address() == 0 {
            return Err(Code::INVALID_VALUE);
        }
        let (start, end) = (host.address(), host.address().saturating_add(bytes));
        let before = self.registered.range(..end).next_back();
        if before.is_some_and(|(base, size)| base + size > start) {
            return Err(Code::HOST_MEMORY_ALREADY_REGISTERED);
        }
        if flags & DEVICE_MAP != 0 {
            self.journal.warn(
                "cuMemHostRegister: kernels cannot reach registered memory; copies can".into(),
            );
        }
        self.registered.insert(start, bytes);
        Ok(())
    }

    /// `cuMemHostUnregister`.
    pub(crate) fn unregister(&mut self, host: HostPointer) -> Status {
        self.context()?;
        if !self.registered.contains_key(&host.address()) {
            return Err(Code::HOST_MEMORY_NOT_REGISTERED);
        }
        self.wait_for_all();
        self.registered.remove(&host.address());
        self.hazards.forget(host.address());
        Ok(())
    }

    /// The allocation that holds an address: its start and what it is.
    pub(crate) fn allocation_of(&self, address: u64) -> Option<(u64, &Allocation)> {
        let (base, allocation) = self.allocations.range(..=address).next_back()?;
        (address - base < allocation.bytes).then_some((*base, allocation))
    }

    /// Whether copies from and to these bytes of the host are asynchronous.
    pub(crate) fn is_pinned(&self, address: u64, bytes: u64) -> bool {
        let within = |base: u64, size: u64| address - base + bytes <= size;
        let allocated = self
            .allocation_of(address)
            .is_some_and(|(base, a)| a.kind != MemoryKind::Device && within(base, a.bytes));
        let registered = self.registered.range(..=address).next_back();
        allocated || registered.is_some_and(|(base, size)| within(*base, *size))
    }
}
