//! What a kernel made the device do, counted.

use serde::Serialize;

/// A class of warp instructions, as the hardware's pipes divide them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum InstructionClass {
    Integer,
    Float32,
    Float64,
    Half,
    Special,
    Conversion,
    Move,
    Predicate,
    Control,
    Barrier,
    Global,
    Shared,
    Local,
    Atomic,
    AsyncCopy,
    Matrix,
    WarpExchange,
}

impl InstructionClass {
    /// Number of classes.
    pub const COUNT: usize = 17;
    /// Every class, in the order of [`Counters::instructions`].
    pub const ALL: [InstructionClass; Self::COUNT] = [
        InstructionClass::Integer,
        InstructionClass::Float32,
        InstructionClass::Float64,
        InstructionClass::Half,
        InstructionClass::Special,
        InstructionClass::Conversion,
        InstructionClass::Move,
        InstructionClass::Predicate,
        InstructionClass::Control,
        InstructionClass::Barrier,
        InstructionClass::Global,
        InstructionClass::Shared,
        InstructionClass::Local,
        InstructionClass::Atomic,
        InstructionClass::AsyncCopy,
        InstructionClass::Matrix,
        InstructionClass::WarpExchange,
    ];
}

/// A way to reach shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum SharedAccess {
    Load,
    Store,
    Atomic,
    /// What `cp.async` writes.
    AsyncCopy,
    /// `ldmatrix` and `stmatrix`.
    Matrix,
}

impl SharedAccess {
    /// Number of ways.
    pub const COUNT: usize = 5;
    /// Every way, in the order of [`Counters::shared`].
    pub const ALL: [SharedAccess; Self::COUNT] = [
        SharedAccess::Load,
        SharedAccess::Store,
        SharedAccess::Atomic,
        SharedAccess::AsyncCopy,
        SharedAccess::Matrix,
    ];
}

/// Accesses to shared memory, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SharedCounters {
    /// Warp-wide accesses.
    pub requests: u64,
    /// Passes over the 32 banks that these take.
    pub wavefronts: u64,
    /// Passes they would take without bank conflicts.
    pub ideal_wavefronts: u64,
}

impl SharedCounters {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.wavefronts += other.wavefronts;
        self.ideal_wavefronts += other.ideal_wavefronts;
    }
}

/// Totals of one or more launches of a kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Warp instructions issued, by [`InstructionClass`].
    pub instructions: [u64; InstructionClass::COUNT],
    /// Lanes that executed, summed over warp instructions; at most 32 each.
    pub active_lanes: u64,
    /// Bytes that lanes asked to read from global memory.
    pub global_load_bytes: u64,
    /// Bytes that lanes wrote to global memory.
    pub global_store_bytes: u64,
    /// Distinct 32-byte sectors of each warp-wide global access, summed.
    pub global_sectors: u64,
    /// Accesses to shared memory, by [`SharedAccess`].
    pub shared: [SharedCounters; SharedAccess::COUNT],
    /// Matrix instructions.
    pub mma: u64,
    /// Their floating point operations, two for a multiply-add.
    pub mma_flops: u64,
    /// Warp arrivals at block barriers.
    pub barriers: u64,
    /// Lane-wise atomic operations.
    pub atomics: u64,
    /// Most lanes of one warp instruction that met at one address.
    pub atomic_conflicts: u64,
}

impl Counters {
    /// Warp instructions of all classes.
    pub fn total_instructions(&self) -> u64 {
        self.instructions.iter().sum()
    }

    /// Accesses to shared memory of all kinds.
    pub fn total_shared(&self) -> SharedCounters {
        let mut total = SharedCounters::default();
        self.shared.into_iter().for_each(|kind| total.add(kind));
        total
    }

    /// Adds another launch, or another worker's share of one.
    pub fn merge(&mut self, other: &Self) {
        for (a, b) in self.instructions.iter_mut().zip(&other.instructions) {
            *a += b;
        }
        self.active_lanes += other.active_lanes;
        self.global_load_bytes += other.global_load_bytes;
        self.global_store_bytes += other.global_store_bytes;
        self.global_sectors += other.global_sectors;
        for (a, b) in self.shared.iter_mut().zip(other.shared) {
            a.add(b);
        }
        self.mma += other.mma;
        self.mma_flops += other.mma_flops;
        self.barriers += other.barriers;
        self.atomics += other.atomics;
        self.atomic_conflicts = self.atomic_conflicts.max(other.atomic_conflicts);
    }
}
