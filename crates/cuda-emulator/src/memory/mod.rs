//! Device memory: an address space of allocations with guard gaps, a valid bit for each byte, and
//! the record of which block touched what within a launch.

mod racy;
mod space;
mod touch;
mod valid;

pub(crate) use racy::{Bytes, Word};
pub(crate) use space::Allocation;
pub use space::{AccessError, FreeError, Memory, OutOfMemory};
pub(crate) use touch::{BlockOrder, Conflict, Kind, Races};

/// Bytes that a word of the records covers, and of which a word holds a bit each.
pub(crate) const LINE: usize = 64;

/// The lines that the non-empty range `[start, end)` touches, with a bit for each byte of it.
#[inline(always)]
pub(crate) fn lines(start: usize, end: usize) -> impl Iterator<Item = (usize, u64)> {
    let (first, last) = (start / LINE, (end - 1) / LINE);
    (first..=last).map(move |line| {
        let head = if line == first { u64::MAX << (start % LINE) } else { u64::MAX };
        let tail = if line == last { u64::MAX >> (LINE - 1 - (end - 1) % LINE) } else { u64::MAX };
        (line, head & tail)
    })
}
