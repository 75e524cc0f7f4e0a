//! Single precision.

use super::{canonical, flush, saturate};
use crate::alu::{
    rounding::{self, Direction},
    table::{Table, op},
};

pub(super) fn add(t: &mut Table) {
    arithmetic(t);
    minima(t);
    signs(t);
}

/// Every combination of `.ftz` and `.sat` of an operation.
macro_rules! flavours {
    ($t:ident, $name:expr, ($($x:ident),+) $value:expr) => {
        op!($t, Float32, concat!($name, ".f32"), ($($x: f32),+) -> (f32) { canonical($value) });
        op!($t, Float32, concat!($name, ".sat.f32"), ($($x: f32),+) -> (f32) { saturate($value) });
        op!($t, Float32, concat!($name, ".ftz.f32"), ($($x: f32),+) -> (f32) {
            $(let $x = flush($x);)+
            canonical(flush($value))
        });
        op!($t, Float32, concat!($name, ".ftz.sat.f32"), ($($x: f32),+) -> (f32) {
            $(let $x = flush($x);)+
            saturate(flush($value))
        });
    };
}

fn arithmetic(t: &mut Table) {
    flavours!(t, "add(|.rn)", (x, y) x + y);
    flavours!(t, "sub(|.rn)", (x, y) x - y);
    flavours!(t, "mul(|.rn)", (x, y) x * y);
    flavours!(t, "(fma|mad).rn", (x, y, z) x.mul_add(y, z));
    macro_rules! directed {
        ($name:literal, $direction:ident) => {
            flavours!(t, concat!("add", $name), (x, y) sum(x.into(), y.into(), Direction::$direction));
            flavours!(t, concat!("sub", $name), (x, y) sum(x.into(), (-y).into(), Direction::$direction));
            flavours!(t, concat!("mul", $name), (x, y) rounding::narrow(f64::from(x) * f64::from(y), Direction::$direction));
            flavours!(t, concat!("(fma|mad)", $name), (x, y, z) {
                sum(f64::from(x) * f64::from(y), z.into(), Direction::$direction)
            });
        };
    }
    directed!(".rz", Zero);
    directed!(".rm", Down);
    directed!(".rp", Up);
}

#[inline(always)]
fn sum(x: f64, y: f64, direction: Direction) -> f32 {
    let sum = rounding::add_to_odd(x, y);
    rounding::narrow(rounding::sum_zero(sum, x, y, direction), direction)
}

/// The larger of two numbers, +0 above -0; a NaN loses to a number.
#[inline(always)]
fn larger(x: f32, y: f32) -> f32 {
    let take_x = x > y || (x == y && x.is_sign_positive()) || y.is_nan();
    canonical(if take_x { x } else { y })
}

#[inline(always)]
fn smaller(x: f32, y: f32) -> f32 {
    let take_x = x < y || (x == y && x.is_sign_negative()) || y.is_nan();
    canonical(if take_x { x } else { y })
}

fn minima(t: &mut Table) {
    macro_rules! choice {
        ($name:literal, $choose:ident) => {
            op!(t, Float32, concat!($name, ".f32"), (x: f32, y: f32) -> (f32) { $choose(x, y) });
            op!(t, Float32, concat!($name, ".ftz.f32"), (x: f32, y: f32) -> (f32) { $choose(flush(x), flush(y)) });
            op!(t, Float32, concat!($name, ".NaN.f32"), (x: f32, y: f32) -> (f32) { or_nan($choose(x, y), x, y) });
            op!(t, Float32, concat!($name, ".ftz.NaN.f32"), (x: f32, y: f32) -> (f32) {
                or_nan($choose(flush(x), flush(y)), x, y)
            });
            op!(t, Float32, concat!($name, ".xorsign.abs.f32"), (x: f32, y: f32) -> (f32) {
                xor_sign($choose(x.abs(), y.abs()), x, y)
            });
            op!(t, Float32, concat!($name, ".ftz.xorsign.abs.f32"), (x: f32, y: f32) -> (f32) {
                xor_sign($choose(flush(x).abs(), flush(y).abs()), x, y)
            });
            op!(t, Float32, concat!($name, ".NaN.xorsign.abs.f32"), (x: f32, y: f32) -> (f32) {
                or_nan(xor_sign($choose(x.abs(), y.abs()), x, y), x, y)
            });
            op!(t, Float32, concat!($name, ".ftz.NaN.xorsign.abs.f32"), (x: f32, y: f32) -> (f32) {
                or_nan(xor_sign($choose(flush(x).abs(), flush(y).abs()), x, y), x, y)
            });
        };
    }
    choice!("max", larger);
    choice!("min", smaller);
}

#[inline(always)]
fn or_nan(value: f32, x: f32, y: f32) -> f32 {
    if x.is_nan() || y.is_nan() { super::NAN32 } else { value }
}

#[inline(always)]
fn xor_sign(value: f32, x: f32, y: f32) -> f32 {
    let sign = (x.to_bits() ^ y.to_bits()) & 0x8000_0000;
    canonical(f32::from_bits(value.to_bits() | sign))
}

fn signs(t: &mut Table) {
    op!(t, Float32, "neg.f32", (x: u32) -> (u32) { x ^ 0x8000_0000 });
    op!(t, Float32, "abs.f32", (x: u32) -> (u32) { x & 0x7fff_ffff });
    op!(t, Float32, "neg.ftz.f32", (x: f32) -> (u32) { flush(x).to_bits() ^ 0x8000_0000 });
    op!(t, Float32, "abs.ftz.f32", (x: f32) -> (u32) { flush(x).to_bits() & 0x7fff_ffff });
    // The sign comes first.
    op!(t, Float32, "copysign.f32", (sign: u32, x: u32) -> (u32) { sign & 0x8000_0000 | x & 0x7fff_ffff });
    op!(t, Float32, "testp.finite.f32", (x: f32) -> (bool) { x.is_finite() });
    op!(t, Float32, "testp.infinite.f32", (x: f32) -> (bool) { x.is_infinite() });
    op!(t, Float32, "testp.number.f32", (x: f32) -> (bool) { !x.is_nan() });
    op!(t, Float32, "testp.notanumber.f32", (x: f32) -> (bool) { x.is_nan() });
    op!(t, Float32, "testp.normal.f32", (x: f32) -> (bool) { x.is_normal() });
    op!(t, Float32, "testp.subnormal.f32", (x: f32) -> (bool) { x.is_subnormal() });
}
