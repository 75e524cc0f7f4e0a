//! Lowered instructions.

use crate::{
    alu::{Class, Operands, Run, matrix::MatrixOp},
    counters::InstructionClass,
    ptx::LocationId,
};

/// No register: an instruction without guard, a result that is not wanted.
pub(super) const NONE: u16 = u16::MAX;

/// An instruction with physical registers.
#[derive(Debug)]
pub(super) struct Instruction {
    pub(super) op: Op,
    /// Of an [`Op::Alu`], beside it: a branch on this is predicted far better than a jump through the
    /// table of all kinds.
    pub(super) run: Option<Run>,
    /// Predicate register, or [`NONE`].
    pub(super) guard: u16,
    pub(super) negated: bool,
    pub(super) class: InstructionClass,
    pub(super) registers: Operands,
    pub(super) location: LocationId,
    pub(super) ptx_line: u32,
}

/// What to do. Comments name the registers in order.
#[derive(Debug)]
pub(super) enum Op {
    /// As the operation's signature says.
    Alu(Run),
    Branch(u32),
    /// Index.
    Switch(Box<[u32]>),
    Exit,
    /// A trap with its reason.
    Trap(&'static str),
    Nop,
    /// Data..., address.
    Load(Access),
    /// Address, data...
    Store(Access),
    /// Old value or [`NONE`], address, operand, second operand of `cas`.
    Atomic(Atomic),
    /// Shared address, global address, source size or [`NONE`], ignore predicate or [`NONE`].
    AsyncCopy(AsyncCopy),
    AsyncCommit,
    /// Groups that may stay pending; all copies, committed or not, where `None`.
    AsyncWait(Option<u32>),
    /// Fragments..., address.
    LoadMatrix(MatrixAccess),
    /// Address, fragments...
    StoreMatrix(MatrixAccess),
    Matrix(Box<Matrix>),
    /// Result, source.
    MoveMatrix,
    /// Result, predicate result or [`NONE`], value, lane or delta, clamp, members.
    Shuffle(Shuffle),
    /// Result, source predicate, members.
    Vote(Vote),
    /// Result, predicate result or [`NONE`], value, members.
    Match {
        all: bool,
        wide: bool,
    },
    /// Result, value, members.
    Reduce(Reduce),
    /// Result.
    ActiveMask,
    /// Barrier, threads or [`NONE`], result or [`NONE`], source predicate or [`NONE`].
    Barrier(Barrier),
    /// Members.
    WarpBarrier,
    /// Whether it reaches beyond the block.
    Fence {
        device: bool,
    },
    /// Predicate result, address: does it point there?
    IsSpace(Place),
    /// Result.
    Clock {
        wide: bool,
    },
    /// Ends the warp's turn.
    Sleep,
}

/// Where an access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Global,
    Shared,
    Local,
    Param,
    Generic,
}

/// A load or store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    pub(super) place: Place,
    /// Bytes of an element.
    pub(super) bytes: u8,
    /// Elements of the vector.
    pub(super) count: u8,
    /// Data registers are 64 bits wide.
    pub(super) wide: bool,
    pub(super) signed: bool,
    /// Volatile, relaxed, acquire or release: takes part in ordering, not in races.
    pub(super) strong: bool,
    /// Publishes what came before, as a fence does.
    pub(super) releases: bool,
    /// Bytes that are used, a bit each: no others are checked.
    pub(super) used: u16,
    pub(super) address: Address,
}

impl Access {
    /// Every byte counts.
    pub(super) fn is_all_used(self) -> bool {
        self.used == u16::MAX >> (16 - self.total())
    }

    /// Bytes a lane.
    pub(super) fn total(self) -> usize {
        usize::from(self.bytes) * usize::from(self.count)
    }
}

/// Register plus offset.
#[derive(Clone, Copy, Debug)]
pub(super) struct Address {
    pub(super) wide: bool,
    pub(super) offset: i64,
}

/// What an atomic does to its location.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AtomicOp {
    Add,
    Min,
    Max,
    Inc,
    Dec,
    And,
    Or,
    Xor,
    Exchange,
    CompareSwap,
}

/// How an atomic reads its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AtomicType {
    U32,
    S32,
    F32,
    F16x2,
    Bf16x2,
    F16,
    Bf16,
    U64,
    S64,
    F64,
}

impl AtomicType {
    pub(super) fn bytes(self) -> u8 {
        match self {
            AtomicType::F16 | AtomicType::Bf16 => 2,
            AtomicType::U64 | AtomicType::S64 | AtomicType::F64 => 8,
            _ => 4,
        }
    }
}

/// `atom` and `red`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Atomic {
    pub(super) place: Place,
    pub(super) op: AtomicOp,
    pub(super) ty: AtomicType,
    /// Publishes what came before, as a fence does.
    pub(super) releases: bool,
    pub(super) address: Address,
}

/// `cp.async`.
#[derive(Clone, Copy, Debug)]
pub(super) struct AsyncCopy {
    pub(super) bytes: u8,
    pub(super) shared: Address,
    pub(super) global: Address,
}

/// `ldmatrix` and `stmatrix`.
#[derive(Clone, Copy, Debug)]
pub(super) struct MatrixAccess {
    pub(super) count: u8,
    pub(super) trans: bool,
    pub(super) address: Address,
}

/// `mma`.
#[derive(Debug)]
pub(super) struct Matrix {
    pub(super) op: &'static MatrixOp,
    pub(super) d: Vec<u16>,
    pub(super) a: Vec<u16>,
    pub(super) b: Vec<u16>,
    pub(super) c: Vec<u16>,
}

/// Mode of `shfl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// Mode of `vote`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

/// Operation of `redux`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reduce {
    Add,
    MinSigned,
    MaxSigned,
    MinUnsigned,
    MaxUnsigned,
    And,
    Or,
    Xor,
}

/// Kind of a block barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Barrier {
    Sync,
    Arrive,
    Count,
    All,
    Any,
}

/// A register before allocation, or a constant of the launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Reference {
    pub(super) class: Class,
    pub(super) constant: bool,
    pub(super) id: u32,
}

/// The value of a constant register: the same for all warps of a launch, of a block, or fixed for a
/// warp's place in its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Constant {
    Bits(u64),
    Param { offset: u32, bytes: u8, signed: bool },
    ThreadIndex(u8),
    BlockIndex(u8),
    BlockSize(u8),
    GridSize(u8),
    Lane,
    Warp,
    Warps,
    Multiprocessor,
    Multiprocessors,
    LaneMask(LaneMask),
    DynamicShared,
    TotalShared,
}

/// `%lanemask_*`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum LaneMask {
    Equal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}
