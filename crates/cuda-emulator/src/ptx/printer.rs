//! Syntax tree to PTX text.

use std::fmt::{Display, Formatter, Result, Write};

use super::{
    Body, Function, FunctionKind, Initial, Instruction, Linkage, LocationId, Locations, Module,
    Operand, Register, RegisterId, Space, Statement, Type, Variable,
};

/// A label that ptxas wants with inlined code.
const FUNCTION_NAME: &str = "$L__info_string0";

impl Display for Module {
    /// PTX that parses to an equal module but for line numbers. Debug sections are gone, without
    /// which ptxas refuses `.target ..., debug`, and so are pragmas but for `used_bytes_mask`.
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let (major, minor) = self.version;
        writeln!(f, ".version {major}.{minor}")?;
        writeln!(f, ".target {}", self.target)?;
        writeln!(f, ".address_size {}", self.address_size)?;
        let (declared, defined): (Vec<_>, Vec<_>) =
            self.functions.iter().partition(|function| function.body.is_none());
        let called = defined.iter().filter(|function| function.kind == FunctionKind::Func);
        for function in declared.iter().chain(called) {
            write_head(f, function)?;
            writeln!(f, ";")?;
        }
        for variable in &self.variables {
            write_variable(f, variable)?;
            writeln!(f, ";")?;
        }
        for function in defined {
            write_head(f, function)?;
            f.write_char('\n')?;
            if let Some(body) = &function.body {
                BodyPrinter { body, locations: &self.locations }.write(f)?;
            }
        }
        for (number, path) in &self.locations.files {
            writeln!(f, ".file {number} \"{path}\"")?;
        }
        if self.locations.entries.iter().any(|place| place.inlined_at.is_some()) {
            writeln!(f, ".section .debug_str\n{{\n{FUNCTION_NAME}:\n.b8 0\n}}")?;
        }
        Ok(())
    }
}

fn linkage(linkage: Linkage) -> &'static str {
    match linkage {
        Linkage::Internal => "",
        Linkage::Visible => ".visible ",
        Linkage::Extern => ".extern ",
        Linkage::Weak => ".weak ",
        Linkage::Common => ".common ",
    }
}

fn space(space: Space) -> &'static str {
    match space {
        Space::Param => ".param",
        Space::Local => ".local",
        Space::Shared => ".shared",
        Space::Global => ".global",
        Space::Const => ".const",
    }
}

/// Items with `, ` between them.
fn write_list<T>(
    f: &mut Formatter<'_>,
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut Formatter<'_>, T) -> Result,
) -> Result {
    for (index, item) in items.into_iter().enumerate() {
        if index != 0 {
            f.write_str(", ")?;
        }
        write(f, item)?;
    }
    Ok(())
}

/// A variable without its semicolon.
fn write_variable(f: &mut Formatter<'_>, variable: &Variable) -> Result {
    write!(f, "{}{}", linkage(variable.linkage), space(variable.space))?;
    if variable.align != variable.ty.bytes() {
        write!(f, " .align {}", variable.align)?;
    }
    write!(f, " .{} {}", variable.ty.name(), variable.name)?;
    match variable.length {
        None => {}
        Some(0) => f.write_str("[]")?,
        Some(length) => write!(f, "[{length}]")?,
    }
    match (&variable.initial[..], variable.length) {
        ([], _) => Ok(()),
        ([element], None) => {
            f.write_str(" = ")?;
            write_initial(f, variable.ty, element)
        }
        (elements, _) => {
            f.write_str(" = {")?;
            write_list(f, elements, |f, element| write_initial(f, variable.ty, element))?;
            f.write_char('}')
        }
    }
}

fn write_initial(f: &mut Formatter<'_>, ty: Type, element: &Initial) -> Result {
    match element {
        Initial::Bits(bits) => match ty {
            Type::F32 => write!(f, "0f{bits:08X}"),
            Type::F64 => write!(f, "0d{bits:016X}"),
            _ => write!(f, "{bits}"),
        },
        Initial::Address { symbol, offset, generic } => {
            if *generic {
                write!(f, "generic({symbol})")?;
            } else {
                f.write_str(symbol)?;
            }
            write_offset(f, *offset)
        }
    }
}

fn write_offset(f: &mut Formatter<'_>, offset: i64) -> Result {
    if offset == 0 { Ok(()) } else { write!(f, "+{offset}") }
}

/// A function up to its body.
fn write_head(f: &mut Formatter<'_>, function: &Function) -> Result {
    let kind = match function.kind {
        FunctionKind::Entry => ".entry",
        FunctionKind::Func => ".func",
    };
    write!(f, "{}{kind} ", linkage(function.linkage))?;
    if !function.returns.is_empty() {
        f.write_char('(')?;
        write_list(f, &function.returns, write_variable)?;
        f.write_str(") ")?;
    }
    write!(f, "{}(", function.name)?;
    write_list(f, &function.params, write_variable)?;
    f.write_char(')')?;
    for (name, dim) in [(".maxntid", function.max_threads), (".reqntid", function.required_threads)]
    {
        if let Some([x, y, z]) = dim {
            write!(f, "\n{name} {x}, {y}, {z}")?;
        }
    }
    for (name, number) in
        [(".minnctapersm", function.min_blocks_per_sm), (".maxnreg", function.max_registers)]
    {
        if let Some(number) = number {
            write!(f, "\n{name} {number}")?;
        }
    }
    f.write_str(if function.no_return { "\n.noreturn" } else { "" })
}

struct BodyPrinter<'a> {
    body: &'a Body,
    locations: &'a Locations,
}

impl BodyPrinter<'_> {
    fn write(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str("{\n")?;
        self.write_registers(f)?;
        for variable in &self.body.variables {
            write_variable(f, variable)?;
            f.write_str(";\n")?;
        }
        let mut location = 0;
        for statement in &self.body.statements {
            match statement {
                Statement::Label(name) => writeln!(f, "{name}:")?,
                Statement::BranchTargets { name, targets } => {
                    write!(f, "{name}: .branchtargets ")?;
                    write_list(f, targets, |f, target| f.write_str(target))?;
                    f.write_str(";\n")?;
                }
                Statement::Instruction(instruction) => {
                    if instruction.location != location {
                        location = instruction.location;
                        self.write_location(f, location)?;
                    }
                    self.write_instruction(f, instruction)?;
                }
            }
        }
        f.write_str("}\n")
    }

    /// `%r0, %r1, ...` of one type as `%r<n>`, others one by one.
    fn write_registers(&self, f: &mut Formatter<'_>) -> Result {
        let mut rest = &self.body.registers[..];
        while let Some(first) = rest.first() {
            let count = range_length(rest);
            let ty = first.ty.name();
            if let Some(prefix) = first.name.strip_suffix('0').filter(|_| count > 1) {
                writeln!(f, ".reg .{ty} {prefix}<{count}>;")?;
            } else {
                writeln!(f, ".reg .{ty} {};", first.name)?;
            }
            rest = &rest[count..];
        }
        Ok(())
    }

    /// The `.loc` of a place, after those of the places that it is inlined at: they are told by
    /// file, line and column alone.
    fn write_location(&self, f: &mut Formatter<'_>, id: LocationId) -> Result {
        let mut chain: Vec<_> = self.locations.chain(id).collect();
        if chain.is_empty() {
            let file = self.locations.files.keys().next().unwrap_or(&0);
            return writeln!(f, ".loc {file} 0 0");
        }
        let mut outer = None;
        while let Some(place) = chain.pop() {
            let (file, line, column) = (place.file, place.line, place.column);
            write!(f, ".loc {file} {line} {column}")?;
            if let Some((file, line, column)) = outer {
                write!(f, ", function_name {FUNCTION_NAME}, inlined_at {file} {line} {column}")?;
            }
            f.write_char('\n')?;
            outer = Some((file, line, column));
        }
        Ok(())
    }

    fn write_instruction(&self, f: &mut Formatter<'_>, instruction: &Instruction) -> Result {
        if let Some(mask) = instruction.used_bytes {
            writeln!(f, "\t.pragma \"used_bytes_mask {mask}\";")?;
        }
        f.write_char('\t')?;
        if let Some(guard) = instruction.guard {
            f.write_str(if guard.negated { "@!" } else { "@" })?;
            self.write_register(f, guard.register)?;
            f.write_char(' ')?;
        }
        f.write_str(&instruction.opcode)?;
        let space = if instruction.operands.is_empty() { "" } else { " " };
        f.write_str(space)?;
        self.write_operands(f, &instruction.operands)?;
        f.write_str(";\n")
    }

    fn write_operands(&self, f: &mut Formatter<'_>, operands: &[Operand]) -> Result {
        write_list(f, operands, |f, operand| self.write_operand(f, operand))
    }

    /// A register of another body has no name: `?` is no PTX.
    fn write_register(&self, f: &mut Formatter<'_>, id: RegisterId) -> Result {
        f.write_str(self.body.registers.get(id as usize).map_or("?", |r| &r.name))
    }

    fn write_operand(&self, f: &mut Formatter<'_>, operand: &Operand) -> Result {
        match operand {
            Operand::Register(id) => self.write_register(f, *id),
            Operand::NotRegister(id) => {
                f.write_char('!')?;
                self.write_register(f, *id)
            }
            Operand::Sink => f.write_char('_'),
            Operand::Special(name) if name == "WARP_SZ" => f.write_str(name),
            Operand::Special(name) => write!(f, "%{name}"),
            Operand::Integer(value) => write!(f, "{value}"),
            Operand::Float32(bits) => write!(f, "0f{bits:08X}"),
            Operand::Float64(bits) => write!(f, "0d{bits:016X}"),
            Operand::Symbol { name, offset } => {
                f.write_str(name)?;
                write_offset(f, *offset)
            }
            Operand::Address { base, offset } => {
                f.write_char('[')?;
                self.write_operand(f, base)?;
                write_offset(f, *offset)?;
                f.write_char(']')
            }
            Operand::Vector(list) => {
                f.write_char('{')?;
                self.write_operands(f, list)?;
                f.write_char('}')
            }
            Operand::Pair(first, second) => {
                self.write_operand(f, first)?;
                f.write_char('|')?;
                self.write_operand(f, second)
            }
            Operand::List(list) => {
                f.write_char('(')?;
                self.write_operands(f, list)?;
                f.write_char(')')
            }
        }
    }
}

/// How many registers from the first on are `name0`, `name1`, ... of one type.
fn range_length(registers: &[Register]) -> usize {
    let Some(prefix) = registers[0].name.strip_suffix('0') else { return 1 };
    let in_range = |&(index, register): &(usize, &Register)| {
        let number = register.name.strip_prefix(prefix);
        register.ty == registers[0].ty && number == Some(index.to_string().as_str())
    };
    registers.iter().enumerate().take_while(in_range).count()
}
