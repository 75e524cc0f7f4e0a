//! Registers that hold one number throughout: nvcc moves the operands of shuffles into such.

use std::collections::HashMap;

use crate::ptx::{Body, Operand, RegisterId, Statement};

/// Registers written once, by a move of an integer.
pub(super) fn constants(body: &Body) -> HashMap<RegisterId, i64> {
    let mut written: HashMap<RegisterId, Option<i64>> = HashMap::new();
    for statement in &body.statements {
        let Statement::Instruction(instruction) = statement else { continue };
        let value = match &instruction.operands[..] {
            [_, Operand::Integer(value)]
                if instruction.opcode.starts_with("mov.") && instruction.guard.is_none() =>
            {
                Some(*value)
            }
            _ => None,
        };
        for register in instruction.operands.first().map(results).unwrap_or_default() {
            written.entry(register).and_modify(|known| *known = None).or_insert(value);
        }
    }
    written.into_iter().filter_map(|(register, value)| Some((register, value?))).collect()
}

/// The registers of a first operand, which are its results unless it is an address.
fn results(operand: &Operand) -> Vec<RegisterId> {
    match operand {
        Operand::Register(register) => vec![*register],
        Operand::Pair(first, second) => [results(first), results(second)].concat(),
        Operand::Vector(list) | Operand::List(list) => list.iter().flat_map(results).collect(),
        _ => Vec::new(),
    }
}
