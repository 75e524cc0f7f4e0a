//! The register file of a warp.

/// Lanes of a warp.
pub const WARP: usize = 32;

/// 32-bit values of all lanes; 16-bit values are held zero-extended, f32 as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(align(64))]
pub struct Lanes32(pub [u32; WARP]);

/// 64-bit values of all lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(align(64))]
pub struct Lanes64(pub [u64; WARP]);

/// Which file of [`Registers`] a register index means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// A predicate: one bit a lane, bit i is lane i.
    P,
    /// 8, 16 and 32 bits.
    W,
    /// 64 bits.
    D,
}

/// The registers of one warp: one file for each class.
#[derive(Clone, Debug, Default)]
pub struct Registers {
    /// Predicates.
    pub p: Vec<u32>,
    /// 32-bit registers.
    pub w: Vec<Lanes32>,
    /// 64-bit registers.
    pub d: Vec<Lanes64>,
    /// The carry flag of `add.cc` and its kin, a bit a lane.
    pub carry: u32,
}

/// Register indices of an instruction: results first, then sources, each in the file that the
/// opcode's signature says.
pub type Operands = [u16; 8];
