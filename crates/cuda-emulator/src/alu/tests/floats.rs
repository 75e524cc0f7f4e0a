//! What floating-point opcodes give, by exact arithmetic and one rounding.

use std::cmp::Ordering;

use num_bigint::BigInt;

use super::{
    Expected, Types, integers,
    number::{BF16, F16, F32, F64, Format, Number, Rounding, TF32},
};

pub(super) fn format(ty: &str) -> Option<Format> {
    Some(match ty {
        "f16" => F16,
        "bf16" => BF16,
        "tf32" => TF32,
        "f32" => F32,
        "f64" => F64,
        _ => return None,
    })
}

fn rounding(parts: &[&str]) -> Rounding {
    let has = |name| parts.contains(&name);
    if has("rz") || has("rzi") {
        Rounding::Zero
    } else if has("rm") || has("rmi") {
        Rounding::Down
    } else if has("rp") || has("rpi") {
        Rounding::Up
    } else if has("rna") {
        Rounding::TiesAway
    } else {
        Rounding::Even
    }
}

fn mask(format: Format) -> u64 {
    format.sign() | (format.sign() - 1)
}

fn flush(bits: u64, format: Format) -> u64 {
    if format.is_tiny(bits) { bits & format.sign() } else { bits }
}

/// `.ftz`, `.sat` and `.relu` of a result.
fn finish(bits: u64, format: Format, parts: &[&str], flushes: bool) -> u64 {
    let has = |name| parts.contains(&name);
    let bits = if flushes { flush(bits, format) } else { bits };
    let number = format.decode(bits);
    let zero = format.decode(0);
    let one = Number::of_integer(&BigInt::from(1));
    if has("sat") {
        return match number.order(&zero) {
            Some(Ordering::Greater) if number.order(&one) == Some(Ordering::Greater) => {
                format.encode(&one, Rounding::Even)
            }
            Some(Ordering::Greater) => bits,
            _ => 0,
        };
    }
    if has("relu") && number.order(&zero).is_some_and(|order| order != Ordering::Greater) {
        return 0;
    }
    bits
}

/// Any opcode on one format, pairs of 16-bit numbers included.
pub(super) fn arithmetic(parts: &[&str], x: &[u64]) -> Option<Expected> {
    let ty = *parts.last()?;
    if let Some(single) = ty.strip_suffix("x2") {
        // `set.lt.f16x2.f16x2` names two types.
        let parts: Vec<&str> =
            parts.iter().map(|part| if *part == ty { single } else { part }).collect();
        let half = |shift: u32| {
            let x: Vec<u64> = x.iter().map(|x| x >> shift & 0xffff).collect();
            arithmetic(&parts, &x)
        };
        let (low, high) = (half(0)?, half(16)?);
        if parts[0] == "setp" {
            return Some(Expected { results: [low.results, high.results].concat(), carry: None });
        }
        return Some(Expected {
            results: vec![Types::pair(&low.results[0], &high.results[0])],
            carry: None,
        });
    }
    let f = format(ty)?;
    let ftz = parts.contains(&"ftz");
    let operand = |i: usize| {
        let bits = x[i] & mask(f);
        if ftz { flush(bits, f) } else { bits }
    };
    match parts[0] {
        "neg" => return Some(Expected::bits(operand(0) ^ f.sign())),
        "abs" => return Some(Expected::bits(operand(0) & !f.sign())),
        "copysign" => return Some(Expected::bits(operand(0) & f.sign() | operand(1) & !f.sign())),
        "testp" => return Some(Expected::bits(u64::from(test(parts[1], operand(0), f)))),
        "min" | "max" => return Some(choice(parts, operand(0), operand(1), f)),
        "setp" | "set" => {
            return comparison(parts, &f.decode(operand(0)), &f.decode(operand(1)), x.get(2));
        }
        "mov" => return Some(Expected::bits(operand(0))),
        _ => {}
    }
    if parts.contains(&"approx") || parts.contains(&"full") {
        return approximation(parts, &[operand(0), x.get(1).map_or(0, |_| operand(1))], f);
    }
    let direction = rounding(parts);
    let n = |i: usize| f.decode(operand(i));
    let one = Number::of_integer(&BigInt::from(1));
    let result = match parts[0] {
        "add" => n(0).add(&n(1), direction),
        "sub" => n(0).sub(&n(1), direction),
        "mul" => n(0).mul(&n(1)),
        "fma" | "mad" => n(0).mul(&n(1)).add(&n(2), direction),
        "div" => n(0).div(&n(1)),
        "rcp" => one.div(&n(0)),
        "sqrt" => n(0).sqrt(),
        _ => return None,
    };
    Some(Expected::float(finish(f.encode(&result, direction), f, parts, ftz), f))
}

fn test(kind: &str, bits: u64, f: Format) -> bool {
    let number = f.decode(bits);
    let finite = matches!(number, Number::Finite { .. });
    match kind {
        "finite" => finite,
        "infinite" => !finite && !number.is_nan(),
        "number" => !number.is_nan(),
        "notanumber" => number.is_nan(),
        "normal" => finite && !f.is_tiny(bits),
        "subnormal" => f.is_tiny(bits) && !number.is_zero(),
        _ => unreachable!(),
    }
}

fn choice(parts: &[&str], x: u64, y: u64, f: Format) -> Expected {
    let has = |name| parts.contains(&name);
    let sign = (x ^ y) & f.sign();
    let (a, b) = if has("abs") { (x & !f.sign(), y & !f.sign()) } else { (x, y) };
    let (na, nb) = (f.decode(a), f.decode(b));
    let chosen = match na.order(&nb) {
        None if has("NaN") || na.is_nan() && nb.is_nan() => {
            return Expected::float(f.nan.unwrap_or(u64::MAX), f);
        }
        None if na.is_nan() => b,
        None => a,
        // Zeros are the only equal numbers that differ: plus above minus.
        Some(Ordering::Equal) if parts[0] == "max" => a & b,
        Some(Ordering::Equal) => a | b,
        Some(order) => {
            if (order == Ordering::Greater) == (parts[0] == "max") {
                a
            } else {
                b
            }
        }
    };
    let chosen = if has("xorsign") { chosen & !f.sign() | sign } else { chosen };
    Expected::float(chosen, f)
}

/// Whether a comparison holds, from its name and the order of the operands.
pub(super) fn holds(name: &str, order: Option<Ordering>) -> bool {
    let Some(order) = order else {
        return matches!(name, "equ" | "neu" | "ltu" | "leu" | "gtu" | "geu" | "nan");
    };
    match name {
        "eq" | "equ" => order.is_eq(),
        "ne" | "neu" => order.is_ne(),
        "lt" | "ltu" | "lo" => order.is_lt(),
        "le" | "leu" | "ls" => order.is_le(),
        "gt" | "gtu" | "hi" => order.is_gt(),
        "ge" | "geu" | "hs" => order.is_ge(),
        "num" => true,
        "nan" => false,
        _ => unreachable!("{name}"),
    }
}

fn comparison(parts: &[&str], x: &Number, y: &Number, p: Option<&u64>) -> Option<Expected> {
    outcome(parts, holds(parts[1], x.order(y)), p)
}

/// What `setp` or `set` writes.
pub(super) fn outcome(parts: &[&str], holds: bool, p: Option<&u64>) -> Option<Expected> {
    let p = p.is_some_and(|p| *p != 0);
    let holds = match parts[2] {
        "and" => holds && p,
        "or" => holds || p,
        "xor" => holds != p,
        _ => holds,
    };
    if parts[0] == "setp" {
        return Some(Expected::bits(u64::from(holds)));
    }
    let one = match parts[parts.len() - 2] {
        // A pair's masks are halves.
        "u32" if matches!(parts.last(), Some(&("f16" | "bf16"))) => u64::from(u16::MAX),
        "u32" | "s32" => u64::from(u32::MAX),
        ty => format(ty)?.encode(&Number::of_integer(&BigInt::from(1)), Rounding::Even),
    };
    Some(Expected::bits(if holds { one } else { 0 }))
}

fn as_f64(bits: u64, f: Format) -> f64 {
    f64::from_bits(F64.encode(&f.decode(bits), Rounding::Even))
}

/// Within one unit in the last place of the function in double precision.
fn approximation(parts: &[&str], x: &[u64], f: Format) -> Option<Expected> {
    let (a, b) = (as_f64(x[0], f), as_f64(x[1], f));
    let value = match parts[0] {
        "ex2" => a.exp2(),
        "lg2" => a.log2(),
        "sin" => a.sin(),
        "cos" => a.cos(),
        "tanh" => a.tanh(),
        "rcp" if f == F64 => return Some(Expected::float(upper_half(x[0]), f)),
        "rcp" => 1.0 / a,
        "sqrt" => a.sqrt(),
        "rsqrt" => 1.0 / a.sqrt(),
        "div" if parts[1] == "approx" && b.abs() > 2.0f64.powi(126) && b.is_finite() => {
            a * 0.0f64.copysign(b)
        }
        "div" => a / b,
        _ => return None,
    };
    let bits = f.encode(&F64.decode(value.to_bits()), Rounding::Even);
    let bits = if parts.contains(&"ftz") { flush(bits, f) } else { bits };
    let bits = if value.is_nan() { f.nan.unwrap_or(u64::MAX) } else { bits };
    Some(Expected { results: vec![Types::Near(bits, f)], carry: None })
}

/// The reciprocal truncated to 32 bits, without subnormal numbers.
fn upper_half(bits: u64) -> u64 {
    let one = Number::of_integer(&BigInt::from(1));
    let bits = F64.encode(&one.div(&F64.decode(bits)), Rounding::Even);
    flush(if F64.is_nan(bits) { bits } else { bits >> 32 << 32 }, F64)
}

/// `cvt`; `parts` end in the destination's type and the source's.
pub(super) fn conversion(parts: &[&str], x: &[u64]) -> Option<Expected> {
    let [.., to, from] = parts else { return None };
    let has = |name| parts.contains(&name);
    if let Some(single) = to.strip_suffix("x2") {
        let mut parts = parts.to_vec();
        let at = parts.len() - 2;
        parts[at] = single;
        let (high, low) = (conversion(&parts, &x[..1])?, conversion(&parts, &x[1..])?);
        return Some(Expected {
            results: vec![Types::pair(&low.results[0], &high.results[0])],
            carry: None,
        });
    }
    let direction = rounding(parts);
    match (format(to), format(from)) {
        (None, None) => {
            let value = integers::value(x[0], from);
            let value = if has("sat") { integers::clamp(value, to) } else { value };
            Some(Expected::bits(integers::wrap(&value, integers::width(to))))
        }
        (Some(f), None) => {
            let bits = f.encode(&Number::of_integer(&integers::value(x[0], from)), direction);
            Some(Expected::float(finish(bits, f, parts, false), f))
        }
        (None, Some(f)) => Some(Expected::bits(to_integer(parts, x[0] & mask(f), f))),
        (Some(f), Some(source)) => {
            let flushes = has("ftz");
            let bits = x[0] & mask(source);
            let bits = if flushes && source == F32 { flush(bits, source) } else { bits };
            if f == TF32 && source.is_nan(bits) {
                return Some(Expected::bits(bits >> 13 << 13));
            }
            let number = source.decode(bits);
            // `.sat` comes before the rounding to a shorter format, which keeps [0, 1] anyway.
            let number = if ["rni", "rzi", "rmi", "rpi"].iter().any(|name| has(name)) {
                match number.integral(direction) {
                    Some(integer) => Number::of_integer(&integer).with_sign(number.negative()),
                    None => number,
                }
            } else {
                number
            };
            let bits = f.encode(&number, direction);
            Some(Expected::float(finish(bits, f, parts, flushes && f == F32), f))
        }
    }
}

fn to_integer(parts: &[&str], bits: u64, f: Format) -> u64 {
    let to = parts[parts.len() - 2];
    let width = integers::width(to);
    let bits = if parts.contains(&"ftz") { flush(bits, f) } else { bits };
    let number = f.decode(bits);
    let value = match &number {
        Number::Nan if f == F64 || width == 64 => return 1 << (width - 1),
        Number::Nan => BigInt::ZERO,
        Number::Infinite { negative } => BigInt::from(if *negative { -1 } else { 1 }) << 70,
        Number::Finite { .. } => number.integral(rounding(parts)).unwrap(),
    };
    integers::wrap(&integers::clamp(value, to), width)
}
