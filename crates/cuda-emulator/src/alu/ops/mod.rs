//! The operations, by kind.

mod bits;
mod compare;
mod convert;
mod float32;
mod float64;
mod half;
mod integer;
mod moves;
mod special;

use super::table::Table;

pub(super) fn add_all(table: &mut Table) {
    integer::add(table);
    bits::add(table);
    moves::add(table);
    compare::add(table);
    float32::add(table);
    float64::add(table);
    special::add(table);
    half::add(table);
    convert::add(table);
}

/// `.ftz`: a subnormal number becomes zero of its sign.
#[inline(always)]
fn flush(x: f32) -> f32 {
    let bits = x.to_bits();
    let keep = if bits & 0x7f80_0000 == 0 { 0x8000_0000 } else { u32::MAX };
    f32::from_bits(bits & keep)
}

/// The one NaN that the hardware gives in single precision.
const NAN32: f32 = f32::from_bits(0x7fff_ffff);

/// A choice by bits and of bits, as a compiler may take any NaN for another: one that knew `x` for a root gave it back
/// unchanged where `is_nan` chose.
#[inline(always)]
pub(super) fn canonical(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { 0x7fff_ffff } else { bits })
}

/// `.sat`: clamped to [0, 1], NaN to +0.
#[inline(always)]
fn saturate(x: f32) -> f32 {
    if x > 0.0 { if x < 1.0 { x } else { 1.0 } } else { 0.0 }
}
