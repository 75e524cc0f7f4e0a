//! Register files and the operations that work on registers alone.
//!
//! A warp's register is one vector of 32 lanes. An operation is a plain function over whole
//! registers under a lane mask; the table of [`find`] maps an opcode as written in PTX to it.
//! Matrix instructions have a table of their own, [`matrix::find`].
//!
//! Every value is as wide as the type that the opcode names and zero-extended in its register:
//! `cvt.s8.s32` and `neg.s16` leave 8 and 16 bits. Where PTX lets a destination register be wider
//! than the type, the lowering widens with a second operation (`cvt.s32.s8`, `cvt.u32.u16`).

// A lane's computation must end up inside the function that turns the vector instructions on.
#![allow(clippy::inline_always)]

mod lane;
pub mod matrix;
mod operation;
mod ops;
mod registers;
mod rounding;
mod sixteen;
mod soft;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use operation::wide;
pub use registers::{Class, Lanes32, Lanes64, Operands, Registers, WARP};
pub use table::{Entry, Run, entries, find};
