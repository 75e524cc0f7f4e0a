//! Every opcode of the table against a model on exact numbers, lane by lane.

mod floats;
mod integers;
mod matrices;
mod number;
mod values;

use number::Format;

use super::{Class, Entry, Lanes32, Lanes64, Operands, Registers, WARP, entries};

/// One expected result.
#[derive(Clone, Debug)]
enum Types {
    /// These bits.
    Bits(u64),
    /// These bits, or any NaN where they are one and the format's payload is free.
    Float(u64, Format),
    /// At most one representable number away.
    Near(u64, Format),
    /// Two 16-bit results.
    Pair(Box<(Types, Types)>),
}

impl Types {
    fn pair(low: &Self, high: &Self) -> Self {
        Types::Pair(Box::new((low.clone(), high.clone())))
    }

    fn accepts(&self, got: u64) -> bool {
        match self {
            Types::Bits(bits) => got == *bits,
            Types::Float(bits, format) => {
                got == *bits || format.nan.is_none() && format.is_nan(*bits) && format.is_nan(got)
            }
            Types::Near(bits, format) => {
                let near = |x: u64| (bits ^ x) & format.sign() == 0 && bits.abs_diff(x) <= 1;
                let nans = (format.is_nan(*bits), format.is_nan(got));
                if nans == (false, false) {
                    near(got)
                } else {
                    Types::Float(*bits, *format).accepts(got)
                }
            }
            Types::Pair(halves) => halves.0.accepts(got & 0xffff) && halves.1.accepts(got >> 16),
        }
    }
}

/// What an opcode does to one lane.
#[derive(Debug)]
struct Expected {
    results: Vec<Types>,
    /// The carry flag after, if written.
    carry: Option<bool>,
}

impl Expected {
    fn bits(bits: u64) -> Self {
        Self { results: vec![Types::Bits(bits)], carry: None }
    }
    fn float(bits: u64, format: Format) -> Self {
        Self { results: vec![Types::Float(bits, format)], carry: None }
    }
}

/// The model of every opcode; `None` where there is none.
fn model(opcode: &str, x: &[u64], carry: bool) -> Option<Expected> {
    let parts: Vec<&str> = opcode.split('.').collect();
    match parts[0] {
        "cvt" => floats::conversion(&parts, x),
        "dp4a" | "dp2a" => integers::dot(&parts, x),
        "slct" => select(&parts, x),
        name if name.contains("pack") => integers::vectors(&parts, x),
        "selp" | "mov" => integers::bits(&as_bits(&parts), x),
        "setp" | "set" if floats::format(parts.last()?.trim_end_matches("x2")).is_none() => {
            let ty = *parts.last()?;
            let order = integers::value(x[0], ty).cmp(&integers::value(x[1], ty));
            floats::outcome(&parts, floats::holds(parts[1], Some(order)), x.get(2))
        }
        _ => floats::arithmetic(&parts, x)
            .or_else(|| integers::arithmetic(&parts, x, carry))
            .or_else(|| integers::bits(&parts, x)),
    }
}

/// Floating-point types as bits of their width.
fn as_bits<'a>(parts: &[&'a str]) -> Vec<&'a str> {
    let renamed = |part: &&'a str| match *part {
        "f16" | "bf16" => "b16",
        "f32" | "f16x2" | "bf16x2" => "b32",
        "f64" => "b64",
        other => other,
    };
    parts.iter().map(renamed).collect()
}

fn select(parts: &[&str], x: &[u64]) -> Option<Expected> {
    let by = x[2] as u32;
    let nonnegative = match *parts.last()? {
        "s32" => by >> 31 == 0,
        _ if by & 0x7fff_ffff > 0x7f80_0000 => false,
        _ if parts.contains(&"ftz") && by & 0x7f80_0000 == 0 => true,
        _ => by >> 31 == 0 || by == 0x8000_0000,
    };
    let chosen = as_bits(&["selp", parts[parts.len() - 2]]);
    integers::bits(&chosen, &[x[0], x[1], u64::from(nonnegative)])
}

/// Registers of random operands for each opcode: 32 lanes of them each time.
const ROUNDS: usize = 60;

/// Registers of each class; operands use distinct ones unless they alias.
const FILE: usize = 8;

fn read(registers: &Registers, class: Class, index: u16, lane: usize) -> u64 {
    let index = usize::from(index);
    match class {
        Class::P => u64::from(registers.p[index] >> lane & 1),
        Class::W => u64::from(registers.w[index].0[lane]),
        Class::D => registers.d[index].0[lane],
    }
}

fn check(entry: &Entry, operands: &Operands, before: &Registers, mask: u32) {
    let mut after = before.clone();
    (entry.run)(&mut after, operands, mask);
    let count = entry.results.len();
    let mut untouched = after.clone();
    for lane in 0..WARP {
        let active = mask >> lane & 1 != 0;
        let sources: Vec<u64> = std::iter::zip(entry.sources, &operands[count..])
            .map(|(&class, &index)| read(before, class, index, lane))
            .collect();
        let carry = before.carry >> lane & 1 != 0;
        let expected = model(&entry.opcode, &sources, carry)
            .unwrap_or_else(|| panic!("{} has no model", entry.opcode));
        assert_eq!(expected.results.len(), count, "{}", entry.opcode);
        for (i, (&class, want)) in std::iter::zip(entry.results, &expected.results).enumerate() {
            let got = read(&after, class, operands[i], lane);
            let old = read(before, class, operands[i], lane);
            let accepted = if active { want.accepts(got) } else { got == old };
            assert!(
                accepted,
                "{} lane {lane} active {active} sources {sources:x?} carry {carry}: {got:#x}, not {want:x?}",
                entry.opcode
            );
            restore(&mut untouched, before, class, operands[i]);
        }
        let got_carry = after.carry >> lane & 1 != 0;
        let want_carry = expected.carry.filter(|_| active).unwrap_or(carry);
        assert_eq!(got_carry, want_carry, "{} carry, sources {sources:x?}", entry.opcode);
    }
    assert!(
        untouched.p == before.p && untouched.w == before.w && untouched.d == before.d,
        "{} wrote a register that is none of its results",
        entry.opcode
    );
}

fn restore(registers: &mut Registers, from: &Registers, class: Class, index: u16) {
    let index = usize::from(index);
    match class {
        Class::P => registers.p[index] = from.p[index],
        Class::W => registers.w[index] = from.w[index],
        Class::D => registers.d[index] = from.d[index],
    }
}

fn operands(entry: &Entry, alias: bool) -> Operands {
    let mut next = [0u16; 3];
    let mut operands = [0; 8];
    let classes = entry.results.iter().chain(entry.sources);
    for (operand, &class) in operands.iter_mut().zip(classes) {
        *operand = next[class as usize];
        next[class as usize] += 1;
    }
    if alias && entry.results.first() == entry.sources.first() {
        operands[0] = operands[entry.results.len()];
    }
    operands
}

#[test]
fn every_opcode_agrees_with_its_model() {
    let mut random = values::Random::new(1);
    let mut sorted: Vec<&Entry> = entries().collect();
    sorted.sort_by(|a, b| a.opcode.cmp(&b.opcode));
    for entry in sorted {
        for round in 0..ROUNDS {
            let registers = Registers {
                p: (0..FILE).map(|_| random.word()).collect(),
                w: (0..FILE)
                    .map(|_| Lanes32([0; WARP].map(|_: u32| values::word(&mut random))))
                    .collect(),
                d: (0..FILE)
                    .map(|_| Lanes64([0; WARP].map(|_: u64| values::double_word(&mut random))))
                    .collect(),
                carry: random.word(),
            };
            let mask = if round % 3 == 0 { random.word() } else { u32::MAX };
            check(entry, &operands(entry, round % 4 == 1), &registers, mask);
        }
    }
}
