//! Loads, stores, atomics, asynchronous copies and matrix accesses.

use super::{
    Access, Argument, Class, Constant, Flat, InstructionClass, Lowered, Lowering, Modifiers, Op,
    Place, Reason, Reference, Spot,
};
use crate::{
    exec::instruction::{AsyncCopy, Atomic, AtomicOp, AtomicType, MatrixAccess},
    ptx::Type,
};

/// Cache and eviction hints: they change no value.
fn is_hint(part: &str) -> bool {
    matches!(
        part,
        "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt" | "nc" | "unified" | "level" | "L1" | "L2"
    ) || part.starts_with("L1::")
        || part.starts_with("L2::")
}

fn place(modifiers: &mut Modifiers<'_>) -> (Place, InstructionClass) {
    match modifiers.one_of(&[
        "global",
        "shared",
        "shared::cta",
        "local",
        "param",
        "param::entry",
        "param::func",
        "const",
    ]) {
        Some("global" | "const") => (Place::Global, InstructionClass::Global),
        Some("shared" | "shared::cta") => (Place::Shared, InstructionClass::Shared),
        Some("local") => (Place::Local, InstructionClass::Local),
        Some(_) => (Place::Param, InstructionClass::Move),
        None => (Place::Generic, InstructionClass::Global),
    }
}

impl Lowering<'_> {
    pub(super) fn load_or_store(
        &mut self,
        opcode: &str,
        base: &str,
        flat: &Flat<'_>,
    ) -> Result<Lowered, Reason> {
        if base.starts_with("prefetch") {
            return Ok(Lowered::new(Op::Nop, InstructionClass::Global));
        }
        let is_store = base == "st";
        let mut modifiers = Modifiers::new(opcode);
        let (place, class) = place(&mut modifiers);
        let strong = modifiers.one_of(&["volatile", "relaxed", "acquire", "release"]);
        modifiers.one_of(&["cta", "gpu", "sys"]);
        modifiers.take("weak");
        while modifiers.take_if(is_hint).is_some() {}
        let count = modifiers.one_of(&["v2", "v4", "v8"]).map_or(1, |v| {
            if v == "v2" {
                2
            } else if v == "v4" {
                4
            } else {
                8
            }
        });
        let ty = modifiers.ty()?;
        modifiers.finish()?;
        if ty == Type::B128 || ty == Type::Pred || ty.bytes() * count > 16 {
            return Err("this width".into());
        }
        let (address, data) = match flat.arguments.as_slice() {
            [address, data] if is_store => (address, data),
            [data, address] if !is_store => (address, data),
            _ => return Err("number of operands".into()),
        };
        let items = match data {
            Argument::Vector(items) => items.clone(),
            single => vec![single.clone()],
        };
        if items.len() != count {
            return Err("number of vector elements".into());
        }
        if place == Place::Param
            && !is_store
            && let Some(moved) = self.kernel_parameter(address, &items, ty)?
        {
            return Ok(moved);
        }
        let place = if place == Place::Param { Self::parameter_place(address) } else { place };
        let wide = items.iter().any(|item| self.class_of_argument(item) == Some(Class::D))
            || ty.bytes() == 8;
        let register = if wide { Class::D } else { Class::W };
        let (base, address) = self.address(address)?;
        let all = u16::MAX >> (16 - ty.bytes() * count);
        let used = flat.source.used_bytes.filter(|_| !is_store).map_or(all, |mask| mask & all);
        let access = Access {
            place,
            bytes: ty.bytes() as u8,
            count: count as u8,
            wide,
            signed: matches!(ty, Type::S8 | Type::S16 | Type::S32),
            strong: strong.is_some(),
            releases: strong == Some("release"),
            used,
            address,
        };
        if is_store {
            let mut lowered = Lowered::new(Op::Store(access), class).sources([Some(base)]);
            for item in &items {
                lowered.sources.push(Some(self.source(item, register)?));
            }
            return Ok(lowered);
        }
        let mut lowered = Lowered::new(Op::Load(access), class).sources([Some(base)]);
        for item in &items {
            lowered.results.push(self.result(item, register)?);
        }
        Ok(lowered)
    }

    /// A kernel parameter at a fixed place is a constant of the launch.
    fn kernel_parameter(
        &mut self,
        address: &Argument,
        items: &[Argument],
        ty: Type,
    ) -> Result<Option<Lowered>, Reason> {
        let (Argument::Address(base, offset), [to]) = (address, items) else {
            return Ok(None);
        };
        let Argument::Spot(Spot::Param(at), extra) = base.as_ref() else {
            return Ok(None);
        };
        let offset = u32::try_from(i64::from(*at) + offset + extra)
            .map_err(|_| "a negative parameter offset")?;
        let class = self.class_of_argument(to).ok_or("result")?;
        let signed = matches!(ty, Type::S8 | Type::S16 | Type::S32);
        let value =
            self.constant(class, Constant::Param { offset, bytes: ty.bytes() as u8, signed });
        let key = if class == Class::D { "mov.b64" } else { "mov.b32" };
        let entry = crate::alu::find(key).ok_or("moves")?;
        let result = self.result(to, class)?;
        Ok(Some(
            Lowered::new(Op::Alu(entry.run), InstructionClass::Move)
                .results([result])
                .sources([Some(value)]),
        ))
    }

    /// Arguments of device functions are local memory, those of the kernel are not.
    fn parameter_place(address: &Argument) -> Place {
        match address {
            Argument::Address(base, _)
                if matches!(base.as_ref(), Argument::Spot(Spot::Local(_), _)) =>
            {
                Place::Local
            }
            _ => Place::Param,
        }
    }

    pub(super) fn atomic(
        &mut self,
        opcode: &str,
        is_red: bool,
        flat: &Flat<'_>,
    ) -> Result<Lowered, Reason> {
        let mut modifiers = Modifiers::new(opcode);
        let (place, _) = place(&mut modifiers);
        let order = modifiers.one_of(&["relaxed", "acquire", "release", "acq_rel"]);
        let wide_scope = !modifiers.take("cta");
        modifiers.one_of(&["cta", "gpu", "sys"]);
        modifiers.take("noftz");
        let op = modifiers
            .one_of(&["add", "min", "max", "inc", "dec", "and", "or", "xor", "exch", "cas"])
            .ok_or("operation")?;
        let ty = modifiers.ty()?;
        modifiers.finish()?;
        let op = atomic_op(op);
        let ty = atomic_type(op, ty).ok_or("this type")?;
        let class = if ty.bytes() == 8 { Class::D } else { Class::W };
        let (old, rest) = if is_red {
            (None, flat.arguments.as_slice())
        } else {
            let (old, rest) = flat.arguments.split_first().ok_or("number of operands")?;
            (self.result(old, class)?, rest)
        };
        let wanted = if op == AtomicOp::CompareSwap { 3 } else { 2 };
        if rest.len() != wanted {
            return Err("number of operands".into());
        }
        let (base, address) = self.address(&rest[0])?;
        let mut sources = vec![Some(base)];
        for argument in &rest[1..] {
            sources.push(Some(self.source(argument, class)?));
        }
        let releases = wide_scope && matches!(order, Some("release" | "acq_rel"));
        let atomic = Atomic { place, op, ty, releases, address };
        Ok(Lowered::new(Op::Atomic(atomic), InstructionClass::Atomic)
            .results([old])
            .sources(sources))
    }

    pub(super) fn async_copy(&mut self, opcode: &str, flat: &Flat<'_>) -> Result<Lowered, Reason> {
        let mut modifiers = Modifiers::new(opcode);
        if !modifiers.take("async") {
            return Err("only cp.async".into());
        }
        let class = InstructionClass::AsyncCopy;
        if let Some(what) = modifiers.one_of(&["commit_group", "wait_group", "wait_all"]) {
            modifiers.finish()?;
            let op = match (what, flat.arguments.as_slice()) {
                ("commit_group", []) => Op::AsyncCommit,
                ("wait_all", []) => Op::AsyncWait(None),
                ("wait_group", [Argument::Integer(n)]) if *n >= 0 => Op::AsyncWait(Some(*n as u32)),
                _ => return Err("operands".into()),
            };
            return Ok(Lowered::new(op, class));
        }
        let cached = modifiers.one_of(&["ca", "cg"]).ok_or("only .ca and .cg")?;
        modifiers.one_of(&["shared", "shared::cta"]).ok_or("destination")?;
        modifiers.take("global");
        while modifiers.take_if(is_hint).is_some() {}
        modifiers.finish()?;
        let [to, from, Argument::Integer(bytes), rest @ ..] = flat.arguments.as_slice() else {
            return Err("operands".into());
        };
        if !matches!((cached, bytes), ("cg", 16) | ("ca", 4 | 8 | 16)) {
            return Err(format!("{bytes} bytes"));
        }
        let (shared_base, shared) = self.address(to)?;
        let (global_base, global) = self.address(from)?;
        let (mut size, mut ignore) = (None, None);
        match rest {
            [] => {}
            [argument] if self.class_of_argument(argument) == Some(Class::P) => {
                ignore = Some(self.source(argument, Class::P)?);
            }
            [argument] => size = Some(self.source(argument, Class::W)?),
            _ => return Err("operands".into()),
        }
        let op = Op::AsyncCopy(AsyncCopy { bytes: *bytes as u8, shared, global });
        Ok(Lowered::new(op, class).sources([Some(shared_base), Some(global_base), size, ignore]))
    }

    pub(super) fn matrix_access(
        &mut self,
        opcode: &str,
        flat: &Flat<'_>,
    ) -> Result<Lowered, Reason> {
        let is_store = opcode.starts_with("st");
        let mut modifiers = Modifiers::new(opcode);
        for required in ["sync", "aligned", "m8n8", "b16"] {
            if !modifiers.take(required) {
                return Err(format!("without `.{required}`"));
            }
        }
        let count: u8 = match modifiers.one_of(&["x1", "x2", "x4"]) {
            Some("x1") => 1,
            Some("x2") => 2,
            Some(_) => 4,
            None => return Err("number of matrices".into()),
        };
        let trans = modifiers.take("trans");
        modifiers.one_of(&["shared", "shared::cta"]).ok_or("only shared memory")?;
        modifiers.finish()?;
        let (address, data) = match flat.arguments.as_slice() {
            [address, data] if is_store => (address, data),
            [data, address] if !is_store => (address, data),
            _ => return Err("operands".into()),
        };
        let items = match data {
            Argument::Vector(items) => items.clone(),
            single => vec![single.clone()],
        };
        if items.len() != usize::from(count) {
            return Err("number of fragments".into());
        }
        let (base, address) = self.address(address)?;
        let access = MatrixAccess { count, trans, address };
        let references: Vec<Option<Reference>> = items
            .iter()
            .map(|item| self.source(item, Class::W).map(Some))
            .collect::<Result<_, _>>()?;
        Ok(if is_store {
            Lowered::new(Op::StoreMatrix(access), InstructionClass::Shared)
                .sources([Some(base)])
                .sources(references)
        } else {
            Lowered::new(Op::LoadMatrix(access), InstructionClass::Shared)
                .results(references)
                .sources([Some(base)])
        })
    }
}

fn atomic_op(name: &str) -> AtomicOp {
    match name {
        "add" => AtomicOp::Add,
        "min" => AtomicOp::Min,
        "max" => AtomicOp::Max,
        "inc" => AtomicOp::Inc,
        "dec" => AtomicOp::Dec,
        "and" => AtomicOp::And,
        "or" => AtomicOp::Or,
        "xor" => AtomicOp::Xor,
        "exch" => AtomicOp::Exchange,
        _ => AtomicOp::CompareSwap,
    }
}

fn atomic_type(op: AtomicOp, ty: Type) -> Option<AtomicType> {
    let bitwise = matches!(
        op,
        AtomicOp::And | AtomicOp::Or | AtomicOp::Xor | AtomicOp::Exchange | AtomicOp::CompareSwap
    );
    let adds = op == AtomicOp::Add;
    let ordered = matches!(op, AtomicOp::Add | AtomicOp::Min | AtomicOp::Max);
    Some(match ty {
        Type::B32 if bitwise => AtomicType::U32,
        Type::B64 if bitwise => AtomicType::U64,
        Type::U32 if ordered || matches!(op, AtomicOp::Inc | AtomicOp::Dec) => AtomicType::U32,
        Type::S32 if ordered => AtomicType::S32,
        Type::U64 if ordered => AtomicType::U64,
        Type::S64 if ordered => AtomicType::S64,
        Type::F32 if adds => AtomicType::F32,
        Type::F64 if adds => AtomicType::F64,
        Type::F16x2 if adds => AtomicType::F16x2,
        Type::BF16x2 if adds => AtomicType::Bf16x2,
        Type::F16 if adds => AtomicType::F16,
        Type::BF16 if adds => AtomicType::Bf16,
        _ => return None,
    })
}
