//! Conversions.

use half::{bf16, f16};

use super::{canonical, flush, half::relu, saturate};
use crate::alu::{
    rounding::{self, Direction},
    sixteen::Sixteen,
    table::{Table, op},
};

pub(super) fn add(t: &mut Table) {
    integers(t);
    to_integers(t);
    from_integers(t);
    integral(t);
    widening(t);
    narrowing(t);
    to_sixteen(t);
    packed(t);
    tf32(t);
}

/// Calls `$run!(type, ".name")` for every integer type, after the other arguments.
macro_rules! for_integers {
    ($run:ident $($first:tt)*) => {
        $run!($($first)* u8, ".u8");
        $run!($($first)* i8, ".s8");
        $run!($($first)* u16, ".u16");
        $run!($($first)* i16, ".s16");
        $run!($($first)* u32, ".u32");
        $run!($($first)* i32, ".s32");
        $run!($($first)* u64, ".u64");
        $run!($($first)* i64, ".s64");
    };
}

/// The four roundings to an integral value.
macro_rules! for_integral_roundings {
    ($run:ident) => {
        $run!(".rni", round_ties_even);
        $run!(".rzi", trunc);
        $run!(".rmi", floor);
        $run!(".rpi", ceil);
    };
}

/// The three directed roundings.
macro_rules! for_directions {
    ($run:ident) => {
        $run!(".rz", Direction::Zero);
        $run!(".rm", Direction::Down);
        $run!(".rp", Direction::Up);
    };
}

fn integers(t: &mut Table) {
    macro_rules! from {
        ($from:ty, $from_name:literal) => {
            for_integers!(pair $from, $from_name,);
        };
    }
    macro_rules! pair {
        ($from:ty, $from_name:literal, $to:ty, $to_name:literal) => {
            op!(t, Conversion, concat!("cvt", $to_name, $from_name), (x: $from) -> ($to) { x as $to });
            op!(t, Conversion, concat!("cvt.sat", $to_name, $from_name), (x: $from) -> ($to) {
                let limit = if i128::from(x) < 0 { <$to>::MIN } else { <$to>::MAX };
                <$to>::try_from(x).unwrap_or(limit)
            });
        };
    }
    for_integers!(from);
}

/// Out of range clamps. A NaN gives 0, or the sign bit alone where 64 bits are on either side.
fn to_integers(t: &mut Table) {
    macro_rules! rounding {
        ($rounding:literal, $round:ident) => {
            for_integers!(target $rounding, $round,);
        };
    }
    macro_rules! target {
        ($rounding:literal, $round:ident, $to:ty, $to_name:literal) => {
            op!(t, Conversion, concat!("cvt", $rounding, "(|.sat)", $to_name, ".f32"), (x: f32) -> ($to) {
                to_integer!(x.$round(), $to, <$to>::BITS == 64)
            });
            op!(t, Conversion, concat!("cvt", $rounding, ".ftz(|.sat)", $to_name, ".f32"), (x: f32) -> ($to) {
                to_integer!(flush(x).$round(), $to, <$to>::BITS == 64)
            });
            op!(t, Conversion, concat!("cvt", $rounding, "(|.sat)", $to_name, ".f64"), (x: f64) -> ($to) {
                to_integer!(x.$round(), $to, true)
            });
            op!(t, Conversion, concat!("cvt", $rounding, "(|.sat)", $to_name, ".f16"), (x: f16) -> ($to) {
                to_integer!(x.widen().$round(), $to, <$to>::BITS == 64)
            });
            op!(t, Conversion, concat!("cvt", $rounding, "(|.sat)", $to_name, ".bf16"), (x: bf16) -> ($to) {
                to_integer!(x.widen().$round(), $to, <$to>::BITS == 64)
            });
        };
    }
    macro_rules! to_integer {
        ($x:expr, $to:ty, $sign_bit:expr) => {{
            let x = $x;
            if $sign_bit && x.is_nan() { (1 as $to) << (<$to>::BITS - 1) } else { x as $to }
        }};
    }
    for_integral_roundings!(rounding);
}

fn from_integers(t: &mut Table) {
    macro_rules! source {
        ($from:ty, $name:literal) => {
            op!(t, Conversion, concat!("cvt.rn.f32", $name), (x: $from) -> (f32) { x as f32 });
            op!(t, Conversion, concat!("cvt.rn.f64", $name), (x: $from) -> (f64) { x as f64 });
            op!(t, Conversion, concat!("cvt.rn.f16", $name), (x: $from) -> (f16) { f16::from_odd(odd!(x)) });
            op!(t, Conversion, concat!("cvt.rn.bf16", $name), (x: $from) -> (bf16) { bf16::from_odd(odd!(x)) });
            op!(t, Conversion, concat!("cvt.rn.sat.f32", $name), (x: $from) -> (f32) { saturate(x as f32) });
            directed!(".rz", Direction::Zero, $from, $name);
            directed!(".rm", Direction::Down, $from, $name);
            directed!(".rp", Direction::Up, $from, $name);
        };
    }
    // Rounded to odd in double precision.
    macro_rules! odd {
        ($x:expr) => {{
            let near = $x as f64;
            rounding::to_odd(near, (i128::from($x) - near as i128) as f64)
        }};
    }
    macro_rules! directed {
        ($rounding:literal, $direction:expr, $from:ty, $name:literal) => {
            op!(t, Conversion, concat!("cvt", $rounding, ".f32", $name), (x: $from) -> (f32) {
                rounding::narrow(odd!(x), $direction)
            });
            op!(t, Conversion, concat!("cvt", $rounding, ".f64", $name), (x: $from) -> (f64) {
                let near = x as f64;
                rounding::direct(near, (i128::from(x) - near as i128) as f64, $direction)
            });
            op!(t, Conversion, concat!("cvt", $rounding, ".f16", $name), (x: $from) -> (f16) {
                f16::directed(rounding::narrow_to_odd(odd!(x)), $direction)
            });
            op!(t, Conversion, concat!("cvt", $rounding, ".bf16", $name), (x: $from) -> (bf16) {
                bf16::directed(rounding::narrow_to_odd(odd!(x)), $direction)
            });
        };
    }
    for_integers!(source);
}

/// To an integral value of the same type.
fn integral(t: &mut Table) {
    macro_rules! rounding {
        ($rounding:literal, $round:ident) => {
            op!(t, Conversion, concat!("cvt", $rounding, ".f32.f32"), (x: f32) -> (f32) { canonical(x.$round()) });
            op!(t, Conversion, concat!("cvt", $rounding, ".sat.f32.f32"), (x: f32) -> (f32) { saturate(x.$round()) });
            op!(t, Conversion, concat!("cvt", $rounding, ".ftz.f32.f32"), (x: f32) -> (f32) { canonical(flush(x).$round()) });
            op!(t, Conversion, concat!("cvt", $rounding, ".ftz.sat.f32.f32"), (x: f32) -> (f32) { saturate(flush(x).$round()) });
            op!(t, Conversion, concat!("cvt", $rounding, ".f64.f64"), (x: f64) -> (f64) { x.$round() });
            op!(t, Conversion, concat!("cvt", $rounding, ".f16.f16"), (x: f16) -> (f16) { f16::nearest(x.widen().$round()) });
            op!(t, Conversion, concat!("cvt", $rounding, ".bf16.bf16"), (x: bf16) -> (bf16) { bf16::nearest(x.widen().$round()) });
        };
    }
    for_integral_roundings!(rounding);
    op!(t, Conversion, "cvt.f32.f32", (x: f32) -> (f32) { canonical(x) });
    op!(t, Conversion, "cvt.sat.f32.f32", (x: f32) -> (f32) { saturate(x) });
    op!(t, Conversion, "cvt.ftz.f32.f32", (x: f32) -> (f32) { canonical(flush(x)) });
    op!(t, Conversion, "cvt.ftz.sat.f32.f32", (x: f32) -> (f32) { saturate(flush(x)) });
    op!(t, Conversion, "cvt.f64.f64", (x: f64) -> (f64) { x });
}

fn widening(t: &mut Table) {
    op!(t, Conversion, "cvt.f32.f16", (x: f16) -> (f32) { canonical(x.widen()) });
    op!(t, Conversion, "cvt.ftz.f32.f16", (x: f16) -> (f32) { canonical(x.widen()) });
    op!(t, Conversion, "cvt.sat.f32.f16", (x: f16) -> (f32) { saturate(x.widen()) });
    op!(t, Conversion, "cvt.f32.bf16", (x: bf16) -> (f32) { canonical(x.widen()) });
    op!(t, Conversion, "cvt.ftz.f32.bf16", (x: bf16) -> (f32) { canonical(flush(x.widen())) });
    op!(t, Conversion, "cvt.f64.f16", (x: f16) -> (f64) { x.widen().into() });
    op!(t, Conversion, "cvt.f64.bf16", (x: bf16) -> (f64) { x.widen().into() });
    op!(t, Conversion, "cvt.f64.f32", (x: f32) -> (f64) { x.into() });
    op!(t, Conversion, "cvt.ftz.f64.f32", (x: f32) -> (f64) { flush(x).into() });
}

fn narrowing(t: &mut Table) {
    macro_rules! flavours {
        ($rounding:literal, |$x:ident| $value:expr) => {
            op!(t, Conversion, concat!("cvt", $rounding, ".f32.f64"), ($x: f64) -> (f32) { canonical($value) });
            op!(t, Conversion, concat!("cvt", $rounding, ".sat.f32.f64"), ($x: f64) -> (f32) { saturate($value) });
            op!(t, Conversion, concat!("cvt", $rounding, ".ftz.f32.f64"), ($x: f64) -> (f32) { canonical(flush($value)) });
        };
    }
    macro_rules! directed {
        ($rounding:literal, $direction:expr) => {
            flavours!($rounding, |x| rounding::narrow(x, $direction));
        };
    }
    flavours!(".rn", |x| x as f32);
    for_directions!(directed);
}

fn to_sixteen(t: &mut Table) {
    macro_rules! format {
        ($ty:ty, $name:literal, $rounding:literal, |$x:ident| $value:expr) => {
            op!(t, Conversion, concat!("cvt", $rounding, $name, ".f32"), ($x: f32) -> ($ty) { $value });
            op!(t, Conversion, concat!("cvt", $rounding, ".relu", $name, ".f32"), ($x: f32) -> ($ty) { relu($value) });
            op!(t, Conversion, concat!("cvt", $rounding, ".ftz", $name, ".f32"), (x: f32) -> ($ty) {
                let $x = flush(x);
                $value
            });
            op!(t, Conversion, concat!("cvt", $rounding, $name, ".f64"), (x: f64) -> ($ty) {
                let $x = rounding::narrow_to_odd(x);
                $value
            });
        };
    }
    macro_rules! directed {
        ($rounding:literal, $direction:expr) => {
            format!(f16, ".f16", $rounding, |x| f16::directed(x, $direction));
            format!(bf16, ".bf16", $rounding, |x| bf16::directed(x, $direction));
        };
    }
    format!(f16, ".f16", ".rn", |x| f16::nearest(x));
    format!(bf16, ".bf16", ".rn", |x| bf16::nearest(x));
    for_directions!(directed);
    op!(t, Conversion, "cvt.rn.sat.f16.f32", (x: f32) -> (f16) { f16::nearest(saturate(x)) });
}

/// The first source is the upper half.
fn packed(t: &mut Table) {
    macro_rules! pair {
        ($ty:ty, $name:literal, $rounding:literal, |$x:ident| $value:expr) => {
            op!(t, Conversion, concat!("cvt", $rounding, $name, ".f32"), (high: f32, low: f32) -> ([$ty; 2]) {
                [{ let $x = low; $value }, { let $x = high; $value }]
            });
            op!(t, Conversion, concat!("cvt", $rounding, ".relu", $name, ".f32"), (high: f32, low: f32) -> ([$ty; 2]) {
                [relu({ let $x = low; $value }), relu({ let $x = high; $value })]
            });
        };
    }
    pair!(f16, ".f16x2", ".rn", |x| f16::nearest(x));
    pair!(bf16, ".bf16x2", ".rn", |x| bf16::nearest(x));
    pair!(f16, ".f16x2", ".rz", |x| f16::directed(x, Direction::Zero));
    pair!(bf16, ".bf16x2", ".rz", |x| bf16::directed(x, Direction::Zero));
}

/// Ten bits of mantissa in the upper part of a word.
fn tf32(t: &mut Table) {
    op!(t, Conversion, "cvt.rna.tf32.f32", (x: f32) -> (f32) { round_tf32(x, 0x1000) });
    op!(t, Conversion, "cvt.rn.tf32.f32", (x: f32) -> (f32) { round_tf32(x, 0xfff + (x.to_bits() >> 13 & 1)) });
    op!(t, Conversion, "cvt.rz.tf32.f32", (x: f32) -> (f32) { round_tf32(x, 0) });
}

/// Infinities and NaNs are truncated.
#[inline(always)]
fn round_tf32(x: f32, add: u32) -> f32 {
    let bits = if x.is_finite() { x.to_bits() + add } else { x.to_bits() };
    f32::from_bits(bits & 0xffff_e000)
}
