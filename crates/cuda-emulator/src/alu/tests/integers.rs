//! What integer, bit and move opcodes give, on big integers and bit by bit.

use num_bigint::BigInt;

use super::{Expected, Types};

fn modulus(bits: u32) -> BigInt {
    BigInt::from(1) << bits
}

/// `bits` as the number that a type such as `s16` sees.
pub(super) fn value(bits: u64, ty: &str) -> BigInt {
    let width = width(ty);
    let x = BigInt::from(bits) % modulus(width);
    if ty.starts_with('s') && x >= modulus(width - 1) { x - modulus(width) } else { x }
}

pub(super) fn width(ty: &str) -> u32 {
    ty.trim_start_matches(|c: char| c.is_alphabetic()).parse().unwrap()
}

/// A number reduced to `width` bits.
pub(super) fn wrap(x: &BigInt, width: u32) -> u64 {
    let m = modulus(width);
    (((x % &m) + &m) % m).try_into().unwrap()
}

/// The least and greatest numbers of a type.
pub(super) fn clamp(x: BigInt, ty: &str) -> BigInt {
    let w = width(ty);
    let (low, high) = if ty.starts_with('s') {
        (-modulus(w - 1), modulus(w - 1) - 1)
    } else {
        (BigInt::ZERO, modulus(w) - 1)
    };
    x.clamp(low, high)
}

fn absolute(x: &BigInt) -> BigInt {
    BigInt::from(x.magnitude().clone())
}

/// Arithmetic. `parts` are the opcode's, `x` the raw sources, `carry` the flag before.
pub(super) fn arithmetic(parts: &[&str], x: &[u64], carry: bool) -> Option<Expected> {
    let (base, ty) = (parts[0], *parts.last()?);
    if !matches!(ty.as_bytes()[0], b's' | b'u' | b'b') || ty.ends_with("x2") || base == "prmt" {
        return None;
    }
    let has = |part| parts.contains(&part);
    let w = width(ty);
    let v = |i: usize| value(x[i], ty);
    let unsigned = |i: usize| BigInt::from(x[i]) % modulus(w);
    let product = || {
        let full = v(0) * v(1);
        if has("hi") { full >> w } else { full }
    };
    let c = BigInt::from(u8::from(carry));
    if has("cc") || base.ends_with('c') && matches!(base, "addc" | "subc" | "madc") {
        let (total, flag) = match base {
            "add" => carried(&(unsigned(0) + unsigned(1)), w),
            "addc" => carried(&(unsigned(0) + unsigned(1) + c), w),
            "sub" => borrowed(&(unsigned(0) - unsigned(1)), w),
            "subc" => borrowed(&(unsigned(0) - unsigned(1) - c), w),
            "mad" => carried(&(BigInt::from(wrap(&product(), w)) + unsigned(2)), w),
            "madc" => carried(&(BigInt::from(wrap(&product(), w)) + unsigned(2) + c), w),
            _ => return None,
        };
        return Some(Expected { carry: has("cc").then_some(flag), ..Expected::bits(total) });
    }
    let result = match base {
        "add" => v(0) + v(1),
        "sub" => v(0) - v(1),
        "mul" if has("wide") => return Some(Expected::bits(wrap(&(v(0) * v(1)), 2 * w))),
        "mad" if has("wide") => {
            return Some(Expected::bits(wrap(&(v(0) * v(1) + BigInt::from(x[2])), 2 * w)));
        }
        "mul" => product(),
        "mad" => product() + v(2),
        "mul24" | "mad24" => {
            let small = |i: usize| value(x[i] & 0xff_ffff, if ty == "s32" { "s24" } else { "u24" });
            let full = small(0) * small(1);
            let full = if has("hi") { full >> 16 } else { full };
            if base == "mad24" { full + v(2) } else { full }
        }
        "div" if v(1) == BigInt::ZERO => BigInt::from(-1),
        "rem" if v(1) == BigInt::ZERO => v(0),
        "div" => v(0) / v(1),
        "rem" => v(0) % v(1),
        "neg" => -v(0),
        "abs" => absolute(&v(0)),
        "min" => v(0).min(v(1)),
        "max" => v(0).max(v(1)),
        "sad" => absolute(&(v(0) - v(1))) + unsigned(2),
        _ => return None,
    };
    let result = if has("sat") { clamp(result, ty) } else { result };
    Some(Expected::bits(wrap(&result, w)))
}

fn carried(total: &BigInt, width: u32) -> (u64, bool) {
    (wrap(total, width), *total >= modulus(width))
}

fn borrowed(total: &BigInt, width: u32) -> (u64, bool) {
    (wrap(total, width), *total < BigInt::ZERO)
}

/// `dp4a` and `dp2a`.
pub(super) fn dot(parts: &[&str], x: &[u64]) -> Option<Expected> {
    let [.., a, b] = parts else { return None };
    let (elements, left, from) = match (parts[0], parts[1]) {
        ("dp4a", _) => (4, 8, 0),
        ("dp2a", "lo") => (2, 16, 0),
        ("dp2a", "hi") => (2, 16, 16),
        _ => return None,
    };
    let element =
        |x: u64, at: u32, width: u32, ty: &str| value(x >> at, &format!("{}{width}", &ty[..1]));
    let products =
        (0..elements).map(|i| element(x[0], left * i, left, a) * element(x[1], from + 8 * i, 8, b));
    Some(Expected::bits(wrap(&(products.sum::<BigInt>() + x[2]), 32)))
}

/// Everything that moves or combines bits.
pub(super) fn bits(parts: &[&str], x: &[u64]) -> Option<Expected> {
    let (base, ty) = (parts[0], *parts.last()?);
    if ty == "pred" {
        return predicate(base, x);
    }
    if ty.ends_with("x2") || base == "prmt" || base == "shf" {
        return words(parts, x);
    }
    let w = width(ty);
    let mask = if w == 64 { u64::MAX } else { (1 << w) - 1 };
    let v: Vec<u64> = x.iter().map(|x| x & mask).collect();
    let top = u64::from(w - 1);
    let bit = |x: u64, i: u64| x >> i & 1;
    let per_bit = |f: &dyn Fn(u64) -> u64| (0..u64::from(w)).fold(0, |all, i| all | f(i) << i);
    let signed = ty.starts_with('s');
    let sign = if signed { bit(v[0], top) } else { 0 };
    let result = match base {
        "mov" => v[0],
        "and" => per_bit(&|i| u64::from(bit(v[0], i) + bit(v[1], i) == 2)),
        "or" => per_bit(&|i| u64::from(bit(v[0], i) + bit(v[1], i) > 0)),
        "xor" => per_bit(&|i| u64::from(bit(v[0], i) + bit(v[1], i) == 1)),
        "not" => per_bit(&|i| 1 - bit(v[0], i)),
        "cnot" => u64::from(v[0] == 0),
        "lop3" => per_bit(&|i| bit(x[3], 4 * bit(v[0], i) + 2 * bit(v[1], i) + bit(v[2], i))),
        "shl" => per_bit(&|i| if i >= x[1] { bit(v[0], i - x[1]) } else { 0 }),
        "shr" => per_bit(&|i| if i + x[1] <= top { bit(v[0], i + x[1]) } else { sign }),
        "popc" => (0..64).filter(|&i| bit(v[0], i) == 1).count() as u64,
        "clz" => (0..=top).take_while(|&i| bit(v[0], top - i) == 0).count() as u64,
        "brev" => per_bit(&|i| bit(v[0], top - i)),
        "bfind" => match (0..=top).rev().find(|&i| bit(v[0], i) != sign) {
            None => u64::from(u32::MAX),
            Some(i) if parts[1] == "shiftamt" => top - i,
            Some(i) => i,
        },
        "fns" => find_nth(x),
        "bfe" => {
            let (at, length) = (x[1] & 255, x[2] & 255);
            let fill = if signed && length > 0 { bit(v[0], (at + length - 1).min(top)) } else { 0 };
            per_bit(&|i| if i < length && at + i <= top { bit(v[0], at + i) } else { fill })
        }
        "bfi" => {
            let (at, length) = (x[2] & 255, x[3] & 255);
            per_bit(&|i| if i >= at && i < at + length { bit(v[0], i - at) } else { bit(v[1], i) })
        }
        "selp" => {
            if x[2] != 0 {
                v[0]
            } else {
                v[1]
            }
        }
        _ => return None,
    };
    Some(Expected::bits(result))
}

fn predicate(base: &str, x: &[u64]) -> Option<Expected> {
    Some(Expected::bits(match base {
        "and" => u64::from(x == [1, 1]),
        "or" => u64::from(x != [0, 0]),
        "xor" => u64::from(x[0] != x[1]),
        "not" => 1 - x[0],
        "mov" => x[0],
        _ => return None,
    }))
}

/// Step by step, as the definition goes.
fn find_nth(x: &[u64]) -> u64 {
    let (mask, base, offset) = (x[0], x[1], i64::from(x[2] as i32));
    let set = |i: i64| mask >> i & 1 == 1;
    if base > 31 {
        return u64::from(u32::MAX);
    }
    if offset == 0 {
        return if set(base as i64) { base } else { u64::from(u32::MAX) };
    }
    let (mut at, mut count) = (base as i64, offset.abs() - 1);
    while (0..32).contains(&at) {
        if set(at) {
            if count == 0 {
                return at as u64;
            }
            count -= 1;
        }
        at += offset.signum();
    }
    u64::from(u32::MAX)
}

fn words(parts: &[&str], x: &[u64]) -> Option<Expected> {
    let joined = BigInt::from(x[0]) + (BigInt::from(x.get(1).copied().unwrap_or(0)) << 32);
    let byte = |i: u64| wrap(&(&joined >> (8 * i)), 8);
    Some(Expected::bits(match parts {
        ["shf", "l", mode, _] => wrap(&((joined << funnel(mode, x[2])) >> 32), 32),
        ["shf", "r", mode, _] => wrap(&(joined >> funnel(mode, x[2])), 32),
        ["prmt", "b32"] => (0..4).fold(0, |all, i| {
            let selector = x[2] >> (4 * i) & 15;
            let chosen = byte(selector & 7);
            let chosen = if selector < 8 {
                chosen
            } else if chosen > 127 {
                255
            } else {
                0
            };
            all | chosen << (8 * i)
        }),
        ["prmt", "b32", mode] => {
            (0..4).fold(0, |all, i| all | byte(permuted(mode, x[2] & 3, i)) << (8 * i))
        }
        ["mov", _] => x[0],
        ["selp", _] => {
            if x[2] != 0 {
                x[0]
            } else {
                x[1]
            }
        }
        [base @ ("min" | "max"), ty] => {
            let ty = ty.strip_suffix("x2")?;
            let half = |shift: u32| {
                let (a, b) = (value(x[0] >> shift, ty), value(x[1] >> shift, ty));
                wrap(&if *base == "min" { a.min(b) } else { a.max(b) }, 16)
            };
            half(0) | half(16) << 16
        }
        ["add", _] => (x[0] + x[1]) & 0xffff | (((x[0] >> 16) + (x[1] >> 16)) & 0xffff) << 16,
        _ => return None,
    }))
}

fn funnel(mode: &str, by: u64) -> u64 {
    if mode == "wrap" { by % 32 } else { by.min(32) }
}

/// Which byte goes to place `i`.
fn permuted(mode: &str, c: u64, i: u64) -> u64 {
    match mode {
        "f4e" => c + i,
        "b4e" => (c + 8 - i) % 8,
        "rc8" => c,
        "ecl" => i.max(c),
        "ecr" => i.min(c),
        "rc16" => 2 * (c & 1) + (i & 1),
        _ => unreachable!(),
    }
}

/// `packN` and `unpackN`.
pub(super) fn vectors(parts: &[&str], x: &[u64]) -> Option<Expected> {
    let count: u32 = parts[0].chars().last()?.to_digit(10)?;
    let part = width(parts[1]) / count;
    let low = |x: u64| x % (1 << part);
    if parts[0].starts_with("pack") {
        return Some(Expected::bits(
            (0..count).fold(0, |all, i| all | low(x[i as usize]) << (part * i)),
        ));
    }
    Some(Expected {
        results: (0..count).map(|i| Types::Bits(low(x[0] >> (part * i)))).collect(),
        carry: None,
    })
}
