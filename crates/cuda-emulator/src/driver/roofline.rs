//! A bound on a kernel's time from what it was counted to do.
//!
//! Each count divided by the device's peak rate is a time that no run can beat, and the largest of
//! them is the bound. It is not a measurement: latencies, caches, occupancy and the driver are left
//! out. Sectors are counted at the warps, so data that a cache would serve again counts again: for
//! a kernel that re-reads its operands the memory bound may lie above what hardware needs.

use serde::Serialize;

use crate::{
    counters::{Counters, InstructionClass},
    profile::Profile,
};

/// How every report names these numbers.
pub(crate) const LABEL: &str = "bound from counts, not a time";

/// Seconds that each part of the device needs at its peak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Bound {
    /// Sectors of global memory over the bandwidth.
    pub(crate) memory: f64,
    /// Matrix instructions over their peak.
    pub(crate) matrix: f64,
    /// f32 instructions over their peak.
    pub(crate) float32: f64,
    /// Passes over shared memory, one a clock on each multiprocessor.
    pub(crate) shared: f64,
    /// Warp instructions, four a clock on each multiprocessor.
    pub(crate) issue: f64,
}

const SECTOR: f64 = 32.0;
const WARP: f64 = 32.0;
const ISSUE_PER_CLOCK: f64 = 4.0;

impl Bound {
    /// The bound of these counts on that device.
    pub(crate) fn new(counters: &Counters, profile: &Profile) -> Self {
        let clocks = f64::from(profile.multiprocessors) * f64::from(profile.clock_khz) * 1e3;
        let class = InstructionClass::ALL.iter().position(|c| *c == InstructionClass::Float32);
        let float32 = class.map_or(0, |i| counters.instructions[i]);
        Self {
            memory: counters.global_sectors as f64 * SECTOR / profile.peak_bandwidth,
            matrix: counters.mma_flops as f64 / profile.peak_matrix_flops,
            float32: float32 as f64 * WARP * 2.0 / profile.peak_f32_flops,
            shared: counters.total_shared().wavefronts as f64 / clocks,
            issue: counters.total_instructions() as f64 / (ISSUE_PER_CLOCK * clocks),
        }
    }

    /// The largest part and its name.
    pub(crate) fn limit(&self) -> (&'static str, f64) {
        let parts = [
            ("memory", self.memory),
            ("matrix", self.matrix),
            ("float32", self.float32),
            ("shared", self.shared),
            ("issue", self.issue),
        ];
        parts.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or(("memory", 0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::SharedAccess;
    use crate::profile::{A100, RTX_3090};

    #[test]
    fn each_resource_can_be_the_limit() {
        let clocks = 82.0 * 1.695e9;
        let float32 = InstructionClass::Float32 as usize;
        for (name, expected, counters) in [
            ("memory", 32e6 / 936e9, Counters { global_sectors: 1_000_000, ..Counters::default() }),
            ("matrix", 1.0, Counters { mma_flops: 71_000_000_000_000, ..Counters::default() }),
            ("shared", 1e6 / clocks, {
                let mut counters = Counters::default();
                counters.shared[SharedAccess::Load as usize].wavefronts = 1_000_000;
                counters
            }),
            ("issue", 1e6 / (4.0 * clocks), {
                let mut counters = Counters::default();
                counters.instructions[InstructionClass::Integer as usize] = 1_000_000;
                counters
            }),
            ("float32", 1e9 * 64.0 / 19.5e12, {
                let mut counters = Counters::default();
                counters.instructions[float32] = 1_000_000_000;
                counters
            }),
        ] {
            // Only a device with half the lanes can be short of f32 before it is short of issue slots.
            let profile = if name == "float32" { &A100 } else { &RTX_3090 };
            let (limit, seconds) = Bound::new(&counters, profile).limit();
            assert_eq!(limit, name);
            assert!((seconds / expected - 1.0).abs() < 1e-9, "{name}: {seconds} {expected}");
        }
    }
}
