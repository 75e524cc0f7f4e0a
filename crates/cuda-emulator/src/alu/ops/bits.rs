//! Logic, shifts and bit fields.

use crate::alu::table::{Table, op};

pub(super) fn add(t: &mut Table) {
    logic(t);
    shifts(t);
    counts(t);
    fields(t);
    permutations(t);
}

fn logic(t: &mut Table) {
    macro_rules! width {
        ($ty:ty, $name:literal) => {
            op!(t, Integer, concat!("and", $name), (x: $ty, y: $ty) -> ($ty) { x & y });
            op!(t, Integer, concat!("or", $name), (x: $ty, y: $ty) -> ($ty) { x | y });
            op!(t, Integer, concat!("xor", $name), (x: $ty, y: $ty) -> ($ty) { x ^ y });
            op!(t, Integer, concat!("not", $name), (x: $ty) -> ($ty) { !x });
            op!(t, Integer, concat!("cnot", $name), (x: $ty) -> ($ty) { <$ty>::from(x == 0) });
        };
    }
    width!(u16, ".b16");
    width!(u32, ".b32");
    width!(u64, ".b64");
    op!(t, Predicate, "and.pred", (x: bool, y: bool) -> (bool) { x & y });
    op!(t, Predicate, "or.pred", (x: bool, y: bool) -> (bool) { x | y });
    op!(t, Predicate, "xor.pred", (x: bool, y: bool) -> (bool) { x ^ y });
    op!(t, Predicate, "not.pred", (x: bool) -> (bool) { !x });
    op!(t, Integer, "lop3.b32", (x: u32, y: u32, z: u32, table: u32) -> (u32) { lop3(x, y, z, table) });
}

/// Bit `4 x + 2 y + z` of the truth table, for each bit: a tree of bitwise choices.
#[inline(always)]
fn lop3(x: u32, y: u32, z: u32, table: u32) -> u32 {
    let entry = |i: u32| (table >> i & 1).wrapping_neg();
    let choose = |bit: u32, zero: u32, one: u32| zero ^ (zero ^ one) & bit;
    let half =
        |i| choose(y, choose(z, entry(i), entry(i + 1)), choose(z, entry(i + 2), entry(i + 3)));
    choose(x, half(0), half(4))
}

/// Amounts beyond the width shift everything out.
fn shifts(t: &mut Table) {
    macro_rules! width {
        ($unsigned:ty, $signed:ty, $bits:literal) => {
            op!(t, Integer, concat!("shl.b", $bits), (x: $unsigned, y: u32) -> ($unsigned) {
                x.checked_shl(y).unwrap_or(0)
            });
            op!(t, Integer, concat!("shr(.b", $bits, "|.u", $bits, ")"), (x: $unsigned, y: u32) -> ($unsigned) {
                x.checked_shr(y).unwrap_or(0)
            });
            op!(t, Integer, concat!("shr.s", $bits), (x: $signed, y: u32) -> ($signed) {
                x >> y.min(<$signed>::BITS - 1)
            });
        };
    }
    width!(u16, i16, "16");
    width!(u32, i32, "32");
    width!(u64, i64, "64");
    op!(t, Integer, "shf.l.wrap.b32", (low: u32, high: u32, by: u32) -> (u32) { funnel_left(low, high, by & 31) });
    op!(t, Integer, "shf.l.clamp.b32", (low: u32, high: u32, by: u32) -> (u32) { funnel_left(low, high, by.min(32)) });
    op!(t, Integer, "shf.r.wrap.b32", (low: u32, high: u32, by: u32) -> (u32) { funnel_right(low, high, by & 31) });
    op!(t, Integer, "shf.r.clamp.b32", (low: u32, high: u32, by: u32) -> (u32) { funnel_right(low, high, by.min(32)) });
}

#[inline(always)]
fn joined(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

#[inline(always)]
fn funnel_left(low: u32, high: u32, by: u32) -> u32 {
    (joined(low, high) << by >> 32) as u32
}

#[inline(always)]
fn funnel_right(low: u32, high: u32, by: u32) -> u32 {
    (joined(low, high) >> by) as u32
}

fn counts(t: &mut Table) {
    macro_rules! width {
        ($unsigned:ty, $signed:ty, $bits:literal) => {
            op!(t, Integer, concat!("popc.b", $bits), (x: $unsigned) -> (u32) { x.count_ones() });
            op!(t, Integer, concat!("clz.b", $bits), (x: $unsigned) -> (u32) { x.leading_zeros() });
            op!(t, Integer, concat!("brev.b", $bits), (x: $unsigned) -> ($unsigned) { x.reverse_bits() });
            op!(t, Integer, concat!("bfind.u", $bits), (x: $unsigned) -> (u32) {
                (<$unsigned>::BITS - 1).wrapping_sub(x.leading_zeros())
            });
            op!(t, Integer, concat!("bfind.s", $bits), (x: $signed) -> (u32) {
                (<$signed>::BITS - 1).wrapping_sub((x ^ x >> (<$signed>::BITS - 1)).leading_zeros())
            });
            op!(t, Integer, concat!("bfind.shiftamt.u", $bits), (x: $unsigned) -> (u32) {
                shift_amount(x.leading_zeros(), <$unsigned>::BITS)
            });
            op!(t, Integer, concat!("bfind.shiftamt.s", $bits), (x: $signed) -> (u32) {
                shift_amount((x ^ x >> (<$signed>::BITS - 1)).leading_zeros(), <$signed>::BITS)
            });
        };
    }
    width!(u32, i32, "32");
    width!(u64, i64, "64");
    op!(t, Integer, "fns.b32", (mask: u32, base: u32, offset: i32) -> (u32) { nth_set_bit(mask, base, offset) });
}

/// All ones when no bit was found.
#[inline(always)]
fn shift_amount(leading_zeros: u32, bits: u32) -> u32 {
    if leading_zeros == bits { u32::MAX } else { leading_zeros }
}

/// The set bit that is `offset`-th from bit `base`, upwards or downwards, counting from one; bit
/// `base` itself for 0.
#[inline(always)]
fn nth_set_bit(mask: u32, base: u32, offset: i32) -> u32 {
    if base > 31 {
        return u32::MAX;
    }
    if offset == 0 {
        return if mask >> base & 1 != 0 { base } else { u32::MAX };
    }
    let mut candidates =
        if offset > 0 { mask >> base << base } else { mask << (31 - base) >> (31 - base) };
    for _ in 1..offset.unsigned_abs().min(33) {
        candidates &= if offset > 0 {
            candidates.wrapping_sub(1)
        } else {
            !0x8000_0000u32.checked_shr(candidates.leading_zeros()).unwrap_or(0)
        };
    }
    match (candidates, offset > 0) {
        (0, _) => u32::MAX,
        (_, true) => candidates.trailing_zeros(),
        (_, false) => candidates.ilog2(),
    }
}

/// Only the low bytes of position and length count.
fn fields(t: &mut Table) {
    macro_rules! width {
        ($unsigned:ty, $signed:ty, $bits:literal) => {
            op!(t, Integer, concat!("bfe.u", $bits), (x: $unsigned, position: u32, length: u32) -> ($unsigned) {
                let field = x.checked_shr(position & 255).unwrap_or(0);
                field & !(<$unsigned>::MAX).checked_shl(length & 255).unwrap_or(0)
            });
            op!(t, Integer, concat!("bfe.s", $bits), (x: $signed, position: u32, length: u32) -> ($signed) {
                // Beyond the top, and beyond the field, every bit is the field's highest.
                let length = length & 255;
                let field = x >> (position & 255).min(<$signed>::BITS - 1);
                let spare = <$signed>::BITS - length.clamp(1, <$signed>::BITS);
                if length == 0 { 0 } else { field << spare >> spare }
            });
            op!(t, Integer, concat!("bfi.b", $bits), (x: $unsigned, into: $unsigned, position: u32, length: u32) -> ($unsigned) {
                let ones = !(<$unsigned>::MAX).checked_shl(length & 255).unwrap_or(0);
                let field = ones.checked_shl(position & 255).unwrap_or(0);
                into & !field | x.checked_shl(position & 255).unwrap_or(0) & field
            });
        };
    }
    width!(u32, i32, "32");
    width!(u64, i64, "64");
}

fn permutations(t: &mut Table) {
    op!(t, Integer, "prmt.b32", (x: u32, y: u32, selectors: u32) -> (u32) {
        let mut bytes = 0;
        for i in 0..4 {
            let selector = selectors >> (4 * i);
            let word = if selector & 4 == 0 { x } else { y };
            let byte = word >> (8 * (selector & 3)) & 0xff;
            let sign = (byte >> 7).wrapping_neg() & 0xff;
            bytes |= (if selector & 8 == 0 { byte } else { sign }) << (8 * i);
        }
        bytes
    });
    macro_rules! mode {
        ($name:literal, $zero:literal, $one:literal, $two:literal, $three:literal) => {
            op!(t, Integer, concat!("prmt.b32", $name), (x: u32, y: u32, mode: u32) -> (u32) {
                let selectors = [$zero, $one, $two, $three][mode as usize & 3];
                let mut bytes = 0;
                for i in 0..4 {
                    let selector = selectors >> (4 * i) & 7;
                    bytes |= ((joined(x, y) >> (8 * selector)) as u32 & 0xff) << (8 * i);
                }
                bytes
            });
        };
    }
    mode!(".f4e", 0x3210, 0x4321, 0x5432, 0x6543);
    mode!(".b4e", 0x5670, 0x6701, 0x7012, 0x0123);
    mode!(".rc8", 0x0000, 0x1111, 0x2222, 0x3333);
    mode!(".ecl", 0x3210, 0x3211, 0x3222, 0x3333);
    mode!(".ecr", 0x0000, 0x1110, 0x2210, 0x3210);
    mode!(".rc16", 0x1010, 0x3232, 0x1010, 0x3232);
}
