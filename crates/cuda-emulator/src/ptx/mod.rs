//! PTX text to syntax tree and back.
//!
//! Source: NVIDIA, "Parallel Thread Execution ISA". The subset is what nvcc emits for `sm_80` and
//! newer without `wgmma` and TMA; anything else is an error that names line and construct.

mod ast;
mod lexer;
pub mod mutate;
mod parser;
mod printer;
#[cfg(test)]
mod tests;

pub use ast::{
    Body, Dim3, Function, FunctionKind, Guard, Initial, Instruction, Linkage, LocationId,
    Locations, Module, Operand, Register, RegisterId, SourceLocation, Space, Statement, Type,
    Variable,
};
pub use parser::{ParseError, parse};
