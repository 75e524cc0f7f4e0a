//! Division, roots and the transcendental functions of single precision.
//!
//! The approximations of the hardware are not bit-exact documented; what stands here lies well
//! within their stated errors.

use super::{canonical, flush};
use crate::alu::{
    rounding::{self, Direction},
    table::{Table, op},
};

/// An operation and its `.ftz` form.
macro_rules! with_ftz {
    ($t:ident, $name:expr, ($($x:ident),+) $value:expr) => {
        op!($t, Special, concat!($name, ".f32"), ($($x: f32),+) -> (f32) { canonical($value) });
        op!($t, Special, concat!($name, ".ftz.f32"), ($($x: f32),+) -> (f32) {
            $(let $x = flush($x);)+
            canonical(flush($value))
        });
    };
}

pub(super) fn add(t: &mut Table) {
    exact(t);
    with_ftz!(t, "div.approx", (x, y) divide_approximately(x, y));
    with_ftz!(t, "div.full", (x, y) x / y);
    with_ftz!(t, "rcp.approx", (x) 1.0 / x);
    with_ftz!(t, "sqrt.approx", (x) x.sqrt());
    with_ftz!(t, "rsqrt.approx", (x)(1.0 / f64::from(x).sqrt()) as f32);
    with_ftz!(t, "ex2.approx", (x) exp2(x));
    with_ftz!(t, "lg2.approx", (x) log2(x));
    with_ftz!(t, "sin.approx", (x) f64::from(x).sin() as f32);
    with_ftz!(t, "cos.approx", (x) f64::from(x).cos() as f32);
    op!(t, Special, "tanh.approx.f32", (x: f32) -> (f32) { canonical(tanh(x)) });
}

fn exact(t: &mut Table) {
    with_ftz!(t, "div.rn", (x, y) x / y);
    with_ftz!(t, "rcp.rn", (x) 1.0 / x);
    with_ftz!(t, "sqrt.rn", (x) x.sqrt());
    macro_rules! directed {
        ($direction:ident, $div:literal, $rcp:literal, $sqrt:literal) => {
            with_ftz!(t, $div, (x, y) divide(x, y, Direction::$direction));
            with_ftz!(t, $rcp, (x) divide(1.0, x, Direction::$direction));
            with_ftz!(t, $sqrt, (x) rounding::narrow(rounding::sqrt_to_odd(x.into()), Direction::$direction));
        };
    }
    directed!(Zero, "div.rz", "rcp.rz", "sqrt.rz");
    directed!(Down, "div.rm", "rcp.rm", "sqrt.rm");
    directed!(Up, "div.rp", "rcp.rp", "sqrt.rp");
}

#[inline(always)]
fn divide(x: f32, y: f32, direction: Direction) -> f32 {
    rounding::narrow(rounding::divide_to_odd(x.into(), y.into()), direction)
}

/// A product with the reciprocal: zero for divisors beyond 2^126, whose reciprocal is lost.
#[inline(always)]
fn divide_approximately(x: f32, y: f32) -> f32 {
    let lost = y.abs() > f32::from_bits((126 + 127) << 23) && y.is_finite();
    if lost { x * 0.0f32.copysign(y) } else { x / y }
}

/// 2^x within an ulp: a polynomial of the fraction, scaled in two steps so that a subnormal result
/// is rounded once.
#[inline(always)]
pub(super) fn exp2(x: f32) -> f32 {
    // Beyond these the result is infinity or zero.
    let clamped = x.clamp(-160.0, 160.0);
    // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
    let shifter = f32::from_bits(0x4b40_0000);
    let shifted = clamped + shifter;
    let exponent = (shifted.to_bits() as i32).wrapping_sub(0x4b40_0000);
    let f = clamped - (shifted - shifter);
    // ln(2)^k / k!
    let mut p = 1.525_273_4e-5f32;
    p = p.mul_add(f, 1.540_353e-4);
    p = p.mul_add(f, 1.333_355_8e-3);
    p = p.mul_add(f, 9.618_129e-3);
    p = p.mul_add(f, 5.550_411e-2);
    p = p.mul_add(f, 2.402_265e-1);
    p = p.mul_add(f, 6.931_472e-1);
    p = p.mul_add(f, 1.0);
    let half = exponent >> 1;
    let power = |e: i32| f32::from_bits((e.wrapping_add(127) << 23) as u32);
    let value = p * power(half) * power(exponent.wrapping_sub(half));
    if x.is_nan() { x } else { value }
}

/// log2(x) to single precision: in double, by the series of the area tangent.
#[inline(always)]
pub(super) fn log2(x: f32) -> f32 {
    let bits = f64::from(x).to_bits();
    // Mantissa in [sqrt(1/2), sqrt(2)): add the distance from sqrt(1/2) to 1 before the split.
    let shifted = bits.wrapping_add(0x3ff0_0000_0000_0000 - 0x3fe6_a09e_667f_3bcd);
    let exponent = (shifted >> 52) as i32 - 1023;
    let mantissa = f64::from_bits(bits.wrapping_sub((exponent as i64 as u64) << 52));
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let z = s * s;
    let mut p = 1.0f64 / 11.0;
    for k in [9.0, 7.0, 5.0, 3.0, 1.0] {
        p = p.mul_add(z, 1.0 / k);
    }
    let value = (p * s * (2.0 * std::f64::consts::LOG2_E) + f64::from(exponent)) as f32;
    if x == 0.0 {
        f32::NEG_INFINITY
    } else if x < 0.0 {
        f32::NAN
    } else if x.is_finite() {
        value
    } else {
        x
    }
}

/// (e^2x - 1) / (e^2x + 1); near zero the first terms of its series.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let wide = f64::from(x.clamp(-20.0, 20.0));
    let exponent = wide * (2.0 * std::f64::consts::LOG2_E);
    // Adding 1.5 * 2^52 rounds to an integer, which then stands in the low bits.
    let shifter = f64::from_bits(0x4338_0000_0000_0000);
    let shifted = exponent + shifter;
    let f = (exponent - (shifted - shifter)) * std::f64::consts::LN_2;
    let mut p = 1.0f64;
    for k in [10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0] {
        p = (p * (1.0 / k)).mul_add(f, 1.0);
    }
    let e = p * f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    let value = (e - 1.0) / (e + 1.0);
    let series = wide * (1.0 - wide * wide / 3.0);
    let value = if wide.abs() < 1e-3 { series } else { value };
    if x.is_nan() { x } else { value as f32 }
}
