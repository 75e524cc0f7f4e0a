//! Operations on registers, moves and address conversions.

use super::{
    Argument, Class, Flat, InstructionClass, Lowered, Lowering, Modifiers, Op, Place, Reason,
};
use super::{LOCAL_WINDOW, SHARED_WINDOW};
use crate::{alu, ptx::Type};

impl Lowering<'_> {
    /// An operation of the table, written as `opcode` with `arguments`.
    pub(super) fn arithmetic(
        &mut self,
        key: &str,
        opcode: &str,
        arguments: &[Argument],
    ) -> Result<Lowered, Reason> {
        let entry = alu::find(key).ok_or("this form of the opcode")?;
        let (wanted, given) = (entry.results.len() + entry.sources.len(), arguments.len());
        if wanted != given {
            return Err(format!("{given} operands where `{opcode}` takes {wanted}"));
        }
        self.check_width(opcode, arguments)?;
        let mut lowered = Lowered::new(Op::Alu(entry.run), entry.class);
        let (results, sources) = arguments.split_at(entry.results.len());
        for (argument, &class) in results.iter().zip(entry.results) {
            // Not wanted: it still needs a register of its own to be written to.
            let result = self.result(argument, class)?.ok_or("a result that is not wanted")?;
            lowered.results.push(Some(result));
        }
        for (argument, &class) in sources.iter().zip(entry.sources) {
            let source = match argument {
                Argument::NotRegister(_) => return Err("a negated predicate operand".into()),
                _ => self.source(argument, class)?,
            };
            lowered.sources.push(Some(source));
        }
        Ok(lowered)
    }

    /// Results of the table are as wide as their type. A conversion to a narrow signed type would have
    /// to be extended in a wider register.
    fn check_width(&self, opcode: &str, arguments: &[Argument]) -> Result<(), Reason> {
        let ty = opcode.split('.').skip(1).find_map(Type::parse);
        match (ty, arguments.first()) {
            (Some(ty @ (Type::S8 | Type::S16)), Some(Argument::Register(id)))
                if opcode.starts_with("cvt.")
                    && self.registers[*id as usize].bytes() > ty.bytes() =>
            {
                Err("a signed result in a wider register".into())
            }
            _ => Ok(()),
        }
    }

    /// `mov`, vectors included.
    pub(super) fn mov(&mut self, opcode: &str, flat: &Flat<'_>) -> Result<Lowered, Reason> {
        let [to, from] = flat.arguments.as_slice() else {
            return Err("number of operands".into());
        };
        let width =
            opcode.split('.').next_back().and_then(Type::parse).ok_or("no type")?.bytes() * 8;
        match (to, from) {
            (Argument::Vector(parts), _) => {
                let key = format!("unpack{}.b{width}", parts.len());
                self.arithmetic(
                    &key,
                    opcode,
                    &[parts.as_slice(), std::slice::from_ref(from)].concat(),
                )
            }
            (_, Argument::Vector(parts)) => {
                let key = format!("pack{}.b{width}", parts.len());
                self.arithmetic(
                    &key,
                    opcode,
                    &[std::slice::from_ref(to), parts.as_slice()].concat(),
                )
            }
            (_, Argument::Special(name)) if is_clock(name) => {
                let class = self.class_of_argument(to).ok_or("result")?;
                let result = self.result(to, class)?;
                let op = Op::Clock { wide: class == Class::D };
                Ok(Lowered::new(op, InstructionClass::Move).results([result]))
            }
            _ => self.arithmetic(opcode, opcode, &flat.arguments),
        }
    }

    /// `isspacep`: whether a generic address lies in a space.
    pub(super) fn is_space(&mut self, opcode: &str, flat: &Flat<'_>) -> Result<Lowered, Reason> {
        let place = match opcode {
            "isspacep.global" => Place::Global,
            "isspacep.shared" | "isspacep.shared::cta" => Place::Shared,
            "isspacep.local" => Place::Local,
            _ => return Err("this space".into()),
        };
        let [to, from] = flat.arguments.as_slice() else {
            return Err("number of operands".into());
        };
        let result = self.result(to, Class::P)?;
        let source = self.source(from, Class::D)?;
        Ok(Lowered::new(Op::IsSpace(place), InstructionClass::Integer)
            .results([result])
            .sources([Some(source)]))
    }

    /// `cvta`: between an address in a window and a generic one.
    pub(super) fn convert_address(
        &mut self,
        opcode: &str,
        flat: &Flat<'_>,
    ) -> Result<Lowered, Reason> {
        let mut modifiers = Modifiers::new(opcode);
        let to_space = modifiers.take("to");
        let space =
            modifiers.one_of(&["global", "shared", "local", "const", "param"]).ok_or("space")?;
        modifiers.take_if(|part| part == "cta" || part == "shared::cta");
        if modifiers.ty()?.bytes() != 8 {
            return Err("32-bit addresses".into());
        }
        modifiers.finish()?;
        let window = match space {
            "shared" => SHARED_WINDOW,
            "local" => LOCAL_WINDOW,
            "param" => return Err("generic addresses of parameters".into()),
            _ => 0,
        };
        let delta = if to_space { window.wrapping_neg() } else { window };
        let [to, from] = flat.arguments.as_slice() else {
            return Err("number of operands".into());
        };
        let arguments = [to.clone(), from.clone(), Argument::Integer(delta as i64)];
        self.arithmetic("add.s64", opcode, &arguments)
    }
}

fn is_clock(name: &str) -> bool {
    matches!(
        name,
        "clock" | "clock_hi" | "clock64" | "globaltimer" | "globaltimer_lo" | "globaltimer_hi"
    )
}
