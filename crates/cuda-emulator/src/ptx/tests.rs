//! Reading and printing together.

mod generated;
mod hostile;

use super::*;

/// A kernel with one of everything.
pub(super) const TILE: &str = include_str!("testdata/tile.ptx");

/// The module without line numbers of its text, which printing changes.
pub(super) fn without_lines(mut module: Module) -> Module {
    for function in &mut module.functions {
        function.ptx_line = 0;
        for statement in function.body.iter_mut().flat_map(|body| &mut body.statements) {
            if let Statement::Instruction(instruction) = statement {
                instruction.ptx_line = 0;
            }
        }
    }
    module
}

const HEADER: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

/// The body of a kernel of these lines.
fn body_of(lines: &str) -> Result<Body, ParseError> {
    let text = format!("{HEADER}.entry k(.param .u64 p)\n{{\n{lines}\n}}\n");
    let mut module = parse(&text)?;
    Ok(module.functions.remove(0).body.expect("a body"))
}

fn instructions(body: &Body) -> Vec<&Instruction> {
    let mut list = Vec::new();
    for statement in &body.statements {
        if let Statement::Instruction(instruction) = statement {
            list.push(instruction);
        }
    }
    list
}

/// The operands of one instruction over registers `%r1` (0), `%p1` (1) and `%rd1` (2).
fn operands_of(line: &str) -> Result<Vec<Operand>, ParseError> {
    let registers = ".reg .b32 %r1; .reg .pred %p1; .reg .b64 %rd1; .shared .b8 s[4]; L:";
    let body = body_of(&format!("{registers} {line}"))?;
    Ok(instructions(&body)[0].operands.clone())
}

fn symbol(name: &str, offset: i64) -> Operand {
    Operand::Symbol { name: name.into(), offset }
}

fn address(base: Operand, offset: i64) -> Operand {
    Operand::Address { base: Box::new(base), offset }
}

#[test]
fn printed_text_parses_to_the_same_module() {
    let module = parse(TILE).expect("valid");
    let printed = module.to_string();
    let again = parse(&printed).expect("printed text is valid");
    assert_eq!(without_lines(again), without_lines(module));
}

#[test]
fn operands_are_read_as_written() {
    use Operand::{Float32, Float64, Integer, NotRegister, Pair, Register, Sink, Special, Vector};
    let special = |name: &str| Special(name.into());
    for (line, expected) in [
        ("a %r1, -1;", vec![Register(0), Integer(-1)]),
        ("a 0xFFFFFFFFFFFFFFFFU, 4294967295;", vec![Integer(-1), Integer(0xFFFF_FFFF)]),
        ("a -9223372036854775808;", vec![Integer(i64::MIN)]),
        (
            "a 0f3F800000, -0f3F800000, 1.5;",
            vec![Float32(0x3F80_0000), Float32(0xBF80_0000), Float64(1.5f64.to_bits())],
        ),
        ("a !%p1, _;", vec![NotRegister(1), Sink]),
        ("a %r1|%p1, _|%p1;", {
            let pair = |first| Pair(Box::new(first), Box::new(Register(1)));
            vec![pair(Register(0)), pair(Sink)]
        }),
        ("a {%r1, 0,_}, {%r1};", {
            vec![Vector(vec![Register(0), Integer(0), Sink]), Vector(vec![Register(0)])]
        }),
        ("a %tid.x, %laneid, %envreg31;", {
            vec![special("tid.x"), special("laneid"), special("envreg31")]
        }),
        ("a WARP_SZ, %clock64, %unknown;", {
            vec![special("WARP_SZ"), special("clock64"), special("unknown")]
        }),
        ("a [%rd1+-8], [%rd1-8], [ %rd1 + 8 ], [%rd1];", {
            [-8, -8, 8, 0].map(|offset| address(Register(2), offset)).to_vec()
        }),
        ("a [p], [s+4], [16], [16+4];", {
            let number = |offset| address(Integer(16), offset);
            vec![address(symbol("p", 0), 0), address(symbol("s", 0), 4), number(0), number(4)]
        }),
        ("a s, s+4, s+-4, L;", {
            vec![symbol("s", 0), symbol("s", 4), symbol("s", -4), symbol("L", 0)]
        }),
        ("call (s), k, (%r1, p);", {
            let list = |items| Operand::List(items);
            vec![
                list(vec![symbol("s", 0)]),
                symbol("k", 0),
                list(vec![Register(0), symbol("p", 0)]),
            ]
        }),
        ("call k, ();", vec![symbol("k", 0), Operand::List(vec![])]),
        ("call.uni k;", vec![symbol("k", 0)]),
        ("ret;", vec![]),
    ] {
        assert_eq!(operands_of(line).as_ref(), Ok(&expected), "{line}");
    }
}

#[test]
fn opcodes_keep_their_modifiers() {
    let body =
        body_of("cp.async.cg.shared.global.L2::128B [p], [p], 16;\nld .param\n .u64 _, [p];");
    let body = body.expect("valid");
    let opcodes: Vec<_> = instructions(&body).iter().map(|i| (&i.opcode[..], i.ptx_line)).collect();
    assert_eq!(opcodes, [("cp.async.cg.shared.global.L2::128B", 6), ("ld.param.u64", 7)]);
}

#[test]
fn nested_scopes_have_their_own_names() {
    let body = body_of(
        "{ .reg .b32 x; mov.b32 x, 1; L: { .reg .pred x; @x bra L; } bra L; }\n\
         { .reg .b32 x; mov.b32 x, 2; L: bra L; }\n.reg .b32 x; mov.b32 x, 3;",
    )
    .expect("valid");
    let names: Vec<_> = body.registers.iter().map(|r| (&r.name[..], r.ty)).collect();
    assert_eq!(
        names,
        [("x$1", Type::B32), ("x$2", Type::Pred), ("x$3", Type::B32), ("x", Type::B32)]
    );
    let code: Vec<_> = instructions(&body).iter().map(|i| (i.guard, i.operands.clone())).collect();
    let write = |id, value| (None, vec![Operand::Register(id), Operand::Integer(value)]);
    let branch = |guard, label| (guard, vec![symbol(label, 0)]);
    assert_eq!(
        code,
        [
            write(0, 1),
            branch(Some(Guard { register: 1, negated: false }), "L$1"),
            branch(None, "L$1"),
            write(2, 2),
            branch(None, "L$3"),
            write(3, 3),
        ]
    );
}

#[test]
fn given_names_do_not_collide_with_declared_ones() {
    let body = body_of(".reg .b32 x$1, x$2; { .reg .b32 x; mov.b32 x, x$1; } .reg .b32 x$3;");
    let body = body.expect("valid");
    let names: Vec<_> = body.registers.iter().map(|r| &r.name[..]).collect();
    assert_eq!(names, ["x$1", "x$2", "x$3", "x$3$4"]);
}

#[test]
fn inlined_places_are_resolved_through_earlier_ones() {
    let module = parse(TILE).expect("valid");
    let places: Vec<_> = instructions(module.functions[1].body.as_ref().expect("a body"))
        .iter()
        .map(|i| module.locations.describe(i.location))
        .collect();
    assert_eq!(places[0], "tile.cu:21");
    assert_eq!(places[5], "tile.cu:38 inlined at tile.cu:45");
    assert_eq!(places[9], "tile.cu:20 inlined at tile.cu:38 inlined at tile.cu:45");
    assert_eq!(module.locations.outermost(0).line, 0);
    let xor = instructions(module.functions[1].body.as_ref().expect("a body"))[9];
    assert_eq!(
        (xor.opcode.as_str(), module.locations.outermost(xor.location).line),
        ("xor.b32", 45)
    );
}

#[test]
fn a_place_inlined_into_itself_ends() {
    let body = ".loc 1 5 1\n.loc 1 5 1, function_name f, inlined_at 1 5 1\nret;";
    let text = format!("{HEADER}.file 1 \"a.cu\"\n.entry k()\n{{\n{body}\n}}");
    let module = parse(&text).expect("valid");
    assert_eq!(module.locations.describe(2), "a.cu:5 inlined at a.cu:5");
}

#[test]
fn variables_are_flattened() {
    let module = parse(TILE).expect("valid");
    let [dynamic, table, text, pointers] = &module.variables[..] else { panic!("four variables") };
    assert_eq!((dynamic.linkage, dynamic.length, dynamic.align), (Linkage::Extern, Some(0), 128));
    let bits = |values: &[u64]| values.iter().map(|&v| Initial::Bits(v)).collect::<Vec<_>>();
    assert_eq!(table.initial, bits(&[0x3F80_0000, 0, 0x4000_0000, 0xC040_0000]));
    assert_eq!((table.length, table.bytes()), (Some(4), 16));
    assert_eq!(text.initial, bits(&[110, 61, 219, 100, 10]));
    let address =
        |symbol: &str, offset, generic| Initial::Address { symbol: symbol.into(), offset, generic };
    assert_eq!(pointers.initial, [address("$str", 1, true), address("table", 0, false)]);
}

#[test]
fn functions_are_read_with_their_directives() {
    let module = parse(TILE).expect("valid");
    let names: Vec<_> = module.functions.iter().map(|f| (&f.name[..], f.body.is_some())).collect();
    assert_eq!(names, [("vprintf", false), ("tile", true), ("scale", true)]);
    let tile = &module.functions[1];
    assert_eq!(tile.max_threads, Some([128, 1, 1]));
    assert_eq!(tile.min_blocks_per_sm, Some(2));
    let params: Vec<_> = tile.params.iter().map(|p| (p.align, p.bytes())).collect();
    assert_eq!(params, [(8, 8), (8, 24), (4, 4)]);
    assert_eq!(module.functions[2].returns.len(), 1);
}

#[test]
fn unreadable_text_is_an_error_that_names_it() {
    for (lines, message) in [
        ("mov.b32 x, 1;", "`x` is not declared"),
        ("bra L;", "`L` is not declared"),
        (".reg .b32 x; .reg .b32 x;", "`x` is declared twice"),
        ("L: L: ret;", "`L` is declared twice"),
        (".reg .b32 x; @x ret;", "`x` is no predicate register"),
        (".reg .b32 x; mov.b32 !x, 1;", "`x` is no predicate register"),
        ("{ L: } bra L;", "`L` is not declared"),
        (".reg .b32 %r<4000000000>;", "too many registers"),
        (".reg .v4 .b32 x;", "expected a register type, found `.v4`"),
        (".shared .b8 x[1000000000][1000000000];", "`x` is too large"),
        (".shared .align 3 .b8 x;", "alignment is no power of two"),
        (".shared .b8 x[0];", "array of no elements"),
        (".local .b8 x = 256;", "`256` is no `.b8`"),
        (".local .f32 x = 1;", "`1` is no `.f32`"),
        (".local .b8 x[2] = {1, 2, 3};", "more initial elements than the array has"),
        (".local .b64 x = {1};", "expected a number, found `{`"),
        (
            "proto: .callprototype (.param .b32 _) _ ();",
            "directive `.callprototype` is not supported",
        ),
        (".maxnreg 3;", "directive `.maxnreg` is not supported"),
        ("tex.2d.v4.f32.f32 {_, _, _, _}, [p, {_, _}];", "expected `]`, found `,`"),
        ("mov.b32 _, 0x;", "`0x` is no number of 64 bits"),
        ("mov.b32 _, 99999999999999999999;", "`99999999999999999999` is no number of 64 bits"),
        ("mov.b32 _, (1);", "expected an operand, found `(`"),
        ("mov.b32 _, 1|2;", "`|` stands between two registers"),
        ("mov.b32 _ 1;", "expected `;`, found `1`"),
        ("ld.b32 _, [0f00000000];", "no address"),
        ("ld.b32 _, [%tid.x];", "no address"),
        ("%r1 1;", "`%r1` is no instruction"),
        ("\u{e9}", "unexpected `\\xc3`"),
        ("\"open", "string without end"),
        ("% ", "`%` without a name"),
    ] {
        let error = body_of(lines).expect_err(lines);
        assert_eq!((error.line, error.message.as_str()), (6, message), "{lines}");
    }
}

#[test]
fn unreadable_modules_are_errors_that_name_what_is_wrong() {
    for (text, line, message) in [
        ("", 1, "expected `.version`, found the end of the text"),
        (".version 8", 1, "`.version` is not `major.minor`"),
        (".version 8.0 .target sm_80 .global", 1, "expected `.address_size`, found `.global`"),
        (".version 8.0 .target sm_80 .address_size 48", 1, "`.address_size` is neither 32 nor 64"),
        ("/* \n\n", 1, "comment without end"),
    ] {
        let error = parse(text).expect_err(text);
        assert_eq!((error.line, error.message.as_str()), (line, message), "{text}");
    }
    for (item, message) in [
        (".alias a, b;", "directive `.alias` is not supported"),
        (".entry k() .maxclusterrank 4 { ret; }", "directive `.maxclusterrank` is not supported"),
        (".entry k() { ret; } .entry k() { ret; }", "`k` is declared twice"),
        (".entry k() {", "expected a statement, found the end of the text"),
        (".entry k(.reg .b32 x);", "expected a state space, found `.reg`"),
        (".entry k(.global .b32 x);", "`x` is no parameter"),
        (".global .b8 x; .global .b8 x;", "`x` is declared twice"),
        (".global .b8 x; .func x;", "`x` is declared twice"),
        (".global .u64 x = y;", "`y` is not declared"),
        (".global .u16 x; .global .u16 y = x;", "address of `x` as `.u16`"),
        (".global .attribute(.managed) .b8 x;", "attribute `.attribute` is not supported"),
        (".global .u64 y; .global .b8 x[2] = {0xFF(y)};", "a masked address is not supported"),
        (".section .debug_str {", "expected the end of the section, found the end of the text"),
        (".visible .file 1 \"a\"", "expected a declaration, found `.file`"),
    ] {
        let error = parse(&format!("{HEADER}{item}")).expect_err(item);
        assert_eq!((error.line, error.message.as_str()), (4, message), "{item}");
    }
}
