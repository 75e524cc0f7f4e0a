//! Matrix instructions: `mma.sync` on fragments spread over the lanes of a warp.
//!
//! All shapes here have 16 rows (m) and 8 columns (n) and lay their fragments out alike: a register
//! of A holds 8 rows with 4 lanes each, a register of B 8 columns with 4 lanes each, and a lane's
//! word holds 1, 2 or 4 neighbours along k. A's registers alternate between the upper and the
//! lower 8 rows, then go on along k.

mod elements;
mod exact;
mod tiles;

use super::registers::Registers;
use crate::exec::MatrixOrder;
use std::{collections::HashMap, sync::LazyLock};
pub use tiles::{ldmatrix_tile, movmatrix, stmatrix_tile};

/// Runs a matrix instruction: registers of d, a, b and c, in the order of PTX.
pub type MatrixRun = fn(&mut Registers, &[u16], &[u16], &[u16], &[u16], MatrixOrder);

/// A matrix instruction.
#[derive(Clone, Copy, Debug)]
pub struct MatrixOp {
    /// Registers of A.
    pub a: usize,
    /// Registers of B.
    pub b: usize,
    /// Registers of the accumulator.
    pub c: usize,
    /// Registers of the result.
    pub d: usize,
    /// Operations of a warp, two for a multiply-add.
    pub flops: u64,
    /// The operation, for all lanes.
    pub run: MatrixRun,
}

/// The matrix instruction written as `opcode`.
pub fn find(opcode: &str) -> Option<&'static MatrixOp> {
    TABLE.get(opcode)
}

/// All matrix instructions, in no order.
pub fn entries() -> impl Iterator<Item = (&'static str, &'static MatrixOp)> {
    TABLE.iter().map(|(opcode, op)| (opcode.as_str(), op))
}

static TABLE: LazyLock<HashMap<String, MatrixOp>> = LazyLock::new(elements::table);
