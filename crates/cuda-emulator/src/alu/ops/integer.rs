//! Integer arithmetic.

use crate::alu::{
    lane::Carry,
    table::{Table, op},
};

pub(super) fn add(t: &mut Table) {
    wrapping(t);
    signs(t);
    wide(t);
    division(t);
    carries(t);
    short(t);
    dot_products(t);
}

fn wrapping(t: &mut Table) {
    macro_rules! width {
        ($ty:ty, $types:literal) => {
            op!(t, Integer, concat!("add", $types), (x: $ty, y: $ty) -> ($ty) { x.wrapping_add(y) });
            op!(t, Integer, concat!("sub", $types), (x: $ty, y: $ty) -> ($ty) { x.wrapping_sub(y) });
            op!(t, Integer, concat!("mul.lo", $types), (x: $ty, y: $ty) -> ($ty) { x.wrapping_mul(y) });
            op!(t, Integer, concat!("mad.lo", $types), (x: $ty, y: $ty, z: $ty) -> ($ty) {
                x.wrapping_mul(y).wrapping_add(z)
            });
        };
    }
    width!(u16, "(.s16|.u16)");
    width!(u32, "(.s32|.u32)");
    width!(u64, "(.s64|.u64)");
    op!(t, Integer, "add.sat.s32", (x: i32, y: i32) -> (i32) { x.saturating_add(y) });
    op!(t, Integer, "sub.sat.s32", (x: i32, y: i32) -> (i32) { x.saturating_sub(y) });
    op!(t, Integer, "add(.u16x2|.s16x2)", (x: [u16; 2], y: [u16; 2]) -> ([u16; 2]) {
        [x[0].wrapping_add(y[0]), x[1].wrapping_add(y[1])]
    });
}

fn signs(t: &mut Table) {
    macro_rules! signed {
        ($ty:ty, $name:literal) => {
            op!(t, Integer, concat!("neg", $name), (x: $ty) -> ($ty) { x.wrapping_neg() });
            op!(t, Integer, concat!("abs", $name), (x: $ty) -> ($ty) { x.wrapping_abs() });
        };
    }
    macro_rules! ordered {
        ($ty:ty, $name:literal) => {
            op!(t, Integer, concat!("min", $name), (x: $ty, y: $ty) -> ($ty) { x.min(y) });
            op!(t, Integer, concat!("max", $name), (x: $ty, y: $ty) -> ($ty) { x.max(y) });
        };
    }
    signed!(i16, ".s16");
    signed!(i32, ".s32");
    signed!(i64, ".s64");
    ordered!(i16, ".s16");
    ordered!(u16, ".u16");
    ordered!(i32, ".s32");
    ordered!(u32, ".u32");
    ordered!(i64, ".s64");
    ordered!(u64, ".u64");
    macro_rules! pairs {
        ($ty:ty, $name:literal) => {
            op!(t, Integer, concat!("min", $name), (x: [$ty; 2], y: [$ty; 2]) -> ([$ty; 2]) {
                [x[0].min(y[0]), x[1].min(y[1])]
            });
            op!(t, Integer, concat!("max", $name), (x: [$ty; 2], y: [$ty; 2]) -> ([$ty; 2]) {
                [x[0].max(y[0]), x[1].max(y[1])]
            });
        };
    }
    pairs!(i16, ".s16x2");
    pairs!(u16, ".u16x2");
    op!(t, Integer, "sad.s16", (x: i16, y: i16, z: u16) -> (u16) { x.abs_diff(y).wrapping_add(z) });
    op!(t, Integer, "sad.u16", (x: u16, y: u16, z: u16) -> (u16) { x.abs_diff(y).wrapping_add(z) });
    op!(t, Integer, "sad.s32", (x: i32, y: i32, z: u32) -> (u32) { x.abs_diff(y).wrapping_add(z) });
    op!(t, Integer, "sad.u32", (x: u32, y: u32, z: u32) -> (u32) { x.abs_diff(y).wrapping_add(z) });
    op!(t, Integer, "sad.s64", (x: i64, y: i64, z: u64) -> (u64) { x.abs_diff(y).wrapping_add(z) });
    op!(t, Integer, "sad.u64", (x: u64, y: u64, z: u64) -> (u64) { x.abs_diff(y).wrapping_add(z) });
}

/// Products of twice the width and their upper halves.
fn wide(t: &mut Table) {
    macro_rules! width {
        ($ty:ty, $wide:ty, $bits:literal, $name:literal) => {
            op!(t, Integer, concat!("mul.hi", $name), (x: $ty, y: $ty) -> ($ty) {
                ((<$wide>::from(x) * <$wide>::from(y)) >> $bits) as $ty
            });
            op!(t, Integer, concat!("mad.hi", $name), (x: $ty, y: $ty, z: $ty) -> ($ty) {
                (((<$wide>::from(x) * <$wide>::from(y)) >> $bits) as $ty).wrapping_add(z)
            });
        };
        ($ty:ty, $wide:ty, $bits:literal, $name:literal, and_full) => {
            width!($ty, $wide, $bits, $name);
            op!(t, Integer, concat!("mul.wide", $name), (x: $ty, y: $ty) -> ($wide) {
                <$wide>::from(x) * <$wide>::from(y)
            });
            op!(t, Integer, concat!("mad.wide", $name), (x: $ty, y: $ty, z: $wide) -> ($wide) {
                (<$wide>::from(x) * <$wide>::from(y)).wrapping_add(z)
            });
        };
    }
    width!(i16, i32, 16, ".s16", and_full);
    width!(u16, u32, 16, ".u16", and_full);
    width!(i32, i64, 32, ".s32", and_full);
    width!(u32, u64, 32, ".u32", and_full);
    width!(i64, i128, 64, ".s64");
    width!(u64, u128, 64, ".u64");
    op!(t, Integer, "mad.hi.sat.s32", (x: i32, y: i32, z: i32) -> (i32) {
        (((i64::from(x) * i64::from(y)) >> 32) as i32).saturating_add(z)
    });
}

/// Division by zero is undefined in PTX; the hardware's code gives all ones and, for `rem`, the
/// dividend. The most negative number over -1 wraps.
fn division(t: &mut Table) {
    macro_rules! divide {
        ($ty:ty, $name:literal) => {
            op!(t, Integer, concat!("div", $name), (x: $ty, y: $ty) -> ($ty) {
                if y == 0 { !0 } else { x.wrapping_div(y) }
            });
            op!(t, Integer, concat!("rem", $name), (x: $ty, y: $ty) -> ($ty) {
                if y == 0 { x } else { x.wrapping_rem(y) }
            });
        };
    }
    divide!(i16, ".s16");
    divide!(u16, ".u16");
    divide!(i32, ".s32");
    divide!(u32, ".u32");
    divide!(i64, ".s64");
    divide!(u64, ".u64");
}

/// Extended precision: `.cc` writes the carry flag, `addc`, `subc` and `madc` read it. A borrow
/// is a carry of one.
fn carries(t: &mut Table) {
    macro_rules! width {
        ($ty:ty, $signed:ty, $wide:ty, $swide:ty, $bits:literal, $types:literal, $s:literal, $u:literal) => {
            op!(t, Integer, concat!("add.cc", $types), (x: $ty, y: $ty) -> ($ty, Carry) {
                let sum = x.wrapping_add(y);
                (sum, Carry(sum < x))
            });
            op!(t, Integer, concat!("addc.cc", $types), (x: $ty, y: $ty, c: Carry) -> ($ty, Carry) {
                add_carry!(x, y, c)
            });
            op!(t, Integer, concat!("addc", $types), (x: $ty, y: $ty, c: Carry) -> ($ty) {
                x.wrapping_add(y).wrapping_add(<$ty>::from(c.0))
            });
            op!(t, Integer, concat!("sub.cc", $types), (x: $ty, y: $ty) -> ($ty, Carry) {
                (x.wrapping_sub(y), Carry(x < y))
            });
            op!(t, Integer, concat!("subc.cc", $types), (x: $ty, y: $ty, c: Carry) -> ($ty, Carry) {
                let difference = x.wrapping_sub(y).wrapping_sub(<$ty>::from(c.0));
                (difference, Carry(x < y || c.0 && x == y))
            });
            op!(t, Integer, concat!("subc", $types), (x: $ty, y: $ty, c: Carry) -> ($ty) {
                x.wrapping_sub(y).wrapping_sub(<$ty>::from(c.0))
            });
            multiply!($ty, $types, lo, |x, y| x.wrapping_mul(y));
            multiply!($ty, $u, hi, |x, y| ((<$wide>::from(x) * <$wide>::from(y)) >> $bits) as $ty);
            multiply!($ty, $s, hi, |x, y| {
                ((<$swide>::from(x as $signed) * <$swide>::from(y as $signed)) >> $bits) as $ty
            });
        };
    }
    macro_rules! multiply {
        ($ty:ty, $types:literal, $half:ident, |$x:ident, $y:ident| $product:expr) => {
            op!(t, Integer, concat!("mad.", stringify!($half), ".cc", $types), ($x: $ty, $y: $ty, z: $ty) -> ($ty, Carry) {
                add_carry!($product, z, Carry(false))
            });
            op!(t, Integer, concat!("madc.", stringify!($half), ".cc", $types), ($x: $ty, $y: $ty, z: $ty, c: Carry) -> ($ty, Carry) {
                add_carry!($product, z, c)
            });
            op!(t, Integer, concat!("madc.", stringify!($half), $types), ($x: $ty, $y: $ty, z: $ty, c: Carry) -> ($ty) {
                ($product).wrapping_add(z).wrapping_add(<$ty>::from(c.0))
            });
        };
    }
    macro_rules! add_carry {
        ($x:expr, $y:expr, $c:expr) => {{
            let (sum, first) = ($x).overflowing_add($y);
            let (sum, second) = sum.overflowing_add(u8::from($c.0).into());
            (sum, Carry(first || second))
        }};
    }
    width!(u32, i32, u64, i64, 32, "(.s32|.u32|.b32)", ".s32", ".u32");
    width!(u64, i64, u128, i128, 64, "(.s64|.u64|.b64)", ".s64", ".u64");
}

/// 24-bit products.
fn short(t: &mut Table) {
    macro_rules! product {
        ($ty:ty, $wide:ty, $name:literal) => {
            op!(t, Integer, concat!("mul24.lo", $name), (x: $ty, y: $ty) -> ($ty) { (x << 8 >> 8).wrapping_mul(y << 8 >> 8) });
            op!(t, Integer, concat!("mad24.lo", $name), (x: $ty, y: $ty, z: $ty) -> ($ty) {
                (x << 8 >> 8).wrapping_mul(y << 8 >> 8).wrapping_add(z)
            });
            op!(t, Integer, concat!("mul24.hi", $name), (x: $ty, y: $ty) -> ($ty) {
                ((<$wide>::from(x << 8 >> 8) * <$wide>::from(y << 8 >> 8)) >> 16) as $ty
            });
            op!(t, Integer, concat!("mad24.hi", $name), (x: $ty, y: $ty, z: $ty) -> ($ty) {
                (((<$wide>::from(x << 8 >> 8) * <$wide>::from(y << 8 >> 8)) >> 16) as $ty).wrapping_add(z)
            });
        };
    }
    product!(i32, i64, ".s32");
    product!(u32, u64, ".u32");
}

fn dot_products(t: &mut Table) {
    macro_rules! dot {
        ($name:literal, $a:ty, $half:ty, $b:ty) => {
            op!(t, Integer, concat!("dp4a", $name), (x: u32, y: u32, z: u32) -> (u32) {
                let mut sum = z;
                for i in 0..4 {
                    let (a, b) = ((x >> (8 * i)) as $a, (y >> (8 * i)) as $b);
                    sum = sum.wrapping_add((i32::from(a) * i32::from(b)) as u32);
                }
                sum
            });
            dot!(@half $name, "dp2a.lo", 0, $half, $b);
            dot!(@half $name, "dp2a.hi", 16, $half, $b);
        };
        (@half $name:literal, $half:literal, $from:literal, $a:ty, $b:ty) => {
            op!(t, Integer, concat!($half, $name), (x: u32, y: u32, z: u32) -> (u32) {
                let mut sum = z;
                for i in 0..2 {
                    let (a, b) = ((x >> (16 * i)) as $a, (y >> ($from + 8 * i)) as $b);
                    sum = sum.wrapping_add((a as i32).wrapping_mul(b as i32) as u32);
                }
                sum
            });
        };
    }
    dot!(".s32.s32", i8, i16, i8);
    dot!(".s32.u32", i8, i16, u8);
    dot!(".u32.s32", u8, u16, i8);
    dot!(".u32.u32", u8, u16, u8);
}
