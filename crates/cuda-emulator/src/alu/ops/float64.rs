//! Double precision.

use crate::alu::{
    rounding::Direction,
    soft,
    table::{Table, op},
};

pub(super) fn add(t: &mut Table) {
    op!(t, Float64, "add(|.rn).f64", (x: f64, y: f64) -> (f64) { x + y });
    op!(t, Float64, "sub(|.rn).f64", (x: f64, y: f64) -> (f64) { x - y });
    op!(t, Float64, "mul(|.rn).f64", (x: f64, y: f64) -> (f64) { x * y });
    op!(t, Float64, "(fma|mad).rn.f64", (x: f64, y: f64, z: f64) -> (f64) { x.mul_add(y, z) });
    op!(t, Float64, "div.rn.f64", (x: f64, y: f64) -> (f64) { x / y });
    op!(t, Float64, "rcp.rn.f64", (x: f64) -> (f64) { 1.0 / x });
    op!(t, Float64, "sqrt.rn.f64", (x: f64) -> (f64) { x.sqrt() });
    // Only the upper half of the result is meant: the start of an iteration.
    op!(t, Special, "rcp.approx.ftz.f64", (x: f64) -> (f64) { flush(high(1.0 / flush(x))) });
    op!(t, Float64, "rsqrt.approx.f64", (x: f64) -> (f64) { 1.0 / x.sqrt() });
    macro_rules! directed {
        ($name:literal, $direction:expr) => {
            op!(t, Float64, concat!("add", $name), (x: f64, y: f64) -> (f64) { soft::add(x, y, $direction) });
            op!(t, Float64, concat!("sub", $name), (x: f64, y: f64) -> (f64) { soft::add(x, -y, $direction) });
            op!(t, Float64, concat!("mul", $name), (x: f64, y: f64) -> (f64) { soft::multiply(x, y, $direction) });
            op!(t, Float64, concat!("(fma|mad)", $name), (x: f64, y: f64, z: f64) -> (f64) {
                soft::multiply_add(x, y, z, $direction)
            });
            op!(t, Float64, concat!("div", $name), (x: f64, y: f64) -> (f64) { soft::divide(x, y, $direction) });
            op!(t, Float64, concat!("rcp", $name), (x: f64) -> (f64) { soft::divide(1.0, x, $direction) });
            op!(t, Float64, concat!("sqrt", $name), (x: f64) -> (f64) { soft::square_root(x, $direction) });
        };
    }
    directed!(".rz.f64", Direction::Zero);
    directed!(".rm.f64", Direction::Down);
    directed!(".rp.f64", Direction::Up);
    signs(t);
}

#[inline(always)]
fn flush(x: f64) -> f64 {
    if x.is_subnormal() { 0.0f64.copysign(x) } else { x }
}

/// Without the lower 32 bits; a NaN stays one.
#[inline(always)]
fn high(x: f64) -> f64 {
    if x.is_nan() { x } else { f64::from_bits(x.to_bits() >> 32 << 32) }
}

fn signs(t: &mut Table) {
    op!(t, Float64, "max.f64", (x: f64, y: f64) -> (f64) {
        if x > y || (x == y && x.is_sign_positive()) || y.is_nan() { x } else { y }
    });
    op!(t, Float64, "min.f64", (x: f64, y: f64) -> (f64) {
        if x < y || (x == y && x.is_sign_negative()) || y.is_nan() { x } else { y }
    });
    op!(t, Float64, "neg.f64", (x: u64) -> (u64) { x ^ 1 << 63 });
    op!(t, Float64, "abs.f64", (x: u64) -> (u64) { x & !(1 << 63) });
    op!(t, Float64, "copysign.f64", (sign: u64, x: u64) -> (u64) { sign & 1 << 63 | x & !(1 << 63) });
    op!(t, Float64, "testp.finite.f64", (x: f64) -> (bool) { x.is_finite() });
    op!(t, Float64, "testp.infinite.f64", (x: f64) -> (bool) { x.is_infinite() });
    op!(t, Float64, "testp.number.f64", (x: f64) -> (bool) { !x.is_nan() });
    op!(t, Float64, "testp.notanumber.f64", (x: f64) -> (bool) { x.is_nan() });
    op!(t, Float64, "testp.normal.f64", (x: f64) -> (bool) { x.is_normal() });
    op!(t, Float64, "testp.subnormal.f64", (x: f64) -> (bool) { x.is_subnormal() });
}
