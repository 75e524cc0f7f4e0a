//! What the checks report.

use std::fmt;

use serde::Serialize;

/// A kind of defect. `CUDA_EMULATOR_CHECKS` names them as [`Check::name`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Check {
    OutOfBounds,
    UseAfterFree,
    DoubleFree,
    Leak,
    Misaligned,
    Uninitialised,
    SharedRace,
    GlobalRace,
    AsyncCopyPending,
    BarrierDivergence,
    WarpSync,
    LaunchLimit,
    Arguments,
    StreamOrder,
    Trap,
    Hang,
}

impl Check {
    /// Every check.
    pub const ALL: [Check; 16] = [
        Check::OutOfBounds,
        Check::UseAfterFree,
        Check::DoubleFree,
        Check::Leak,
        Check::Misaligned,
        Check::Uninitialised,
        Check::SharedRace,
        Check::GlobalRace,
        Check::AsyncCopyPending,
        Check::BarrierDivergence,
        Check::WarpSync,
        Check::LaunchLimit,
        Check::Arguments,
        Check::StreamOrder,
        Check::Trap,
        Check::Hang,
    ];

    /// The name in reports and settings.
    pub fn name(self) -> &'static str {
        match self {
            Check::OutOfBounds => "out-of-bounds",
            Check::UseAfterFree => "use-after-free",
            Check::DoubleFree => "double-free",
            Check::Leak => "leak",
            Check::Misaligned => "misaligned",
            Check::Uninitialised => "uninitialised",
            Check::SharedRace => "shared-race",
            Check::GlobalRace => "global-race",
            Check::AsyncCopyPending => "async-copy-pending",
            Check::BarrierDivergence => "barrier-divergence",
            Check::WarpSync => "warp-sync",
            Check::LaunchLimit => "launch-limit",
            Check::Arguments => "arguments",
            Check::StreamOrder => "stream-order",
            Check::Trap => "trap",
            Check::Hang => "hang",
        }
    }

    /// Whether the kernel cannot go on: the real device would stop it with a sticky error.
    pub fn is_fault(self) -> bool {
        matches!(
            self,
            Check::OutOfBounds
                | Check::UseAfterFree
                | Check::Misaligned
                | Check::BarrierDivergence
                | Check::WarpSync
                | Check::Trap
                | Check::Hang
        )
    }
}

/// One defect, with everything known about where it happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind.
    pub check: Check,
    /// What happened, in a sentence, sizes and the other party of a race included.
    pub message: String,
    /// Kernel, or driver call for defects of the host program.
    pub kernel: String,
    /// `file:line`, inlining included; the PTX line where the module has no line information.
    pub source: String,
    /// Line of the kernel's own source file; 0 when unknown.
    pub line: u32,
    /// Block index.
    pub block: Option<[u32; 3]>,
    /// Thread index in the block.
    pub thread: Option<[u32; 3]>,
    /// Device address, or offset in shared or local memory.
    pub address: Option<u64>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} [{}", self.check.name(), self.message, self.kernel)?;
        if !self.source.is_empty() {
            write!(f, ", {}", self.source)?;
        }
        if let Some([x, y, z]) = self.block {
            write!(f, ", block ({x}, {y}, {z})")?;
        }
        if let Some([x, y, z]) = self.thread {
            write!(f, ", thread ({x}, {y}, {z})")?;
        }
        if let Some(address) = self.address {
            write!(f, ", address {address:#x}")?;
        }
        f.write_str("]")
    }
}
