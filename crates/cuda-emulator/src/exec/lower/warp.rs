//! Instructions of a whole warp: matrices, exchanges, votes.

use super::{
    Argument, Class, Flat, InstructionClass, Lowered, Lowering, Modifiers, Op, Reason, Reference,
};
use crate::{
    alu,
    exec::instruction::{Matrix, Reduce, Shuffle, Vote},
};

impl Lowering<'_> {
    pub(super) fn matrix(&mut self, opcode: &str, flat: &Flat<'_>) -> Result<Lowered, Reason> {
        let op = alu::matrix::find(opcode).ok_or("this form of the opcode")?;
        let [d, a, b, c] = flat.arguments.as_slice() else {
            return Err("operands".into());
        };
        let mut fragment =
            |argument: &Argument, count: usize| -> Result<Vec<Option<Reference>>, Reason> {
                let items = match argument {
                    Argument::Vector(items) => items.clone(),
                    single => vec![single.clone()],
                };
                if items.len() != count {
                    return Err("number of fragment registers".into());
                }
                items.iter().map(|item| self.source(item, Class::W).map(Some)).collect()
            };
        let (d, a, b, c) =
            (fragment(d, op.d)?, fragment(a, op.a)?, fragment(b, op.b)?, fragment(c, op.c)?);
        let matrix = Matrix { op, d: Vec::new(), a: Vec::new(), b: Vec::new(), c: Vec::new() };
        Ok(Lowered::new(Op::Matrix(Box::new(matrix)), InstructionClass::Matrix)
            .results(d)
            .sources(a)
            .sources(b)
            .sources(c))
    }

    pub(super) fn move_matrix(&mut self, opcode: &str, flat: &Flat<'_>) -> Result<Lowered, Reason> {
        if opcode != "movmatrix.sync.aligned.m8n8.trans.b16" {
            return Err("this form of the opcode".into());
        }
        let [to, from] = flat.arguments.as_slice() else {
            return Err("operands".into());
        };
        let result = self.result(to, Class::W)?;
        let source = self.source(from, Class::W)?;
        Ok(Lowered::new(Op::MoveMatrix, InstructionClass::WarpExchange)
            .results([result])
            .sources([Some(source)]))
    }

    pub(super) fn shuffle(&mut self, opcode: &str, flat: &Flat<'_>) -> Result<Lowered, Reason> {
        let mut modifiers = Modifiers::new(opcode);
        synchronising(&mut modifiers)?;
        let mode = match modifiers.one_of(&["up", "down", "bfly", "idx"]) {
            Some("up") => Shuffle::Up,
            Some("down") => Shuffle::Down,
            Some("bfly") => Shuffle::Butterfly,
            Some(_) => Shuffle::Index,
            None => return Err("mode".into()),
        };
        modifiers.take("b32");
        modifiers.finish()?;
        let [to, value, lane, clamp, members] = flat.arguments.as_slice() else {
            return Err("operands".into());
        };
        let (to, predicate) = self.with_predicate(to, Class::W)?;
        let mut lowered = Lowered::new(Op::Shuffle(mode), InstructionClass::WarpExchange)
            .results([to, predicate]);
        for argument in [value, lane, clamp, members] {
            lowered.sources.push(Some(self.source(argument, Class::W)?));
        }
        Ok(lowered)
    }

    fn with_predicate(
        &self,
        argument: &Argument,
        class: Class,
    ) -> Result<(Option<Reference>, Option<Reference>), Reason> {
        match argument {
            Argument::Pair(value, predicate) => {
                Ok((self.result(value, class)?, self.result(predicate, Class::P)?))
            }
            single => Ok((self.result(single, class)?, None)),
        }
    }

    pub(super) fn vote(&mut self, opcode: &str, flat: &Flat<'_>) -> Result<Lowered, Reason> {
        let mut modifiers = Modifiers::new(opcode);
        synchronising(&mut modifiers)?;
        let mode = match modifiers.one_of(&["all", "any", "uni", "ballot"]) {
            Some("all") => Vote::All,
            Some("any") => Vote::Any,
            Some("uni") => Vote::Uniform,
            Some(_) => Vote::Ballot,
            None => return Err("mode".into()),
        };
        modifiers.one_of(&["pred", "b32"]);
        modifiers.finish()?;
        let [to, predicate, members] = flat.arguments.as_slice() else {
            return Err("operands".into());
        };
        let class = if mode == Vote::Ballot { Class::W } else { Class::P };
        let result = self.result(to, class)?;
        let sources =
            [Some(self.source(predicate, Class::P)?), Some(self.source(members, Class::W)?)];
        Ok(Lowered::new(Op::Vote(mode), InstructionClass::WarpExchange)
            .results([result])
            .sources(sources))
    }

    pub(super) fn matching(&mut self, opcode: &str, flat: &Flat<'_>) -> Result<Lowered, Reason> {
        let mut modifiers = Modifiers::new(opcode);
        synchronising(&mut modifiers)?;
        let all = match modifiers.one_of(&["all", "any"]) {
            Some(mode) => mode == "all",
            None => return Err("mode".into()),
        };
        let wide = modifiers.ty()?.bytes() == 8;
        modifiers.finish()?;
        let [to, value, members] = flat.arguments.as_slice() else {
            return Err("operands".into());
        };
        let (to, predicate) = self.with_predicate(to, Class::W)?;
        let class = if wide { Class::D } else { Class::W };
        let sources = [Some(self.source(value, class)?), Some(self.source(members, Class::W)?)];
        Ok(Lowered::new(Op::Match { all, wide }, InstructionClass::WarpExchange)
            .results([to, predicate])
            .sources(sources))
    }

    pub(super) fn reduce(&mut self, opcode: &str, flat: &Flat<'_>) -> Result<Lowered, Reason> {
        let op = match opcode {
            "redux.sync.add.u32" | "redux.sync.add.s32" => Reduce::Add,
            "redux.sync.min.s32" => Reduce::MinSigned,
            "redux.sync.max.s32" => Reduce::MaxSigned,
            "redux.sync.min.u32" => Reduce::MinUnsigned,
            "redux.sync.max.u32" => Reduce::MaxUnsigned,
            "redux.sync.and.b32" => Reduce::And,
            "redux.sync.or.b32" => Reduce::Or,
            "redux.sync.xor.b32" => Reduce::Xor,
            _ => return Err("this form of the opcode".into()),
        };
        let [to, value, members] = flat.arguments.as_slice() else {
            return Err("operands".into());
        };
        let result = self.result(to, Class::W)?;
        let sources = [Some(self.source(value, Class::W)?), Some(self.source(members, Class::W)?)];
        Ok(Lowered::new(Op::Reduce(op), InstructionClass::WarpExchange)
            .results([result])
            .sources(sources))
    }

    pub(super) fn active_mask(&mut self, flat: &Flat<'_>) -> Result<Lowered, Reason> {
        let [to] = flat.arguments.as_slice() else {
            return Err("operands".into());
        };
        let result = self.result(to, Class::W)?;
        Ok(Lowered::new(Op::ActiveMask, InstructionClass::WarpExchange).results([result]))
    }
}

fn synchronising(modifiers: &mut Modifiers<'_>) -> Result<(), Reason> {
    if modifiers.take("sync") { Ok(()) } else { Err("without `.sync`".into()) }
}
