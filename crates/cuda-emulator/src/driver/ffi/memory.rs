//! Allocation and questions about addresses.

use crate::driver::{
    context::current,
    error::{Code, Status},
    ffi::{
        api,
        pointers::{HostPointer, In, Out},
    },
    state::{MemoryKind, State},
};

/// Rows of `cuMemAllocPitch` start at multiples of this.
const PITCH: usize = 512;

api! {
    fn cuMemAlloc_v2(s, address: Out<u64>, bytes: usize) {
        address.set(s.allocate("cuMemAlloc_v2", bytes as u64, MemoryKind::Device)?)
    }
    fn cuMemAllocPitch_v2(s, address: Out<u64>, pitch: Out<usize>, width: usize, height: usize, element: u32) {
        if !matches!(element, 4 | 8 | 16) {
            return Err(Code::INVALID_VALUE);
        }
        let row = width.checked_next_multiple_of(PITCH).ok_or(Code::INVALID_VALUE)?;
        let bytes = row.checked_mul(height).ok_or(Code::INVALID_VALUE)?;
        address.set(s.allocate("cuMemAllocPitch_v2", bytes as u64, MemoryKind::Device)?)?;
        pitch.set(row)
    }
    fn cuMemAllocManaged(s, address: Out<u64>, bytes: usize, flags: u32) {
        if !matches!(flags, 1 | 2) {
            return Err(Code::INVALID_VALUE);
        }
        address.set(s.allocate("cuMemAllocManaged", bytes as u64, MemoryKind::Managed)?)
    }
    fn cuMemFree_v2(s, address: u64) { s.free("cuMemFree_v2", address, false) }
    fn cuMemHostAlloc(s, pointer: Out<u64>, bytes: usize, flags: u32) {
        if flags & !7 != 0 {
            return Err(Code::INVALID_VALUE);
        }
        pointer.set(s.allocate("cuMemHostAlloc", bytes as u64, MemoryKind::Pinned)?)
    }
    fn cuMemAllocHost_v2(s, pointer: Out<u64>, bytes: usize) {
        pointer.set(s.allocate("cuMemAllocHost_v2", bytes as u64, MemoryKind::Pinned)?)
    }
    fn cuMemFreeHost(s, pointer: u64) { s.free("cuMemFreeHost", pointer, true) }
    fn cuMemHostRegister_v2(s, host: HostPointer, bytes: usize, flags: u32) {
        s.register(host, bytes as u64, flags)
    }
    fn cuMemHostUnregister(s, host: HostPointer) { s.unregister(host) }
    fn cuMemHostGetDevicePointer_v2(s, device: Out<u64>, host: HostPointer, _flags: u32) {
        s.context()?;
        match s.allocation_of(host.address()) {
            Some((_, allocation)) if allocation.kind != MemoryKind::Device => {
                device.set(host.address())
            }
            _ if s.is_pinned(host.address(), 0) => {
                s.journal.warn("kernels cannot reach memory of cuMemHostRegister".into());
                Err(Code::NOT_SUPPORTED)
            }
            _ => Err(Code::INVALID_VALUE),
        }
    }
    fn cuMemGetInfo_v2(s, free: Out<usize>, total: Out<usize>) {
        s.context()?;
        let (capacity, left) = s.memory.capacity_and_free();
        free.set(left as usize)?;
        total.set(capacity as usize)
    }
    fn cuMemGetAddressRange_v2(s, base: Out<u64>, bytes: Out<usize>, address: u64) {
        s.context()?;
        let (start, size) = s.memory.range_of(address).ok_or(Code::NOT_FOUND)?;
        base.set_if_wanted(start);
        bytes.set_if_wanted(size as usize);
        Ok(())
    }
    fn cuPointerGetAttribute(s, value: Out<u8>, attribute: u32, address: u64) {
        s.context()?;
        pointer_attribute(s, value, attribute, address)
    }
    fn cuPointerGetAttributes(s, count: u32, attributes: In<u32>, values: In<Out<u8>>, address: u64) {
        s.context()?;
        for index in 0..count as usize {
            let (attribute, value) = (attributes.at(index)?, values.at(index)?);
            if s.memory.range_of(address).is_none() {
                // Unlike for one attribute, an unknown pointer is no error but all zero.
                match size_of_attribute(attribute)? {
                    4 => value.cast::<u32>().set(0)?,
                    _ => value.cast::<u64>().set(0)?,
                }
            } else {
                pointer_attribute(s, value, attribute, address)?;
            }
        }
        Ok(())
    }
    fn cuMemPrefetchAsync_v2(s, address: u64, bytes: usize, _location: u64, _flags: u32, stream: u64) {
        s.stream(stream)?;
        check_managed(s, address, bytes)
    }
    fn cuMemAdvise_v2(s, address: u64, bytes: usize, _advice: u32, _location: u64) {
        s.context()?;
        check_managed(s, address, bytes)
    }
    fn cuStreamAttachMemAsync(s, stream: u64, address: u64, bytes: usize, flags: u32) {
        s.stream(stream)?;
        if !matches!(flags, 1 | 2 | 4) || stream == 0 && flags == 4 {
            return Err(Code::INVALID_VALUE);
        }
        check_managed(s, address, bytes.max(1))
    }
}

/// Hints on managed memory change nothing here but must be about such memory.
fn check_managed(s: &State, address: u64, bytes: usize) -> Status {
    match s.allocation_of(address) {
        Some((base, allocation))
            if allocation.kind == MemoryKind::Managed
                && address - base + bytes as u64 <= allocation.bytes =>
        {
            Ok(())
        }
        _ => Err(Code::INVALID_VALUE),
    }
}

fn size_of_attribute(attribute: u32) -> Status<usize> {
    match attribute {
        2 | 6 | 8 | 9 | 10 | 13 => Ok(4),
        1 | 3 | 4 | 7 | 11 | 12 | 17 => Ok(8),
        _ => Err(Code::INVALID_VALUE),
    }
}

fn pointer_attribute(s: &State, value: Out<u8>, attribute: u32, address: u64) -> Status {
    let (base, bytes) = s.memory.range_of(address).ok_or(Code::INVALID_VALUE)?;
    // A module's variables are device memory without an allocation of the program.
    let allocation = s.allocations.get(&base);
    let kind = allocation.map_or(MemoryKind::Device, |allocation| allocation.kind);
    let (number, long) = (value.cast::<u32>(), value.cast::<u64>());
    match attribute {
        1 => long.set(allocation.map_or_else(current, |allocation| allocation.context)),
        // Host or device.
        2 => number.set(if kind == MemoryKind::Pinned { 1 } else { 2 }),
        // Device memory has no address on the host; all else has the same on both.
        4 if kind == MemoryKind::Device => Err(Code::INVALID_VALUE),
        3 | 4 => long.set(address),
        7 => long.set(allocation.map_or(base, |allocation| allocation.serial)),
        8 => number.set((kind == MemoryKind::Managed).into()),
        // Synchronous copies, device ordinal, interprocess use.
        6 | 9 | 10 => number.set(0),
        11 => long.set(base),
        12 => long.set(bytes),
        13 => number.set(1),
        17 => {
            let pooled = allocation.is_some_and(|a| a.call.ends_with("Async"));
            long.set(if pooled { s.default_pool } else { 0 })
        }
        _ => Err(Code::INVALID_VALUE),
    }
}
