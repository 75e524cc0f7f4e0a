//! Random modules survive printing and parsing.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::without_lines;
use crate::ptx::*;

/// Decisions taken from a list of random numbers, zeros at its end.
struct Choices(std::vec::IntoIter<u64>);

impl Choices {
    fn number(&mut self) -> u64 {
        self.0.next().unwrap_or(0)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.number() % n as u64) as usize
    }

    fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    fn flag(&mut self) -> bool {
        self.number() & 1 != 0
    }

    fn small(&mut self) -> Option<u32> {
        self.flag().then(|| self.number() as u32)
    }

    fn dim3(&mut self) -> Option<Dim3> {
        self.flag().then(|| [(); 3].map(|()| self.number() as u32))
    }

    fn offset(&mut self) -> i64 {
        self.pick(&[0, 4, -8, i64::MIN, i64::MAX])
    }
}

const LINKAGES: [Linkage; 5] =
    [Linkage::Internal, Linkage::Visible, Linkage::Extern, Linkage::Weak, Linkage::Common];
const TYPES: [Type; 19] = [
    Type::B8,
    Type::B16,
    Type::B32,
    Type::B64,
    Type::B128,
    Type::U8,
    Type::U16,
    Type::U32,
    Type::U64,
    Type::S8,
    Type::S16,
    Type::S32,
    Type::S64,
    Type::F16,
    Type::F16x2,
    Type::BF16,
    Type::BF16x2,
    Type::F32,
    Type::F64,
];
/// Chains of file, line and column, outermost first.
const PLACES: [&[(u32, u32, u32)]; 6] = [
    &[],
    &[(1, 5, 0)],
    &[(1, 5, 0), (2, 7, 1)],
    &[(1, 6, 2), (2, 7, 1)],
    &[(1, 6, 2), (1, 6, 2), (1, 6, 2)],
    &[(1, 5, 0), (2, 7, 1), (1, 5, 0), (1, 9, 9)],
];

/// The first function's places come first, a place after the one that it is inlined at.
fn intern(locations: &mut Locations, places: &[(u32, u32, u32)]) -> LocationId {
    let mut inlined_at = None;
    for &(file, line, column) in places {
        let place = SourceLocation { file, line, column, inlined_at };
        let known = locations.entries.iter().position(|entry| *entry == place);
        inlined_at = Some(known.unwrap_or_else(|| {
            locations.entries.push(place);
            locations.entries.len() - 1
        }) as LocationId);
    }
    inlined_at.unwrap_or(0)
}

fn initial(choices: &mut Choices, ty: Type, symbols: &[String]) -> Initial {
    if ty.bytes() >= 4
        && !matches!(ty, Type::F32 | Type::F64)
        && !symbols.is_empty()
        && choices.flag()
    {
        let symbol = choices.pick(symbols);
        return Initial::Address { symbol, offset: choices.offset(), generic: choices.flag() };
    }
    let bits = choices.number();
    Initial::Bits(if ty.bytes() == 8 { bits } else { bits & ((1 << (ty.bytes() * 8)) - 1) })
}

fn variable(choices: &mut Choices, name: String, space: Space, symbols: &[String]) -> Variable {
    let ty = choices.pick(&TYPES);
    let mut variable = Variable {
        space,
        linkage: Linkage::Internal,
        align: ty.bytes() << choices.below(3),
        ty,
        name,
        length: choices.flag().then(|| choices.below(4)),
        initial: Vec::new(),
    };
    let number = !matches!(ty, Type::B128 | Type::F16 | Type::F16x2 | Type::BF16 | Type::BF16x2);
    if number && matches!(space, Space::Global | Space::Const) {
        let elements = variable.length.unwrap_or(1);
        let count =
            if variable.length.is_none() { choices.below(2) } else { choices.below(elements + 1) };
        variable.initial = (0..count).map(|_| initial(choices, ty, symbols)).collect();
    }
    variable
}

/// What operands can name.
struct Names {
    registers: Vec<Register>,
    symbols: Vec<String>,
}

fn scalar(choices: &mut Choices, names: &Names) -> Operand {
    let register = choices.below(names.registers.len()) as RegisterId;
    match choices.below(7) {
        0 => Operand::Register(register),
        1 => Operand::Sink,
        2 => Operand::Special(choices.pick(&["tid.x", "laneid", "WARP_SZ", "clock64"]).into()),
        3 => Operand::Integer(choices.number() as i64),
        4 => Operand::Float32(choices.number() as u32),
        5 => Operand::Float64(choices.number()),
        _ => Operand::Symbol { name: choices.pick(&names.symbols), offset: choices.offset() },
    }
}

fn list(choices: &mut Choices, names: &Names) -> Vec<Operand> {
    (0..choices.below(4)).map(|_| scalar(choices, names)).collect()
}

fn operand(choices: &mut Choices, names: &Names, opcode: &str) -> Operand {
    let register = Operand::Register(choices.below(names.registers.len()) as RegisterId);
    match choices.below(6) {
        0 => Operand::NotRegister(0),
        1 => {
            let bases = [
                register,
                Operand::Integer(choices.number() as i64),
                Operand::Symbol { name: choices.pick(&names.symbols), offset: 0 },
            ];
            Operand::Address { base: Box::new(choices.pick(&bases)), offset: choices.offset() }
        }
        2 => Operand::Vector(list(choices, names)),
        3 => Operand::Pair(Box::new(register), Box::new(Operand::Register(0))),
        4 if opcode.starts_with("call") => Operand::List(list(choices, names)),
        _ => scalar(choices, names),
    }
}

fn statement(choices: &mut Choices, names: &Names, locations: &mut Locations) -> Statement {
    let opcode = choices.pick(&["mov.b32", "ld.global.v4.u32", "call.uni", "cp.async.L2::128B"]);
    let count = choices.below(5);
    let guard = choices.flag().then(|| Guard { register: 0, negated: choices.flag() });
    Statement::Instruction(Instruction {
        guard,
        opcode: opcode.into(),
        operands: (0..count).map(|_| operand(choices, names, opcode)).collect(),
        used_bytes: choices.flag().then(|| choices.below(0xffff) as u16 + 1),
        location: intern(locations, choices.pick(&PLACES)),
        ptx_line: 0,
    })
}

/// Register 0 is a predicate.
fn registers(choices: &mut Choices) -> Vec<Register> {
    let mut registers = vec![Register { name: "%p0".into(), ty: Type::Pred }];
    for group in 0..choices.below(5) {
        let ty = choices.pick(&TYPES);
        let first = choices.below(2);
        for index in first..=choices.below(12) {
            registers.push(Register { name: format!("%g{group}_{index}"), ty });
        }
    }
    registers
}

fn body(choices: &mut Choices, mut symbols: Vec<String>, locations: &mut Locations) -> Body {
    let spaces = [Space::Param, Space::Local, Space::Shared];
    let mut variables = Vec::new();
    for index in 0..choices.below(3) {
        let space = choices.pick(&spaces);
        variables.push(variable(choices, format!("local${index}"), space, &[]));
        symbols.push(format!("local${index}"));
    }
    let labels = ["L0".to_owned(), "L1".to_owned()];
    symbols.extend(labels.clone());
    let names = Names { registers: registers(choices), symbols };
    let mut statements = vec![Statement::Label("L0".into())];
    for _ in 0..choices.below(10) {
        statements.push(statement(choices, &names, locations));
    }
    if choices.flag() {
        let targets = (0..=choices.below(3)).map(|_| choices.pick(&labels)).collect();
        statements.push(Statement::BranchTargets { name: "table".into(), targets });
    }
    statements.push(Statement::Label("L1".into()));
    Body { registers: names.registers, variables, statements }
}

fn function(
    choices: &mut Choices,
    name: String,
    symbols: &[String],
    locations: &mut Locations,
    defined: bool,
) -> Function {
    let kind = choices.pick(&[FunctionKind::Entry, FunctionKind::Func]);
    let returns = if kind == FunctionKind::Func { choices.below(2) } else { 0 };
    let mut parameters = |count: usize, prefix: &str| -> Vec<_> {
        let name = |index| format!("{prefix}{index}");
        (0..count).map(|i| variable(choices, name(i), Space::Param, &[])).collect()
    };
    let returns = parameters(returns, "result");
    let params = parameters(2, "param");
    let mut visible = symbols.to_vec();
    visible.push(name.clone());
    visible.extend(returns.iter().chain(&params).map(|variable| variable.name.clone()));
    Function {
        kind,
        linkage: choices.pick(&LINKAGES),
        name,
        returns,
        params,
        max_threads: choices.dim3(),
        required_threads: choices.dim3(),
        min_blocks_per_sm: choices.small(),
        max_registers: choices.small(),
        no_return: choices.flag(),
        body: defined.then(|| body(choices, visible, locations)),
        ptx_line: 0,
    }
}

fn module(numbers: Vec<u64>) -> Module {
    let choices = &mut Choices(numbers.into_iter());
    let mut symbols = Vec::new();
    let mut locations = Locations {
        files: BTreeMap::from([(1, "a.cu".into()), (2, "dir/b.cuh".into())]),
        entries: vec![SourceLocation::default()],
    };
    let mut functions = Vec::new();
    for index in 0..choices.below(2) {
        let name = format!("declared{index}");
        functions.push(function(choices, name.clone(), &[], &mut locations, false));
        symbols.push(name);
    }
    let mut variables = Vec::new();
    for index in 0..choices.below(4) {
        let space = choices.pick(&[Space::Global, Space::Const, Space::Shared]);
        let mut variable = variable(choices, format!("g{index}"), space, &symbols);
        variable.linkage = choices.pick(&LINKAGES);
        symbols.push(variable.name.clone());
        variables.push(variable);
    }
    for index in 0..choices.below(4) {
        let name = format!("f{index}");
        functions.push(function(choices, name.clone(), &symbols, &mut locations, true));
        symbols.push(name);
    }
    Module {
        version: (choices.below(20) as u32, choices.below(20) as u32),
        target: "sm_90a, debug".into(),
        address_size: 64,
        variables,
        functions,
        locations,
    }
}

proptest! {
    #[test]
    fn modules_survive_printing_and_parsing(numbers in prop::collection::vec(any::<u64>(), 0..600)) {
        let module = module(numbers);
        let text = module.to_string();
        let parsed = parse(&text).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        prop_assert_eq!(without_lines(parsed), module, "{}", text);
    }
}
