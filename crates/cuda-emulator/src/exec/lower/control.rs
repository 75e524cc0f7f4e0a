//! Branches, barriers, fences.

use super::{
    Access, Argument, Class, Constant, Flat, InstructionClass, Lowered, Lowering, Modifiers, Op,
    Place, Reason,
};
use crate::exec::instruction::{Address, Barrier};

impl Lowering<'_> {
    pub(super) fn control(
        &mut self,
        opcode: &str,
        base: &str,
        flat: &Flat<'_>,
    ) -> Result<Lowered, Reason> {
        let mut modifiers = Modifiers::new(opcode);
        let class = InstructionClass::Control;
        let mut lowered = match base {
            "bra" => {
                modifiers.take("uni");
                Lowered::new(Op::Branch(0), class)
            }
            "brx" => {
                modifiers.take("idx");
                modifiers.take("uni");
                let index = self.source(flat.arguments.first().ok_or("operands")?, Class::W)?;
                Lowered::new(Op::Switch(Box::default()), class).sources([Some(index)])
            }
            "ret" | "exit" => {
                modifiers.take("uni");
                let op = if flat.targets.is_empty() { Op::Exit } else { Op::Branch(0) };
                Lowered::new(op, class)
            }
            "trap" | "brkpt" => Lowered::new(Op::Trap("trap instruction"), class),
            "nanosleep" => {
                modifiers.take("u32");
                Lowered::new(Op::Sleep, class)
            }
            "call" => return Ok(self.runtime_call(flat)),
            _ => {
                let device = !modifiers.take("cta");
                modifiers.one_of(&["gl", "sys", "gpu"]);
                modifiers.one_of(&["sc", "acq_rel", "acquire", "release"]);
                Lowered::new(Op::Fence { device }, InstructionClass::Barrier)
            }
        };
        modifiers.finish()?;
        lowered.targets.clone_from(&flat.targets);
        Ok(lowered)
    }

    /// What is left of a call to the device runtime: `printf` stores its result, a failed
    /// assertion ends the kernel.
    fn runtime_call(&mut self, flat: &Flat<'_>) -> Lowered {
        let [Argument::Spot(spot, offset)] = flat.arguments.as_slice() else {
            return Lowered::new(Op::Trap("assertion failed"), InstructionClass::Control);
        };
        let at = self.address_of(*spot, *offset);
        let base = self.constant(Class::D, Constant::Bits(at));
        let zero = self.constant(Class::W, Constant::Bits(0));
        let access = Access {
            place: Place::Local,
            bytes: 4,
            count: 1,
            wide: false,
            signed: false,
            strong: false,
            releases: false,
            used: 0xf,
            address: Address { wide: true, offset: 0 },
        };
        Lowered::new(Op::Store(access), InstructionClass::Local).sources([Some(base), Some(zero)])
    }

    pub(super) fn barrier(&mut self, opcode: &str, flat: &Flat<'_>) -> Result<Lowered, Reason> {
        let mut modifiers = Modifiers::new(opcode);
        let class = InstructionClass::Barrier;
        let arguments = flat.arguments.as_slice();
        if modifiers.take("warp") {
            modifiers.take("sync");
            modifiers.finish()?;
            let [members] = arguments else {
                return Err("operands".into());
            };
            let members = self.source(members, Class::W)?;
            return Ok(Lowered::new(Op::WarpBarrier, class).sources([Some(members)]));
        }
        modifiers.take("cta");
        modifiers.take("aligned");
        let kind = modifiers.one_of(&["sync", "arrive", "red"]).ok_or("kind")?;
        let (kind, result_class) = match kind {
            "sync" => (Barrier::Sync, None),
            "arrive" => (Barrier::Arrive, None),
            _ => match modifiers.one_of(&["popc", "and", "or"]) {
                Some("popc") => (Barrier::Count, Some(Class::W)),
                Some("and") => (Barrier::All, Some(Class::P)),
                Some(_) => (Barrier::Any, Some(Class::P)),
                None => return Err("reduction".into()),
            },
        };
        modifiers.one_of(&["pred", "u32"]);
        modifiers.finish()?;
        let (result, rest) = match result_class {
            Some(class) => {
                let (to, rest) = arguments.split_first().ok_or("operands")?;
                (self.result(to, class)?, rest)
            }
            None => (None, arguments),
        };
        let (predicate, rest) = match (result_class, rest) {
            (Some(_), [rest @ .., Argument::NotRegister(_)]) => {
                let _ = rest;
                return Err("a negated predicate".into());
            }
            (Some(_), [rest @ .., predicate]) => (Some(self.source(predicate, Class::P)?), rest),
            _ => (None, rest),
        };
        let (id, threads) = match rest {
            [id] => (id, None),
            [id, threads] => (id, Some(self.source(threads, Class::W)?)),
            _ => return Err("operands".into()),
        };
        let id = self.source(id, Class::W)?;
        Ok(Lowered::new(Op::Barrier(kind), class).results([result]).sources([
            Some(id),
            threads,
            predicate,
        ]))
    }
}
