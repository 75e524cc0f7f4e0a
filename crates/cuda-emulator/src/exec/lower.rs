//! From an instruction as written to one that runs.

mod arithmetic;
mod control;
mod memory;
mod warp;

use std::collections::HashMap;

use super::{
    flatten::{Argument, Flat, FlatKernel, Spot},
    instruction::{Access, Address, Constant, LaneMask, Op, Place, Reference},
    registers::Files,
    space::{LOCAL_WINDOW, SHARED_WINDOW},
};
use crate::{alu::Class, counters::InstructionClass, ptx::Type};

/// An instruction before registers are allocated.
#[derive(Debug)]
pub(super) struct Lowered {
    pub(super) op: Op,
    pub(super) class: InstructionClass,
    pub(super) guard: Option<(Reference, bool)>,
    /// Results, then sources, in the order that [`Op`] says; `None` where a register is left out.
    pub(super) results: Vec<Option<Reference>>,
    pub(super) sources: Vec<Option<Reference>>,
    /// Order in the instruction: stores name sources only, loads results first.
    pub(super) targets: Vec<u32>,
}

/// Why an instruction is not supported.
pub(super) type Reason = String;

/// Lowers the instructions of one kernel.
pub(super) struct Lowering<'a> {
    registers: &'a [Type],
    static_shared: u32,
    constants: HashMap<(Class, Constant), u32>,
    pub(super) table: Vec<(Class, Constant)>,
    counts: [u32; 3],
}

/// The register file of a type; `None` for 128 bits.
pub(super) fn class_of(ty: Type) -> Option<Class> {
    match ty {
        Type::Pred => Some(Class::P),
        Type::B128 => None,
        _ if ty.bytes() == 8 => Some(Class::D),
        _ => Some(Class::W),
    }
}

fn file(class: Class) -> usize {
    match class {
        Class::P => 0,
        Class::W => 1,
        Class::D => 2,
    }
}

/// An opcode cut at its dots, of which each part must be asked for.
pub(super) struct Modifiers<'a> {
    parts: Vec<Option<&'a str>>,
}

impl<'a> Modifiers<'a> {
    fn new(opcode: &'a str) -> Self {
        Self { parts: opcode.split('.').skip(1).map(Some).collect() }
    }

    /// Takes `name` if it is there.
    fn take(&mut self, name: &str) -> bool {
        self.take_if(|part| part == name).is_some()
    }

    fn take_if(&mut self, wanted: impl Fn(&str) -> bool) -> Option<&'a str> {
        let found = self.parts.iter_mut().find(|part| part.is_some_and(&wanted))?;
        found.take()
    }

    /// Takes the first of `names` that is there.
    fn one_of(&mut self, names: &[&str]) -> Option<&'a str> {
        self.take_if(|part| names.contains(&part))
    }

    fn ty(&mut self) -> Result<Type, Reason> {
        let name = self.take_if(|part| Type::parse(part).is_some()).ok_or("no type")?;
        Type::parse(name).ok_or_else(|| "no type".into())
    }

    fn finish(self) -> Result<(), Reason> {
        match self.parts.into_iter().flatten().next() {
            Some(part) => Err(format!("modifier `.{part}`")),
            None => Ok(()),
        }
    }
}

impl<'a> Lowering<'a> {
    pub(super) fn new(kernel: &'a FlatKernel<'_>) -> Self {
        Self {
            registers: &kernel.registers,
            static_shared: kernel.static_shared.next_multiple_of(16),
            constants: HashMap::new(),
            table: Vec::new(),
            counts: [0; 3],
        }
    }

    /// Number of constants in the register file of `class`.
    pub(super) fn constants(&self, class: Class) -> u32 {
        self.counts[file(class)]
    }

    pub(super) fn constant(&mut self, class: Class, value: Constant) -> Reference {
        let (counts, table) = (&mut self.counts, &mut self.table);
        let id = *self.constants.entry((class, value)).or_insert_with(|| {
            table.push((class, value));
            counts[file(class)] += 1;
            counts[file(class)] - 1
        });
        Reference { class, constant: true, id }
    }

    /// The end of a kernel whose text has no `ret` there.
    pub(super) fn end() -> Lowered {
        Lowered::new(Op::Exit, InstructionClass::Control)
    }

    /// A constant that would be read from beyond the parameter block.
    pub(super) fn parameters_beyond(&self, bytes: usize) -> Option<(u32, Reason)> {
        self.table.iter().find_map(|(_, constant)| match constant {
            Constant::Param { offset, bytes: width, .. }
                if *offset as usize + usize::from(*width) > bytes =>
            {
                Some((*offset, format!("reads parameters at {offset} of {bytes} bytes")))
            }
            _ => None,
        })
    }

    /// The constants with their places in the register files.
    pub(super) fn places(&self, files: &Files) -> Vec<(Class, u16, Constant)> {
        let mut next = files.first_constant;
        self.table
            .iter()
            .map(|&(class, constant)| {
                let place = &mut next[file(class)];
                *place += 1;
                (class, (*place - 1) as u16, constant)
            })
            .collect()
    }

    /// Lowers one instruction.
    pub(super) fn instruction(&mut self, flat: &Flat<'_>) -> Result<Lowered, Reason> {
        let opcode = flat.source.opcode.as_str();
        let base = opcode.split('.').next().unwrap_or_default();
        let mut lowered = match base {
            "ld" | "ldu" | "st" | "prefetch" | "prefetchu" => {
                self.load_or_store(opcode, base, flat)
            }
            "atom" | "red" => self.atomic(opcode, base == "red", flat),
            "cp" => self.async_copy(opcode, flat),
            "ldmatrix" | "stmatrix" => self.matrix_access(opcode, flat),
            "mma" => self.matrix(opcode, flat),
            "movmatrix" => self.move_matrix(opcode, flat),
            "isspacep" => self.is_space(opcode, flat),
            "cvta" => self.convert_address(opcode, flat),
            "shfl" => self.shuffle(opcode, flat),
            "vote" => self.vote(opcode, flat),
            "match" => self.matching(opcode, flat),
            "redux" => self.reduce(opcode, flat),
            "activemask" => self.active_mask(flat),
            "bar" | "barrier" => self.barrier(opcode, flat),
            "bra" | "brx" | "ret" | "exit" | "trap" | "brkpt" | "call" | "nanosleep" | "membar"
            | "fence" => self.control(opcode, base, flat),
            "mov" => self.mov(opcode, flat),
            _ => self.arithmetic(opcode, opcode, &flat.arguments),
        }?;
        if let Some(guard) = flat.guard {
            lowered.guard = Some((self.register(guard.register, Class::P)?, guard.negated));
        }
        Ok(lowered)
    }

    fn register(&self, id: u32, class: Class) -> Result<Reference, Reason> {
        let ty = self.registers[id as usize];
        if class_of(ty) != Some(class) {
            return Err(format!(
                "a register of type .{} where the operation needs another width",
                ty.name()
            ));
        }
        Ok(Reference { class, constant: false, id })
    }

    /// The file of a register operand; other operands have none of their own.
    fn class_of_argument(&self, argument: &Argument) -> Option<Class> {
        match argument {
            Argument::Register(id) => class_of(self.registers[*id as usize]),
            _ => None,
        }
    }

    /// A source operand in the file `class`.
    fn source(&mut self, argument: &Argument, class: Class) -> Result<Reference, Reason> {
        let bits = match (argument, class) {
            (Argument::Register(id), _) => return self.register(*id, class),
            (Argument::Special(name), _) => {
                let value = special(name).ok_or_else(|| format!("special register `%{name}`"))?;
                return Ok(self.constant(class, value));
            }
            (Argument::Spot(spot, offset), Class::W | Class::D) => {
                return Ok(self.constant(class, Constant::Bits(self.address_of(*spot, *offset))));
            }
            (Argument::Integer(value), Class::W) => *value as u32 as u64,
            (Argument::Integer(value), Class::D) => *value as u64,
            (Argument::Integer(value), Class::P) => {
                if *value == 0 {
                    0
                } else {
                    u64::from(u32::MAX)
                }
            }
            (Argument::Float32(bits), Class::W) => u64::from(*bits),
            (Argument::Float64(bits), Class::D) => *bits,
            (Argument::Float64(bits), Class::W) => {
                u64::from((f64::from_bits(*bits) as f32).to_bits())
            }
            (Argument::Float32(bits), Class::D) => f64::from(f32::from_bits(*bits)).to_bits(),
            _ => return Err(format!("operand {argument:?}")),
        };
        Ok(self.constant(class, Constant::Bits(bits)))
    }

    /// A result operand in the file `class`; `None` for `_`.
    fn result(&self, argument: &Argument, class: Class) -> Result<Option<Reference>, Reason> {
        match argument {
            Argument::Register(id) => self.register(*id, class).map(Some),
            Argument::Sink => Ok(None),
            _ => Err(format!("result {argument:?}")),
        }
    }

    /// The address of a variable within its own space.
    fn address_of(&self, spot: Spot, offset: i64) -> u64 {
        let base = match spot {
            Spot::Shared(at) | Spot::Local(at) | Spot::Param(at) => u64::from(at),
            Spot::DynamicShared => u64::from(self.static_shared),
            Spot::Absolute(address) => address,
        };
        base.wrapping_add_signed(offset)
    }

    /// The register and offset of `[base+offset]`.
    fn address(&mut self, argument: &Argument) -> Result<(Reference, Address), Reason> {
        let Argument::Address(base, offset) = argument else {
            return Err(format!("address {argument:?}"));
        };
        let (class, extra) = match base.as_ref() {
            Argument::Register(_) => (self.class_of_argument(base).ok_or("address register")?, 0),
            Argument::Spot(_, extra) => (Class::D, *extra),
            _ => (Class::D, 0),
        };
        let base = match base.as_ref() {
            Argument::Spot(spot, _) => Argument::Spot(*spot, 0),
            other => other.clone(),
        };
        let reference = self.source(&base, class)?;
        Ok((reference, Address { wide: class == Class::D, offset: offset + extra }))
    }
}

/// What `%name` is, where it does not change while a block runs.
fn special(name: &str) -> Option<Constant> {
    let axis = |name: &str| match name.split_once('.')?.1 {
        "x" => Some(0),
        "y" => Some(1),
        "z" => Some(2),
        _ => None,
    };
    Some(match name {
        "laneid" => Constant::Lane,
        "warpid" => Constant::Warp,
        "nwarpid" => Constant::Warps,
        "smid" => Constant::Multiprocessor,
        "nsmid" => Constant::Multiprocessors,
        "gridid" => Constant::Bits(0),
        "lanemask_eq" => Constant::LaneMask(LaneMask::Equal),
        "lanemask_lt" => Constant::LaneMask(LaneMask::Less),
        "lanemask_le" => Constant::LaneMask(LaneMask::LessEqual),
        "lanemask_gt" => Constant::LaneMask(LaneMask::Greater),
        "lanemask_ge" => Constant::LaneMask(LaneMask::GreaterEqual),
        "dynamic_smem_size" => Constant::DynamicShared,
        "total_smem_size" => Constant::TotalShared,
        "WARP_SZ" => Constant::Bits(32),
        _ => match name.split('.').next()? {
            "tid" => Constant::ThreadIndex(axis(name)?),
            "ctaid" => Constant::BlockIndex(axis(name)?),
            "ntid" => Constant::BlockSize(axis(name)?),
            "nctaid" => Constant::GridSize(axis(name)?),
            _ => return None,
        },
    })
}

impl Lowered {
    fn new(op: Op, class: InstructionClass) -> Self {
        Self {
            op,
            class,
            guard: None,
            results: Vec::new(),
            sources: Vec::new(),
            targets: Vec::new(),
        }
    }

    fn results(mut self, results: impl IntoIterator<Item = Option<Reference>>) -> Self {
        self.results.extend(results);
        self
    }

    fn sources(mut self, sources: impl IntoIterator<Item = Option<Reference>>) -> Self {
        self.sources.extend(sources);
        self
    }
}
