//! What a run takes of a device's memory, and how to use what it leaves.
//!
//! Nothing is estimated: the run's own code goes through its motions on a backend that allocates, checks
//! and counts but has no memory ([`Backend::dry_run`](kernels::Backend::dry_run)).

mod devices;
mod policy;
mod rehearsal;
mod report;
mod settle;
mod setup;
mod size;
#[cfg(test)]
mod tests;

pub use self::size::{Budget, size};
pub use devices::{CARDS, Card, RESERVE};
pub use policy::{Choice, choose};
pub use rehearsal::{Need, Rehearsal, Workload, extremes};
pub use report::{Report, kept};
pub use settle::{of_free, settle, too_large};
pub use setup::{AdapterFrom, Setup, trained};
