//! One straight list of instructions for each kernel: device functions inlined, names resolved.
//!
//! Without a call stack a thread's registers are plain; recursion is an error. The arguments and
//! results of a call are local memory shared by caller and callee.

use std::collections::{HashMap, HashSet};

use crate::{
    exec::{ModuleSymbol, module::LoadError},
    ptx::{
        Body, Function, FunctionKind, Guard, Instruction, Linkage, Module, Operand, RegisterId,
        Space, Statement, Type, Variable,
    },
};

/// Inlining deeper than this is taken for recursion that the name check missed.
const MAX_DEPTH: usize = 64;

/// Where a name points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spot {
    Shared(u32),
    /// After the static shared memory.
    DynamicShared,
    Local(u32),
    Param(u32),
    Absolute(u64),
}

/// An operand whose names are resolved.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Argument {
    Register(RegisterId),
    NotRegister(RegisterId),
    Sink,
    Special(String),
    Integer(i64),
    Float32(u32),
    Float64(u64),
    Spot(Spot, i64),
    Address(Box<Argument>, i64),
    Vector(Vec<Argument>),
    Pair(Box<Argument>, Box<Argument>),
}

/// An instruction of the straight list.
#[derive(Clone, Debug)]
pub(super) struct Flat<'a> {
    pub(super) source: &'a Instruction,
    pub(super) guard: Option<Guard>,
    pub(super) arguments: Vec<Argument>,
    /// Jump targets: of `bra` one, of `brx.idx` the table, of an inlined `ret` the return point.
    pub(super) targets: Vec<u32>,
    /// Function it was written in.
    pub(super) function: &'a str,
}

/// A kernel as one list.
#[derive(Debug, Default)]
pub(super) struct FlatKernel<'a> {
    pub(super) code: Vec<Flat<'a>>,
    pub(super) registers: Vec<Type>,
    pub(super) local_bytes: u32,
    pub(super) static_shared: u32,
    pub(super) params: Vec<(String, usize, usize, usize)>,
    pub(super) param_bytes: usize,
    pub(super) warnings: Vec<String>,
}

/// A jump whose target is a label of one inlined body.
struct Fixup {
    at: usize,
    body: usize,
    label: String,
}

struct Flattener<'a> {
    module: &'a Module,
    symbols: &'a HashMap<String, ModuleSymbol>,
    functions: HashMap<&'a str, &'a Function>,
    out: FlatKernel<'a>,
    shared: HashMap<(String, String), u32>,
    module_shared: HashMap<&'a str, Spot>,
    labels: HashMap<(usize, String), u32>,
    fixups: Vec<Fixup>,
    bodies: usize,
    stack: Vec<&'a str>,
}

/// What names mean inside one inlined body.
struct Scope<'a> {
    body: usize,
    function: &'a Function,
    register_base: RegisterId,
    spots: HashMap<&'a str, Spot>,
    tables: HashMap<&'a str, &'a [String]>,
}

/// The straight list of `kernel`.
pub(super) fn flatten<'a>(
    module: &'a Module,
    kernel: &'a Function,
    symbols: &'a HashMap<String, ModuleSymbol>,
) -> Result<FlatKernel<'a>, LoadError> {
    let functions = module.functions.iter().map(|f| (f.name.as_str(), f)).collect();
    let mut flattener = Flattener {
        module,
        symbols,
        functions,
        out: FlatKernel::default(),
        shared: HashMap::new(),
        module_shared: HashMap::new(),
        labels: HashMap::new(),
        fixups: Vec::new(),
        bodies: 0,
        stack: Vec::new(),
    };
    let mut spots = HashMap::new();
    for param in &kernel.params {
        let offset = flattener.out.param_bytes.next_multiple_of(param.align.max(1));
        flattener.out.params.push((param.name.clone(), offset, param.bytes(), param.align));
        spots.insert(param.name.as_str(), Spot::Param(offset as u32));
        flattener.out.param_bytes = offset + param.bytes();
    }
    flattener.module_shared(kernel);
    flattener.body(kernel, spots)?;
    flattener.resolve()?;
    Ok(flattener.out)
}

fn invalid(function: &str, reason: impl Into<String>) -> LoadError {
    LoadError::Invalid { function: function.into(), reason: reason.into() }
}

impl<'a> Flattener<'a> {
    fn local(&mut self, variable: &Variable) -> u32 {
        let offset = self.out.local_bytes.next_multiple_of(variable.align.max(1) as u32);
        self.out.local_bytes = offset + variable.bytes() as u32;
        offset
    }

    fn shared(&mut self, owner: &str, variable: &Variable) -> Spot {
        if variable.linkage == Linkage::Extern || variable.length == Some(0) {
            return Spot::DynamicShared;
        }
        let key = (owner.to_owned(), variable.name.clone());
        let (align, bytes) = (variable.align.max(1) as u32, variable.bytes() as u32);
        let size = &mut self.out.static_shared;
        Spot::Shared(*self.shared.entry(key).or_insert_with(|| {
            let offset = size.next_multiple_of(align);
            *size = offset + bytes;
            offset
        }))
    }

    /// Room for the module's shared variables that the kernel uses, itself or through what it calls.
    fn module_shared(&mut self, kernel: &'a Function) {
        let (mut pending, mut names) = (vec![kernel], HashSet::new());
        while let Some(function) = pending.pop() {
            let statements = function.body.iter().flat_map(|body| &body.statements);
            for statement in statements {
                if let Statement::Instruction(instruction) = statement {
                    for operand in &instruction.operands {
                        for name in symbols_of(operand) {
                            if names.insert(name)
                                && let Some(callee) = self.functions.get(name)
                            {
                                pending.push(callee);
                            }
                        }
                    }
                }
            }
        }
        let module = self.module;
        for variable in module.variables.iter().filter(|v| v.space == Space::Shared) {
            if names.contains(variable.name.as_str()) {
                let spot = self.shared("", variable);
                self.module_shared.insert(&variable.name, spot);
            }
        }
    }

    fn body(
        &mut self,
        function: &'a Function,
        mut spots: HashMap<&'a str, Spot>,
    ) -> Result<(), LoadError> {
        let Some(body) = &function.body else {
            return Err(invalid(&function.name, "is declared but not defined"));
        };
        if self.stack.contains(&function.name.as_str()) || self.stack.len() >= MAX_DEPTH {
            return Err(invalid(&function.name, "recursive device functions are not supported"));
        }
        self.stack.push(&function.name);
        self.variables(function, body, &mut spots)?;
        let scope = Scope {
            body: self.bodies,
            function,
            register_base: self.out.registers.len() as RegisterId,
            spots,
            tables: tables(body),
        };
        self.bodies += 1;
        self.out.registers.extend(body.registers.iter().map(|r| r.ty));
        for statement in &body.statements {
            match statement {
                Statement::Label(name) => {
                    self.labels.insert((scope.body, name.clone()), self.out.code.len() as u32);
                }
                Statement::Instruction(instruction) => self.instruction(&scope, instruction)?,
                Statement::BranchTargets { .. } => {}
            }
        }
        self.labels.insert((scope.body, String::new()), self.out.code.len() as u32);
        self.stack.pop();
        Ok(())
    }

    fn variables(
        &mut self,
        function: &'a Function,
        body: &'a Body,
        spots: &mut HashMap<&'a str, Spot>,
    ) -> Result<(), LoadError> {
        for variable in &body.variables {
            let spot = match variable.space {
                Space::Local | Space::Param => Spot::Local(self.local(variable)),
                Space::Shared => self.shared(&function.name, variable),
                Space::Global | Space::Const => {
                    return Err(invalid(
                        &function.name,
                        format!(
                            "`{}`: global variables inside a function are not supported",
                            variable.name
                        ),
                    ));
                }
            };
            spots.insert(&variable.name, spot);
        }
        Ok(())
    }

    fn instruction(
        &mut self,
        scope: &Scope<'a>,
        instruction: &'a Instruction,
    ) -> Result<(), LoadError> {
        let base = instruction.opcode.split('.').next().unwrap_or_default();
        match base {
            "call" => return self.call(scope, instruction),
            "bra" | "brx" => {
                let jump = self.push(scope, instruction, Vec::new());
                return self.jump(scope, instruction, jump);
            }
            "ret" if scope.function.kind == FunctionKind::Func => {
                let at = self.push(scope, instruction, Vec::new());
                self.fixups.push(Fixup { at, body: scope.body, label: String::new() });
                return Ok(());
            }
            _ => {}
        }
        let arguments = instruction
            .operands
            .iter()
            .map(|operand| self.argument(scope, instruction, operand))
            .collect::<Result<_, _>>()?;
        self.push(scope, instruction, arguments);
        Ok(())
    }

    fn push(
        &mut self,
        scope: &Scope<'a>,
        source: &'a Instruction,
        arguments: Vec<Argument>,
    ) -> usize {
        let guard = source.guard.map(|g| Guard { register: g.register + scope.register_base, ..g });
        let function = scope.function.name.as_str();
        self.out.code.push(Flat { source, guard, arguments, targets: Vec::new(), function });
        self.out.code.len() - 1
    }

    fn jump(
        &mut self,
        scope: &Scope<'a>,
        instruction: &'a Instruction,
        at: usize,
    ) -> Result<(), LoadError> {
        let unsupported = |reason: &str| self.unsupported(scope, instruction, reason);
        let Some(Operand::Symbol { name, .. }) = instruction.operands.last() else {
            return Err(unsupported("the target is no label"));
        };
        if instruction.opcode.starts_with("bra") {
            self.fixups.push(Fixup { at, body: scope.body, label: name.clone() });
            return Ok(());
        }
        let Some(targets) = scope.tables.get(name.as_str()) else {
            return Err(unsupported("the table of targets is not declared"));
        };
        let index = self.argument(scope, instruction, &instruction.operands[0])?;
        self.out.code[at].arguments = vec![index];
        for label in *targets {
            self.fixups.push(Fixup { at, body: scope.body, label: label.clone() });
        }
        Ok(())
    }

    /// Binds the callee's parameters to the caller's variables and puts its body here.
    fn call(&mut self, scope: &Scope<'a>, instruction: &'a Instruction) -> Result<(), LoadError> {
        let mut operands = instruction.operands.iter();
        let mut lists = Vec::new();
        let mut callee = None;
        for operand in &mut operands {
            match operand {
                Operand::List(list) => lists.push((callee.is_none(), list)),
                Operand::Symbol { name, .. } if callee.is_none() => callee = Some(name.as_str()),
                _ => return Err(self.unsupported(scope, instruction, "indirect calls")),
            }
        }
        let Some(callee) = callee else {
            return Err(self.unsupported(scope, instruction, "indirect calls"));
        };
        if instruction.guard.is_some() {
            return Err(self.unsupported(scope, instruction, "a call under a predicate"));
        }
        let Some(&function) = self.functions.get(callee) else {
            return Err(self.unsupported(
                scope,
                instruction,
                &format!("function `{callee}` is not declared"),
            ));
        };
        if function.body.is_none() {
            return self.external(scope, instruction, callee, &lists);
        }
        let mut spots = HashMap::new();
        for (is_return, list) in lists {
            let formal = if is_return { &function.returns } else { &function.params };
            if formal.len() != list.len() {
                return Err(self.unsupported(scope, instruction, "wrong number of arguments"));
            }
            for (formal, actual) in formal.iter().zip(list) {
                let spot = match actual {
                    Operand::Symbol { name, .. } => scope.spots.get(name.as_str()).copied(),
                    _ => None,
                };
                let Some(spot) = spot else {
                    return Err(self.unsupported(
                        scope,
                        instruction,
                        "an argument that is no parameter variable",
                    ));
                };
                spots.insert(formal.name.as_str(), spot);
            }
        }
        self.body(function, spots)
    }

    /// Functions of the device runtime.
    fn external(
        &mut self,
        scope: &Scope<'a>,
        instruction: &'a Instruction,
        callee: &str,
        lists: &[(bool, &'a Vec<Operand>)],
    ) -> Result<(), LoadError> {
        match callee {
            "vprintf" => {
                let warning =
                    format!("{}: printf is accepted and prints nothing", scope.function.name);
                if !self.out.warnings.contains(&warning) {
                    self.out.warnings.push(warning);
                }
                // The result is read later: it must have been written.
                for (_, list) in lists.iter().filter(|(is_return, _)| *is_return) {
                    for operand in *list {
                        let argument = self.argument(scope, instruction, operand)?;
                        self.push(scope, instruction, vec![argument]);
                    }
                }
                Ok(())
            }
            "__assertfail" => {
                self.push(scope, instruction, Vec::new());
                Ok(())
            }
            _ => {
                Err(self.unsupported(scope, instruction, &format!("external function `{callee}`")))
            }
        }
    }

    fn argument(
        &self,
        scope: &Scope<'a>,
        instruction: &Instruction,
        operand: &Operand,
    ) -> Result<Argument, LoadError> {
        let inner = |operand: &Operand| self.argument(scope, instruction, operand);
        Ok(match operand {
            Operand::Register(id) => Argument::Register(id + scope.register_base),
            Operand::NotRegister(id) => Argument::NotRegister(id + scope.register_base),
            Operand::Sink => Argument::Sink,
            Operand::Special(name) => Argument::Special(name.clone()),
            Operand::Integer(value) => Argument::Integer(*value),
            Operand::Float32(bits) => Argument::Float32(*bits),
            Operand::Float64(bits) => Argument::Float64(*bits),
            Operand::Symbol { name, offset } => {
                let spot = self.spot(scope, name).ok_or_else(|| {
                    self.unsupported(scope, instruction, &format!("`{name}` is not declared"))
                })?;
                Argument::Spot(spot, *offset)
            }
            Operand::Address { base, offset } => Argument::Address(Box::new(inner(base)?), *offset),
            Operand::Vector(items) => {
                Argument::Vector(items.iter().map(inner).collect::<Result<_, _>>()?)
            }
            Operand::Pair(a, b) => Argument::Pair(Box::new(inner(a)?), Box::new(inner(b)?)),
            Operand::List(_) => {
                return Err(self.unsupported(scope, instruction, "a list of arguments"));
            }
        })
    }

    fn spot(&self, scope: &Scope<'a>, name: &str) -> Option<Spot> {
        if let Some(&spot) = scope.spots.get(name) {
            return Some(spot);
        }
        if let Some(symbol) = self.symbols.get(name) {
            return Some(Spot::Absolute(symbol.address));
        }
        self.module_shared.get(name).copied()
    }

    fn unsupported(&self, scope: &Scope<'a>, instruction: &Instruction, reason: &str) -> LoadError {
        LoadError::Unsupported {
            function: scope.function.name.clone(),
            opcode: instruction.opcode.clone(),
            source_line: self.module.locations.describe(instruction.location),
            ptx_line: instruction.ptx_line,
            reason: reason.into(),
        }
    }

    fn resolve(&mut self) -> Result<(), LoadError> {
        for fixup in std::mem::take(&mut self.fixups) {
            let target = self.labels.get(&(fixup.body, fixup.label.clone())).copied();
            let flat = &mut self.out.code[fixup.at];
            let Some(target) = target else {
                return Err(invalid(
                    flat.function,
                    format!("label `{}` is not defined", fixup.label),
                ));
            };
            flat.targets.push(target);
        }
        Ok(())
    }
}

fn tables(body: &Body) -> HashMap<&str, &[String]> {
    body.statements
        .iter()
        .filter_map(|statement| match statement {
            Statement::BranchTargets { name, targets } => Some((name.as_str(), targets.as_slice())),
            _ => None,
        })
        .collect()
}

fn symbols_of(operand: &Operand) -> Vec<&str> {
    match operand {
        Operand::Symbol { name, .. } => vec![name.as_str()],
        Operand::Address { base, .. } => symbols_of(base),
        Operand::Vector(items) | Operand::List(items) => {
            items.iter().flat_map(symbols_of).collect()
        }
        Operand::Pair(a, b) => [symbols_of(a), symbols_of(b)].concat(),
        _ => Vec::new(),
    }
}
