//! What a run checks and in which of the allowed orders it executes.

use crate::findings::Check;

/// A set of checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckSet(u32);

impl CheckSet {
    /// Every check.
    pub const ALL: Self = Self(u32::MAX);
    /// None; faults that the device itself would report stay.
    pub const NONE: Self = Self(0);

    /// Whether `check` is on.
    pub fn contains(self, check: Check) -> bool {
        self.0 >> (check as u32) & 1 != 0
    }

    /// With `check` on.
    #[must_use]
    pub fn with(self, check: Check) -> Self {
        Self(self.0 | 1 << (check as u32))
    }

    /// With `check` off.
    #[must_use]
    pub fn without(self, check: Check) -> Self {
        Self(self.0 & !(1 << (check as u32)))
    }
}

/// How `mma` sums its products: the hardware's order is not documented, so results must not rest
/// on one of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MatrixOrder {
    /// One f32 fused multiply-add after the other, k ascending, onto the accumulator.
    #[default]
    Sequential,
    /// All products and the accumulator summed exactly, then truncated to f32.
    Truncated,
}

/// Settings of a launch.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Checks that are on.
    pub checks: CheckSet,
    /// Chooses the order of warps and blocks.
    pub seed: u64,
    /// Worker threads across blocks.
    pub threads: usize,
    /// Warp instructions of one launch after which it counts as hanging.
    pub instruction_budget: u64,
    /// Summation order of `mma`.
    pub matrix_order: MatrixOrder,
    /// Whether to count.
    pub counters: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            checks: CheckSet::ALL,
            seed: 0,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            instruction_budget: 1 << 34,
            matrix_order: MatrixOrder::default(),
            counters: true,
        }
    }
}
