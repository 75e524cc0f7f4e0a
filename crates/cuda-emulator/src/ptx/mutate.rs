//! Faults on purpose. A kernel's tests are only as good as the wrong kernels they reject, so every
//! mutant of a module should fail them, or be known to be equivalent.

mod constants;
mod rules;

use std::collections::HashMap;

use self::rules::{Change, Context};
use super::{Body, Instruction, Module, Space, Statement, Variable};

/// What kind of fault a mutant has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MutantClass {
    /// A barrier of a block or warp is gone.
    RemovedBarrier,
    /// A wait for asynchronous copies is gone or leaves one group more in flight.
    WeakenedWait,
    /// Asynchronous copies are not committed to a group.
    RemovedCommit,
    /// `cp.async` copies all bytes where it should have filled with zeros.
    DroppedZeroFill,
    /// Two registers of a matrix fragment are swapped.
    SwappedFragment,
    /// A matrix is loaded or stored transposed, or no longer is.
    ChangedTranspose,
    /// An index is scaled by twice the right factor.
    ChangedStride,
    /// An exclusive or is an or; a mask lacks its lowest bit.
    ChangedSwizzle,
    /// A comparison is off by one.
    ChangedBound,
    /// An instruction runs under the opposite predicate.
    NegatedGuard,
    /// A store or branch runs always; a branch never.
    RemovedGuard,
    /// An array in shared memory is half as long. Dynamic shared memory is the launch's affair.
    HalvedShared,
    /// A shuffle has another mode, offset or set of lanes.
    ChangedShuffle,
    /// An atomic addition overwrites instead.
    ReplacedAtomic,
}

impl MutantClass {
    /// Every class, in order.
    pub const ALL: [Self; 14] = [
        Self::RemovedBarrier,
        Self::WeakenedWait,
        Self::RemovedCommit,
        Self::DroppedZeroFill,
        Self::SwappedFragment,
        Self::ChangedTranspose,
        Self::ChangedStride,
        Self::ChangedSwizzle,
        Self::ChangedBound,
        Self::NegatedGuard,
        Self::RemovedGuard,
        Self::HalvedShared,
        Self::ChangedShuffle,
        Self::ReplacedAtomic,
    ];

    /// A short name: `removed-barrier`.
    pub fn name(self) -> &'static str {
        match self {
            Self::RemovedBarrier => "removed-barrier",
            Self::WeakenedWait => "weakened-wait",
            Self::RemovedCommit => "removed-commit",
            Self::DroppedZeroFill => "dropped-zero-fill",
            Self::SwappedFragment => "swapped-fragment",
            Self::ChangedTranspose => "changed-transpose",
            Self::ChangedStride => "changed-stride",
            Self::ChangedSwizzle => "changed-swizzle",
            Self::ChangedBound => "changed-bound",
            Self::NegatedGuard => "negated-guard",
            Self::RemovedGuard => "removed-guard",
            Self::HalvedShared => "halved-shared",
            Self::ChangedShuffle => "changed-shuffle",
            Self::ReplacedAtomic => "replaced-atomic",
        }
    }
}

/// One fault in one place of a module.
#[derive(Clone, Debug, PartialEq)]
pub struct Mutant {
    /// Its kind.
    pub class: MutantClass,
    /// The kernel or device function; empty for a variable of the module.
    pub function: String,
    /// Function, opcode, what was changed, place in the source and in the PTX.
    pub description: String,
    edit: Edit,
}

#[derive(Clone, Debug, PartialEq)]
enum Edit {
    Remove {
        function: usize,
        statement: usize,
    },
    Replace {
        function: usize,
        statement: usize,
        by: Box<Instruction>,
    },
    /// Of a function's variable, or of the module's.
    Shorten {
        function: Option<usize>,
        variable: usize,
        length: usize,
    },
}

impl Mutant {
    /// The faulty module. `module` is the one that the mutant was made for; indices of another one
    /// may not exist.
    #[must_use]
    pub fn apply(&self, module: &Module) -> Module {
        let mut module = module.clone();
        match &self.edit {
            Edit::Remove { function, statement } => {
                body(&mut module, *function).statements.remove(*statement);
            }
            Edit::Replace { function, statement, by } => {
                body(&mut module, *function).statements[*statement] =
                    Statement::Instruction((**by).clone());
            }
            Edit::Shorten { function, variable, length } => {
                let variables = match function {
                    Some(function) => &mut body(&mut module, *function).variables,
                    None => &mut module.variables,
                };
                variables[*variable].length = Some(*length);
            }
        }
        module
    }
}

fn body(module: &mut Module, function: usize) -> &mut Body {
    module.functions[function].body.as_mut().expect("mutants are made of functions with code")
}

/// Every mutant of `module`, in the order of the text.
pub fn mutants(module: &Module) -> Vec<Mutant> {
    let mut mutants = Vec::new();
    shorten(&module.variables, None, "", &mut mutants);
    for (index, function) in module.functions.iter().enumerate() {
        let Some(body) = &function.body else { continue };
        shorten(&body.variables, Some(index), &function.name, &mut mutants);
        let constants: HashMap<_, _> = constants::constants(body);
        let context = Context { registers: &body.registers, constants: &constants };
        for (statement, line) in body.statements.iter().enumerate() {
            let Statement::Instruction(instruction) = line else { continue };
            for Change { class, what, by } in rules::changes(&context, instruction) {
                let edit = match by {
                    None => Edit::Remove { function: index, statement },
                    Some(by) => Edit::Replace { function: index, statement, by: Box::new(by) },
                };
                let description = format!(
                    "{}: {} {what} ({}, PTX line {})",
                    function.name,
                    instruction.opcode,
                    module.locations.describe(instruction.location),
                    instruction.ptx_line
                );
                let function = function.name.clone();
                mutants.push(Mutant { class, function, description, edit });
            }
        }
    }
    mutants
}

/// Halves static arrays in shared memory.
fn shorten(
    variables: &[Variable],
    function: Option<usize>,
    function_name: &str,
    mutants: &mut Vec<Mutant>,
) {
    for (index, variable) in variables.iter().enumerate() {
        let Some(length) = variable.length.filter(|&length| length > 1) else { continue };
        if variable.space != Space::Shared {
            continue;
        }
        let scope = if function_name.is_empty() { "module" } else { function_name };
        mutants.push(Mutant {
            class: MutantClass::HalvedShared,
            function: function_name.to_owned(),
            description: format!(
                "{scope}: .shared {} with half its {length} elements",
                variable.name
            ),
            edit: Edit::Shorten { function, variable: index, length: length / 2 },
        });
    }
}

#[cfg(test)]
mod tests;
