//! Double precision in the directed roundings, on integers.

use super::rounding::Direction;

/// A finite number as an integer times a power of two, its highest bit at bit 52 unless it is 0.
fn split(x: f64) -> (u64, i32) {
    let bits = x.to_bits();
    let (fraction, biased) = (bits & ((1 << 52) - 1), (bits >> 52 & 0x7ff) as i32);
    if biased > 0 {
        return (fraction | 1 << 52, biased - 1075);
    }
    let shift = fraction.leading_zeros().min(63) as i32 - 11;
    (fraction << shift, -1074 - shift)
}

/// Rounds `mantissa` times a power of two; the lowest bit of a long mantissa may stand for any
/// rest below it.
fn round(negative: bool, mantissa: u128, exponent: i32, direction: Direction) -> f64 {
    let width = 128 - mantissa.leading_zeros() as i32;
    let lowest = (exponent + width - 53).max(-1074);
    let shift = lowest - exponent;
    let (mut kept, inexact) = if shift <= 0 {
        (mantissa << -shift, false)
    } else if shift >= 128 {
        (0, true)
    } else {
        (mantissa >> shift, mantissa & ((1 << shift) - 1) != 0)
    };
    let away = direction == if negative { Direction::Down } else { Direction::Up };
    kept += u128::from(inexact && away);
    let bits = ((lowest + 1074) as u64) << 52;
    let bits =
        if lowest + 1074 >= 2046 + 52 { f64::INFINITY.to_bits() } else { bits + kept as u64 };
    let magnitude = f64::from_bits(bits.min(f64::INFINITY.to_bits()));
    let magnitude = if magnitude.is_infinite() && !away { f64::MAX } else { magnitude };
    if negative { -magnitude } else { magnitude }
}

/// Shifts right, keeping any lost one in the lowest bit.
fn shift_sticky(x: u128, by: i32) -> u128 {
    if by >= 128 {
        return u128::from(x != 0);
    }
    x >> by | u128::from(x & ((1 << by) - 1) != 0)
}

pub(super) fn multiply(x: f64, y: f64, direction: Direction) -> f64 {
    let near = x * y;
    if !near.is_nan() && x.is_finite() && y.is_finite() && x != 0.0 && y != 0.0 {
        let ((mx, ex), (my, ey)) = (split(x), split(y));
        return round((x < 0.0) != (y < 0.0), u128::from(mx) * u128::from(my), ex + ey, direction);
    }
    near
}

pub(super) fn add(x: f64, y: f64, direction: Direction) -> f64 {
    multiply_add(x, 1.0, y, direction)
}

pub(super) fn multiply_add(x: f64, y: f64, z: f64, direction: Direction) -> f64 {
    if !(x.is_finite() && y.is_finite() && z.is_finite()) {
        return x.mul_add(y, z);
    }
    let product_negative = x.is_sign_negative() != y.is_sign_negative();
    let cancelled = if direction == Direction::Down { -0.0 } else { 0.0 };
    if x == 0.0 || y == 0.0 {
        let signs_differ = product_negative != z.is_sign_negative();
        return if z == 0.0 && signs_differ { cancelled } else { z };
    }
    if z == 0.0 {
        return multiply(x, y, direction);
    }
    let ((mx, ex), (my, ey), (mz, ez)) = (split(x), split(y), split(z));
    let product = u128::from(mx) * u128::from(my);
    // Both with their highest bit at bit 125, so that only the lesser loses bits, 20 below at least.
    let shift = product.leading_zeros() as i32 - 2;
    let product = (product_negative, product << shift, ex + ey - shift);
    let addend = (z < 0.0, u128::from(mz) << 73, ez - 73);
    let (large, small) = if (product.2, product.1) >= (addend.2, addend.1) {
        (product, addend)
    } else {
        (addend, product)
    };
    let small_mantissa = shift_sticky(small.1, large.2 - small.2);
    if large.0 == small.0 {
        return round(large.0, large.1 + small_mantissa, large.2, direction);
    }
    match large.1 - small_mantissa {
        0 => cancelled,
        difference => round(large.0, difference, large.2, direction),
    }
}

pub(super) fn divide(x: f64, y: f64, direction: Direction) -> f64 {
    if !(x.is_finite() && y.is_finite()) || x == 0.0 || y == 0.0 {
        return x / y;
    }
    let ((mx, ex), (my, ey)) = (split(x), split(y));
    let (numerator, my) = (u128::from(mx) << 70, u128::from(my));
    let quotient = (numerator / my) | u128::from(numerator % my != 0);
    round((x < 0.0) != (y < 0.0), quotient, ex - ey - 70, direction)
}

pub(super) fn square_root(x: f64, direction: Direction) -> f64 {
    if !(x > 0.0 && x.is_finite()) {
        return x.sqrt();
    }
    let (mantissa, exponent) = split(x);
    let odd = exponent & 1;
    let wide = u128::from(mantissa) << (72 + odd);
    let root = wide.isqrt();
    let root = root | u128::from(root * root != wide);
    round(false, root, (exponent - odd - 72) / 2, direction)
}
