//! Roundings that the processor has no instruction for, exact.

/// Rounding direction; nearest is the processor's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// Toward zero.
    Zero,
    /// Toward minus infinity.
    Down,
    /// Toward plus infinity.
    Up,
}

/// `x + y` rounded to odd: truncated, with the lowest bit set where that loses something. A later
/// rounding to 51 bits or less then is the single rounding of the exact sum.
#[inline(always)]
pub(super) fn add_to_odd(x: f64, y: f64) -> f64 {
    let sum = x + y;
    let y_part = sum - x;
    let error = (x - (sum - y_part)) + (y - y_part);
    to_odd(sum, error)
}

/// `value` + `error` rounded to odd, where `value` is their sum to nearest.
#[inline(always)]
pub(super) fn to_odd(value: f64, error: f64) -> f64 {
    let bits = value.to_bits();
    let away = (error > 0.0) == (value > 0.0);
    let step = if away { 1 } else { u64::MAX };
    // A NaN error comes of infinities, which are exact.
    let inexact = error.abs() > 0.0;
    f64::from_bits(if inexact && bits & 1 == 0 { bits.wrapping_add(step) } else { bits })
}

/// `x / y` rounded to odd; the operands are single-precision numbers.
#[inline(always)]
pub(super) fn divide_to_odd(x: f64, y: f64) -> f64 {
    let quotient = x / y;
    let remainder = (-quotient).mul_add(y, x);
    to_odd(quotient, if y < 0.0 { -remainder } else { remainder })
}

/// The square root of a single-precision number, rounded to odd.
#[inline(always)]
pub(super) fn sqrt_to_odd(x: f64) -> f64 {
    let root = x.sqrt();
    to_odd(root, (-root).mul_add(root, x))
}

/// A number rounded to odd, to single precision.
#[inline(always)]
pub(super) fn narrow(x: f64, direction: Direction) -> f32 {
    let near = x as f32;
    let wide = f64::from(near);
    match direction {
        Direction::Zero => step(near, wide.abs() > x.abs(), near < 0.0),
        Direction::Down => step(near, wide > x, false),
        Direction::Up => step(near, wide < x, true),
    }
}

/// The next number up or down, if `wanted`.
#[inline(always)]
fn step(x: f32, wanted: bool, up: bool) -> f32 {
    let bits = x.to_bits();
    let away_from_zero = (bits >> 31 != 0) != up;
    let smallest = if up { 1 } else { 0x8000_0001 };
    let next = if away_from_zero { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
    let next = if x == 0.0 { smallest } else { next };
    f32::from_bits(if wanted { next } else { bits })
}

/// The sign of an exact zero sum: minus when rounding down numbers that cancel.
#[inline(always)]
pub(super) fn sum_zero(sum: f64, x: f64, y: f64, direction: Direction) -> f64 {
    let cancels = sum == 0.0 && x.is_sign_negative() != y.is_sign_negative();
    if cancels && direction == Direction::Down { -0.0 } else { sum }
}

/// A number rounded to odd in double precision, rounded to odd in single.
#[inline(always)]
pub(super) fn narrow_to_odd(x: f64) -> f32 {
    let near = x as f32;
    let wide = f64::from(near);
    let inexact = wide != x;
    let toward_zero = step(near, wide.abs() > x.abs(), near < 0.0);
    f32::from_bits(toward_zero.to_bits() | u32::from(inexact))
}

/// `value` + `error` in double precision, where `value` is their sum to nearest and is finite.
#[inline(always)]
pub(super) fn direct(value: f64, error: f64, direction: Direction) -> f64 {
    let up = match direction {
        Direction::Zero => value < 0.0,
        Direction::Down => false,
        Direction::Up => true,
    };
    let wanted = if up { error > 0.0 } else { error < 0.0 };
    match (wanted, up) {
        (false, _) => value,
        (true, true) => value.next_up(),
        (true, false) => value.next_down(),
    }
}
