//! Windows of the generic address space.

/// Generic addresses of shared memory.
pub(super) const SHARED_WINDOW: u64 = 0x0100_0000_0000;
/// Generic addresses of local memory.
pub(super) const LOCAL_WINDOW: u64 = 0x0200_0000_0000;
/// Size of either.
pub(super) const WINDOW: u64 = 1 << 32;
