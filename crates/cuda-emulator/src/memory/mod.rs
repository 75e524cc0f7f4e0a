//! Device memory: an address space of allocations with guard gaps, a valid bit for each byte, and
//! the record of which block touched what within a launch.

mod racy;
mod space;
mod touch;
mod valid;

pub(crate) use space::Allocation;
pub use space::{AccessError, FreeError, Memory, OutOfMemory};
pub(crate) use touch::{BlockOrder, Conflict, Kind, Races};
