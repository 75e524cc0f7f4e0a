//! The syntax tree. Registers are resolved to indices; everything else keeps its name.

use std::collections::BTreeMap;

/// A scalar type of the PTX type system, by width and interpretation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    BF16,
    BF16x2,
    F32,
    F64,
}

impl Type {
    /// Width in bytes; a predicate has none.
    pub fn bytes(self) -> usize {
        match self {
            Type::Pred => 0,
            Type::B8 | Type::U8 | Type::S8 => 1,
            Type::B16 | Type::U16 | Type::S16 | Type::F16 | Type::BF16 => 2,
            Type::B32 | Type::U32 | Type::S32 | Type::F32 | Type::F16x2 | Type::BF16x2 => 4,
            Type::B64 | Type::U64 | Type::S64 | Type::F64 => 8,
            Type::B128 => 16,
        }
    }

    /// The type written as `.name` in an opcode or declaration, without the dot.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "pred" => Type::Pred,
            "b8" => Type::B8,
            "b16" => Type::B16,
            "b32" => Type::B32,
            "b64" => Type::B64,
            "b128" => Type::B128,
            "u8" => Type::U8,
            "u16" => Type::U16,
            "u32" => Type::U32,
            "u64" => Type::U64,
            "s8" => Type::S8,
            "s16" => Type::S16,
            "s32" => Type::S32,
            "s64" => Type::S64,
            "f16" => Type::F16,
            "f16x2" => Type::F16x2,
            "bf16" => Type::BF16,
            "bf16x2" => Type::BF16x2,
            "f32" => Type::F32,
            "f64" => Type::F64,
            _ => return None,
        })
    }

    /// The name without the dot.
    pub fn name(self) -> &'static str {
        match self {
            Type::Pred => "pred",
            Type::B8 => "b8",
            Type::B16 => "b16",
            Type::B32 => "b32",
            Type::B64 => "b64",
            Type::B128 => "b128",
            Type::U8 => "u8",
            Type::U16 => "u16",
            Type::U32 => "u32",
            Type::U64 => "u64",
            Type::S8 => "s8",
            Type::S16 => "s16",
            Type::S32 => "s32",
            Type::S64 => "s64",
            Type::F16 => "f16",
            Type::F16x2 => "f16x2",
            Type::BF16 => "bf16",
            Type::BF16x2 => "bf16x2",
            Type::F32 => "f32",
            Type::F64 => "f64",
        }
    }
}

/// A state space in which a variable can be declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Space {
    Param,
    Local,
    Shared,
    Global,
    Const,
}

/// `.visible`, `.extern`, `.weak`, `.common` or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Linkage {
    Internal,
    Visible,
    Extern,
    Weak,
    Common,
}

/// One element of an initialiser.
#[derive(Clone, Debug, PartialEq)]
pub enum Initial {
    /// The bits of one element, as wide as the variable's element type.
    Bits(u64),
    /// The address of a variable or function plus an offset in bytes; `generic(name)` where set.
    Address {
        /// The symbol.
        symbol: String,
        /// Bytes added to it.
        offset: i64,
        /// Written as `generic(symbol)`.
        generic: bool,
    },
}

/// A variable of a state space other than registers, a parameter included.
#[derive(Clone, Debug, PartialEq)]
pub struct Variable {
    /// Where it lives.
    pub space: Space,
    /// How it is visible to other modules.
    pub linkage: Linkage,
    /// Bytes, a power of two; the element's width where nothing is written.
    pub align: usize,
    /// Element type.
    pub ty: Type,
    /// Name.
    pub name: String,
    /// Number of elements: `None` for a scalar, `Some(0)` for `name[]` (size set at launch).
    pub length: Option<usize>,
    /// Initial elements, flattened; empty without an initialiser, zero-filled where shorter.
    pub initial: Vec<Initial>,
}

impl Variable {
    /// Size in bytes; 0 for an array of unknown length.
    pub fn bytes(&self) -> usize {
        self.ty.bytes() * self.length.unwrap_or(1)
    }
}

/// Index into [`Body::registers`].
pub type RegisterId = u32;

/// A declared register. Names made unique: one declared in a nested scope carries a suffix.
#[derive(Clone, Debug, PartialEq)]
pub struct Register {
    /// Name, unique in the function.
    pub name: String,
    /// Declared type.
    pub ty: Type,
}

/// Index into [`Locations`]; 0 is "unknown".
pub type LocationId = u32;

/// One `.loc`: a place in a source file and, for inlined code, where it was inlined.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SourceLocation {
    /// Number of a `.file` directive; 0 when unknown.
    pub file: u32,
    /// Line, from 1; 0 when unknown.
    pub line: u32,
    /// Column, from 1; 0 when unknown.
    pub column: u32,
    /// The call that was replaced by this code, which may itself be inlined.
    pub inlined_at: Option<LocationId>,
}

/// All source locations of a module, with the files they name. A place comes after the one that it
/// is inlined at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Locations {
    /// `.file` number to path.
    pub files: BTreeMap<u32, String>,
    /// Entry 0 is the unknown location.
    pub entries: Vec<SourceLocation>,
}

/// `@p` or `@!p` before an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// A predicate register.
    pub register: RegisterId,
    /// True for `@!p`.
    pub negated: bool,
}

/// One operand as written.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// `%r1`
    Register(RegisterId),
    /// `!%p1`
    NotRegister(RegisterId),
    /// `_`: the result is not wanted.
    Sink,
    /// `%tid.x`, `%laneid`, `%clock64`, `WARP_SZ`, ...; the name without `%`.
    Special(String),
    /// An integer, sign-extended to 64 bits (`0x..U` and unsigned literals as their bits).
    Integer(i64),
    /// `0f3F800000`: the bits of an f32.
    Float32(u32),
    /// `0d3FF0000000000000`: the bits of an f64.
    Float64(u64),
    /// A variable, function, label or parameter, plus bytes (`name+4`).
    Symbol {
        /// Name.
        name: String,
        /// Bytes added to it.
        offset: i64,
    },
    /// `[base+offset]`; base is a `Register`, `Symbol` (offset 0) or `Integer`.
    Address {
        /// What the offset is added to.
        base: Box<Operand>,
        /// Bytes.
        offset: i64,
    },
    /// `{a, b}`
    Vector(Vec<Operand>),
    /// `d|p`: a result and a predicate result.
    Pair(Box<Operand>, Box<Operand>),
    /// `(a, b)`: arguments or results of a call.
    List(Vec<Operand>),
}

/// One instruction.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// The predicate it runs under.
    pub guard: Option<Guard>,
    /// The whole opcode with its modifiers: `ld.global.nc.v4.u32`.
    pub opcode: String,
    /// Operands in order.
    pub operands: Vec<Operand>,
    /// Bytes of a load that the program uses, a bit each, where a pragma says so.
    pub used_bytes: Option<u16>,
    /// Place in the CUDA source.
    pub location: LocationId,
    /// Line in the PTX text, from 1.
    pub ptx_line: u32,
}

/// A line of a body. Nested scopes are flattened.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// `name:`
    Label(String),
    /// An instruction.
    Instruction(Instruction),
    /// `name: .branchtargets a, b, c;`
    BranchTargets {
        /// The table's label.
        name: String,
        /// Labels in order.
        targets: Vec<String>,
    },
}

/// What a function is made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Body {
    /// Every register, of all scopes.
    pub registers: Vec<Register>,
    /// Variables of `.local`, `.shared`, `.param`, `.global` and `.const` space declared inside;
    /// names unique in the function, as for registers.
    pub variables: Vec<Variable>,
    /// Code.
    pub statements: Vec<Statement>,
}

/// `.entry` (a kernel) or `.func` (a device function).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum FunctionKind {
    Entry,
    Func,
}

/// Up to three numbers of a directive, missing ones being 1.
pub type Dim3 = [u32; 3];

/// A kernel or a device function.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// Kernel or device function.
    pub kind: FunctionKind,
    /// Visibility.
    pub linkage: Linkage,
    /// Name.
    pub name: String,
    /// Results; empty for kernels.
    pub returns: Vec<Variable>,
    /// Parameters in order, in `.param` space.
    pub params: Vec<Variable>,
    /// `.maxntid`
    pub max_threads: Option<Dim3>,
    /// `.reqntid`
    pub required_threads: Option<Dim3>,
    /// `.minnctapersm`
    pub min_blocks_per_sm: Option<u32>,
    /// `.maxnreg`
    pub max_registers: Option<u32>,
    /// `.noreturn`
    pub no_return: bool,
    /// Code; none for a declaration.
    pub body: Option<Body>,
    /// Line in the PTX text, from 1.
    pub ptx_line: u32,
}

/// A PTX module.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    /// `.version`, major and minor.
    pub version: (u32, u32),
    /// `.target`, as written: `sm_80`.
    pub target: String,
    /// `.address_size`: 32 or 64.
    pub address_size: u32,
    /// Variables at module scope.
    pub variables: Vec<Variable>,
    /// Functions that are only declared, then those defined, each in order.
    pub functions: Vec<Function>,
    /// Source locations.
    pub locations: Locations,
}

impl Locations {
    /// The chain of places, innermost first, as `file:line`; the file by its last path component.
    pub fn describe(&self, id: LocationId) -> String {
        let places: Vec<_> = self.chain(id).map(|place| self.place(place)).collect();
        if places.is_empty() { "unknown line".into() } else { places.join(" inlined at ") }
    }

    /// The outermost place: the line of the kernel's own text that led here.
    pub fn outermost(&self, id: LocationId) -> &SourceLocation {
        static UNKNOWN: SourceLocation =
            SourceLocation { file: 0, line: 0, column: 0, inlined_at: None };
        self.chain(id).last().unwrap_or(&UNKNOWN)
    }

    /// The places from the innermost one outwards; none for an unknown location.
    pub fn chain(&self, id: LocationId) -> impl Iterator<Item = &SourceLocation> {
        let entry = |id: LocationId| self.entries.get(id as usize).filter(|_| id != 0);
        std::iter::successors(entry(id), move |place| place.inlined_at.and_then(entry))
    }

    fn place(&self, place: &SourceLocation) -> String {
        let path = self.files.get(&place.file).map_or("?", String::as_str);
        let file = path.rsplit(['/', '\\']).next().unwrap_or(path);
        format!("{file}:{}", place.line)
    }
}
