//! f16, bf16 and pairs of these. Every operation rounds once.

use half::{bf16, f16};

use super::special;
use crate::alu::{
    rounding::add_to_odd,
    sixteen::Sixteen,
    table::{Table, op},
};

/// An operation on one number and on pairs.
macro_rules! single_and_pair {
    ($t:ident, $ty:ident, $class:ident, $name:expr, ($($x:ident),+) $value:expr) => {
        op!($t, $class, concat!($name, ".", stringify!($ty)), ($($x: $ty),+) -> ($ty) { $value });
        op!($t, $class, concat!($name, ".", stringify!($ty), "x2"), ($($x: [$ty; 2]),+) -> ([$ty; 2]) {
            #[inline(always)]
            fn one($($x: $ty),+) -> $ty {
                $value
            }
            [one($($x[0]),+), one($($x[1]),+)]
        });
    };
}

/// An f16 operation with and without `.ftz`.
macro_rules! with_ftz {
    ($t:ident, $name:expr, $suffix:expr, ($($x:ident),+) $value:expr) => {
        single_and_pair!($t, f16, Half, concat!($name, $suffix), ($($x),+) $value);
        single_and_pair!($t, f16, Half, concat!($name, ".ftz", $suffix), ($($x),+) {
            $(let $x = flush($x);)+
            flush($value)
        });
    };
}

pub(super) fn add(t: &mut Table) {
    arithmetic16(t);
    arithmetic_b16(t);
    minima(t);
    functions(t);
}

/// `.ftz` of f16.
#[inline(always)]
fn flush(x: f16) -> f16 {
    let bits = x.to_bits();
    f16::from_bits(if bits & 0x7c00 == 0 { bits & 0x8000 } else { bits })
}

/// `.sat`: clamped to [0, 1], NaN to +0.
#[inline(always)]
fn saturate<T: Sixteen>(x: T) -> T {
    T::nearest(super::saturate(x.widen()))
}

/// `.relu`: negative numbers and -0 become +0, a NaN stays.
#[inline(always)]
pub(super) fn relu<T: Sixteen>(x: T) -> T {
    let wide = x.widen();
    let positive = wide > 0.0 || wide.is_nan();
    T::of_bits(if positive { x.bits() } else { 0 })
}

// Single precision holds more than twice the digits and the whole range of both formats, so that
// rounding its sum again is innocuous; products and their sums go through double.
#[inline(always)]
fn sum<T: Sixteen>(x: T, y: T) -> T {
    T::nearest(x.widen() + y.widen())
}

#[inline(always)]
fn difference<T: Sixteen>(x: T, y: T) -> T {
    T::nearest(x.widen() - y.widen())
}

#[inline(always)]
fn product<T: Sixteen>(x: T, y: T) -> T {
    T::from_odd(f64::from(x.widen()) * f64::from(y.widen()))
}

#[inline(always)]
fn fused<T: Sixteen>(x: T, y: T, z: T) -> T {
    let product = f64::from(x.widen()) * f64::from(y.widen());
    T::from_odd(add_to_odd(product, f64::from(z.widen())))
}

fn arithmetic16(t: &mut Table) {
    with_ftz!(t, "add(|.rn)", "", (x, y) sum(x, y));
    with_ftz!(t, "sub(|.rn)", "", (x, y) difference(x, y));
    with_ftz!(t, "mul(|.rn)", "", (x, y) product(x, y));
    with_ftz!(t, "fma.rn", "", (x, y, z) fused(x, y, z));
    with_ftz!(t, "add(|.rn)", ".sat", (x, y) saturate(sum(x, y)));
    with_ftz!(t, "sub(|.rn)", ".sat", (x, y) saturate(difference(x, y)));
    with_ftz!(t, "mul(|.rn)", ".sat", (x, y) saturate(product(x, y)));
    with_ftz!(t, "fma.rn", ".sat", (x, y, z) saturate(fused(x, y, z)));
    with_ftz!(t, "fma.rn", ".relu", (x, y, z) relu(fused(x, y, z)));
    with_ftz!(t, "neg", "", (x) f16::from_bits(x.to_bits() ^ 0x8000));
    with_ftz!(t, "abs", "", (x) f16::from_bits(x.to_bits() & 0x7fff));
}

fn arithmetic_b16(t: &mut Table) {
    single_and_pair!(t, bf16, Half, "add(|.rn)", (x, y) sum(x, y));
    single_and_pair!(t, bf16, Half, "sub(|.rn)", (x, y) difference(x, y));
    single_and_pair!(t, bf16, Half, "mul(|.rn)", (x, y) product(x, y));
    single_and_pair!(t, bf16, Half, "fma.rn", (x, y, z) fused(x, y, z));
    single_and_pair!(t, bf16, Half, "fma.rn.relu", (x, y, z) relu(fused(x, y, z)));
    single_and_pair!(t, bf16, Half, "neg", (x) bf16::from_bits(x.to_bits() ^ 0x8000));
    single_and_pair!(t, bf16, Half, "abs", (x) bf16::from_bits(x.to_bits() & 0x7fff));
}

/// +0 is above -0, a NaN loses to a number.
#[inline(always)]
fn larger<T: Sixteen>(x: T, y: T) -> T {
    let (wide_x, wide_y) = (x.widen(), y.widen());
    let equal = wide_x == wide_y && wide_x.is_sign_positive();
    let value = if wide_x > wide_y || equal || wide_y.is_nan() { x } else { y };
    if wide_x.is_nan() && wide_y.is_nan() { T::NAN } else { value }
}

#[inline(always)]
fn smaller<T: Sixteen>(x: T, y: T) -> T {
    let (wide_x, wide_y) = (x.widen(), y.widen());
    let equal = wide_x == wide_y && wide_x.is_sign_negative();
    let value = if wide_x < wide_y || equal || wide_y.is_nan() { x } else { y };
    if wide_x.is_nan() && wide_y.is_nan() { T::NAN } else { value }
}

#[inline(always)]
fn or_nan<T: Sixteen>(value: T, x: T, y: T) -> T {
    if x.widen().is_nan() || y.widen().is_nan() { T::NAN } else { value }
}

/// The magnitude chosen among magnitudes, with the product's sign.
#[inline(always)]
fn xor_sign<T: Sixteen>(choose: fn(T, T) -> T, x: T, y: T) -> T {
    let value = choose(T::of_bits(x.bits() & 0x7fff), T::of_bits(y.bits() & 0x7fff));
    let sign = (x.bits() ^ y.bits()) & 0x8000;
    if value.widen().is_nan() { T::NAN } else { T::of_bits(value.bits() | sign) }
}

fn minima(t: &mut Table) {
    macro_rules! choice {
        ($name:literal, $choose:ident) => {
            with_ftz!(t, $name, "", (x, y) $choose(x, y));
            with_ftz!(t, $name, ".NaN", (x, y) or_nan($choose(x, y), x, y));
            with_ftz!(t, $name, ".xorsign.abs", (x, y) xor_sign($choose, x, y));
            with_ftz!(t, $name, ".NaN.xorsign.abs", (x, y) or_nan(xor_sign($choose, x, y), x, y));
            single_and_pair!(t, bf16, Half, $name, (x, y) $choose(x, y));
            single_and_pair!(t, bf16, Half, concat!($name, ".NaN"), (x, y) or_nan($choose(x, y), x, y));
            single_and_pair!(t, bf16, Half, concat!($name, ".xorsign.abs"), (x, y) xor_sign($choose, x, y));
            single_and_pair!(t, bf16, Half, concat!($name, ".NaN.xorsign.abs"), (x, y) {
                or_nan(xor_sign($choose, x, y), x, y)
            });
        };
    }
    choice!("max", larger);
    choice!("min", smaller);
}

fn functions(t: &mut Table) {
    single_and_pair!(t, f16, Special, "ex2.approx", (x) f16::nearest(special::exp2(x.widen())));
    single_and_pair!(t, bf16, Special, "ex2.approx.ftz", (x) {
        bf16::nearest(super::flush(special::exp2(super::flush(x.widen()))))
    });
    single_and_pair!(t, f16, Special, "tanh.approx", (x) f16::nearest(special::tanh(x.widen())));
    single_and_pair!(t, bf16, Special, "tanh.approx", (x) bf16::nearest(special::tanh(x.widen())));
}
