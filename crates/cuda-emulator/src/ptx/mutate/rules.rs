//! Which faults an instruction can have.

use std::collections::HashMap;

use super::MutantClass;
use crate::ptx::{Instruction, Operand, Register, RegisterId};

/// What is known of the function around the instruction.
pub(super) struct Context<'a> {
    pub(super) registers: &'a [Register],
    pub(super) constants: &'a HashMap<RegisterId, i64>,
}

/// One fault: the instruction replaced, or removed where there is no other.
pub(super) struct Change {
    pub(super) class: MutantClass,
    pub(super) what: String,
    pub(super) by: Option<Instruction>,
}

/// Every fault of an instruction.
pub(super) fn changes(context: &Context, instruction: &Instruction) -> Vec<Change> {
    let parts: Vec<&str> = instruction.opcode.split('.').collect();
    let mut rules = Rules { context, instruction, parts: &parts, changes: Vec::new() };
    match parts[0] {
        "bar" | "barrier" => rules.barrier(),
        "cp" => rules.async_copy(),
        "mma" | "wmma" => rules.matrix(),
        "ldmatrix" | "stmatrix" => rules.matrix_memory(),
        "mul" | "mad" | "shl" => rules.stride(),
        "xor" | "and" => rules.swizzle(),
        "setp" | "set" => rules.bound(),
        "shfl" => rules.shuffle(),
        "atom" | "red" => rules.atomic(),
        _ => {}
    }
    rules.guard();
    rules.changes
}

struct Rules<'a> {
    context: &'a Context<'a>,
    instruction: &'a Instruction,
    /// The opcode without its dots.
    parts: &'a [&'a str],
    changes: Vec<Change>,
}

impl Rules<'_> {
    fn has(&self, part: &str) -> bool {
        self.parts.contains(&part)
    }

    fn remove(&mut self, class: MutantClass, what: &str) {
        self.changes.push(Change { class, what: what.into(), by: None });
    }

    fn replace(
        &mut self,
        class: MutantClass,
        what: impl Into<String>,
        edit: impl FnOnce(&mut Instruction),
    ) {
        let mut by = self.instruction.clone();
        edit(&mut by);
        self.changes.push(Change { class, what: what.into(), by: Some(by) });
    }

    fn set_operand(&mut self, class: MutantClass, index: usize, value: i64) {
        let what = format!("with operand {index} = {value}");
        self.replace(class, what, |by| by.operands[index] = Operand::Integer(value));
    }

    /// One part of the opcode replaced; removed where there is no other.
    fn set_part(&mut self, class: MutantClass, index: usize, part: Option<&str>) {
        let mut parts = self.parts.to_vec();
        parts.splice(index..=index, part);
        let opcode = parts.join(".");
        self.replace(class, format!("as {opcode}"), |by| by.opcode = opcode);
    }

    fn integer(&self, index: usize) -> Option<i64> {
        match self.instruction.operands.get(index) {
            Some(Operand::Integer(value)) => Some(*value),
            _ => None,
        }
    }

    /// An integer, or a register that never holds anything but one.
    fn constant(&self, index: usize) -> Option<i64> {
        match self.instruction.operands.get(index) {
            Some(Operand::Register(register)) => self.context.constants.get(register).copied(),
            _ => self.integer(index),
        }
    }

    fn barrier(&mut self) {
        if self.has("sync") {
            self.remove(MutantClass::RemovedBarrier, "removed");
        }
    }

    fn async_copy(&mut self) {
        if self.parts.get(1) != Some(&"async") {
            return;
        }
        if self.has("commit_group") {
            self.remove(MutantClass::RemovedCommit, "removed");
        } else if self.has("wait_group") || self.has("wait_all") {
            self.remove(MutantClass::WeakenedWait, "removed");
            if let Some(groups) = self.integer(0) {
                self.set_operand(MutantClass::WeakenedWait, 0, groups.wrapping_add(1));
            }
        } else if self.instruction.operands.len() == 4 && !self.has("L2::cache_hint") {
            self.replace(MutantClass::DroppedZeroFill, "without its source size", |by| {
                by.operands.truncate(3);
            });
        }
    }

    fn matrix(&mut self) {
        if !self.has("mma") {
            return;
        }
        for (index, name) in ["d", "a", "b", "c"].into_iter().enumerate() {
            self.swap(index, name);
        }
    }

    fn matrix_memory(&mut self) {
        if self.parts[0] == "ldmatrix" {
            self.swap(0, "results");
        }
        let class = MutantClass::ChangedTranspose;
        if let Some(index) = self.parts.iter().position(|part| *part == "trans") {
            self.set_part(class, index, None);
        } else if let Some(index) =
            self.parts.iter().position(|part| matches!(*part, "x1" | "x2" | "x4"))
        {
            let count = format!("{}.trans", self.parts[index]);
            self.set_part(class, index, Some(&count));
        }
    }

    /// The two registers in the middle: the fragments' other halves.
    fn swap(&mut self, operand: usize, name: &str) {
        let Some(Operand::Vector(list)) = self.instruction.operands.get(operand) else { return };
        let upper = list.len() / 2;
        if upper == 0 || list[upper - 1] == list[upper] {
            return;
        }
        let what = format!("with {name}[{}] and [{upper}] swapped", upper - 1);
        self.replace(MutantClass::SwappedFragment, what, |by| {
            if let Operand::Vector(list) = &mut by.operands[operand] {
                list.swap(upper - 1, upper);
            }
        });
    }

    fn stride(&mut self) {
        /// Larger factors are those of hashes and of division by multiplication.
        const LARGEST: i64 = 1 << 30;
        let Some(value) = self.integer(2) else { return };
        if self.parts[0] == "shl" {
            if (0..63).contains(&value) {
                self.set_operand(MutantClass::ChangedStride, 2, value + 1);
            }
        } else if !self.has("hi") && value != 0 && (-LARGEST..LARGEST).contains(&value) {
            self.set_operand(MutantClass::ChangedStride, 2, value * 2);
        }
    }

    fn swizzle(&mut self) {
        if self.has("pred") {
            return;
        }
        if self.parts[0] == "xor" {
            self.set_part(MutantClass::ChangedSwizzle, 0, Some("or"));
        } else if let Some(mask) = self.integer(2).filter(|mask| *mask != 0) {
            self.set_operand(MutantClass::ChangedSwizzle, 2, mask & mask.wrapping_sub(1));
        }
    }

    /// A comparison with a number is moved by one either way, which is what `<` for `<=` would do;
    /// one of two registers gets the other operator.
    fn bound(&mut self) {
        let other = match *self.parts.get(1).unwrap_or(&"") {
            "lt" => Some("le"),
            "le" => Some("lt"),
            "gt" => Some("ge"),
            "ge" => Some("gt"),
            "lo" => Some("ls"),
            "ls" => Some("lo"),
            "hi" => Some("hs"),
            "hs" => Some("hi"),
            "ltu" => Some("leu"),
            "leu" => Some("ltu"),
            "gtu" => Some("geu"),
            "geu" => Some("gtu"),
            "eq" | "ne" => None,
            _ => return,
        };
        let number = [1, 2].into_iter().find_map(|index| Some((index, self.integer(index)?)));
        if let Some((index, value)) = number {
            for moved in [value.wrapping_add(1), value.wrapping_sub(1)] {
                self.set_operand(MutantClass::ChangedBound, index, moved);
            }
        } else if other.is_some() {
            self.set_part(MutantClass::ChangedBound, 1, other);
        }
    }

    fn shuffle(&mut self) {
        const HALF_A_WARP: i64 = 0xFFFF;
        let class = MutantClass::ChangedShuffle;
        let mode = self.parts.iter().enumerate().find_map(|(index, mode)| {
            let other = match *mode {
                "bfly" | "up" => "down",
                "down" => "up",
                "idx" => "bfly",
                _ => return None,
            };
            Some((index, other))
        });
        if let Some((index, other)) = mode {
            self.set_part(class, index, Some(other));
        }
        if let Some(offset) = self.constant(2) {
            self.set_operand(class, 2, if offset == 0 { 1 } else { offset / 2 });
        }
        if self.instruction.operands.len() == 5 && self.constant(4) != Some(HALF_A_WARP) {
            self.set_operand(class, 4, HALF_A_WARP);
        }
    }

    /// `atom.add` exchanges instead; `red.add` stores.
    fn atomic(&mut self) {
        let (&[base, ref modifiers @ .., ty], true) = (self.parts, self.has("add")) else { return };
        if modifiers.iter().any(|part| matches!(*part, "v2" | "v4" | "v8" | "async")) {
            return;
        }
        let width = match ty {
            "u32" | "s32" | "f32" | "f16x2" | "bf16x2" => "b32",
            "u64" | "s64" | "f64" => "b64",
            _ => return,
        };
        let spaces = ["global", "shared", "shared::cta", "shared::cluster"];
        let opcode = if base == "atom" {
            let kept = modifiers.iter().filter(|part| **part != "noftz");
            let kept = kept.map(|part| if *part == "add" { "exch" } else { *part });
            [base].into_iter().chain(kept).chain([width]).collect::<Vec<_>>().join(".")
        } else {
            let space = modifiers.iter().filter(|part| spaces.contains(*part));
            ["st"].iter().chain(space).chain(&[width]).copied().collect::<Vec<_>>().join(".")
        };
        self.replace(MutantClass::ReplacedAtomic, format!("as {opcode}"), |by| by.opcode = opcode);
    }

    fn guard(&mut self) {
        let Some(guard) = self.instruction.guard else { return };
        let register = self.context.registers.get(guard.register as usize);
        let name = register.map_or("?", |register| register.name.as_str());
        self.replace(MutantClass::NegatedGuard, format!("with guard {name} negated"), |by| {
            by.guard = by.guard.map(|guard| crate::ptx::Guard { negated: !guard.negated, ..guard });
        });
        let class = MutantClass::RemovedGuard;
        if matches!(self.parts[0], "st" | "bra" | "cp" | "atom" | "red") {
            self.replace(class, format!("without guard {name}"), |by| by.guard = None);
        }
        if self.parts[0] == "bra" {
            self.remove(class, &format!("under {name} removed"));
        }
    }
}
