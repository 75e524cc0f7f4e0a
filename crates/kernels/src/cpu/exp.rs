//! Exponential functions that vectorise: no branch, no table, no call.

#![expect(
    clippy::inline_always,
    reason = "a loop is compiled for the instruction set of the function it is inlined into"
)]

/// Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the mantissa.
const ROUNDER: f32 = 12_582_912.0;
/// High part of `ln(2)`, whose products with exponents are exact.
const LN2_HI: f32 = 0.693_359_4;
/// The rest of it.
const LN2_LO: f32 = -2.121_944_4e-4;

/// `e^x` within 2 units in the last place, infinities included; NaN stays NaN. Results below the
/// smallest normal number are 0: processors take a hundred cycles to make a subnormal one, and
/// softmax asks for many.
///
/// Range reduction by Cody and Waite.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// Logarithm of the smallest normal number, rounded up.
    const MIN: f32 = -87.336_54;
    // Comparisons are written so that NaN passes through.
    let underflow = x < MIN;
    let x = if underflow { MIN } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUNDER;
    let n = shifted - ROUNDER;
    let p = exp_of_reduced(x - n * LN2_HI - n * LN2_LO);
    // 2^n in two factors, for 2^128 is no f32.
    let n = shifted.to_bits() as i32 - ROUNDER.to_bits() as i32;
    let half = n >> 1;
    let result = p * power_of_two(half) * power_of_two(n - half);
    if underflow { 0.0 } else { result }
}

#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// `e^r` for `|r| <= ln(2) / 2`: the polynomial of degree 6 with the least relative error, 4.5e-9.
#[inline(always)]
fn exp_of_reduced(r: f32) -> f32 {
    let mut p = 1.381_458_5e-3;
    p = p * r + 8.368_758e-3;
    p = p * r + 4.166_839_3e-2;
    p = p * r + 1.666_652e-1;
    p = p * r + 0.499_999_94;
    p * r * r + r + 1.0
}

/// `1 / (1 + e^-x)`, within 4 units in the last place; below 88.3 times -1 it is 0.
///
/// The exponential is that of [`exp`] without what only a very small or a very large result needs:
/// here `e^-x` disappears in the sum below 2^-25, and what 2^127 does not reach counts as infinite.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    /// Its low bits, moved up to where the exponent is, make a power of two of an integer added.
    const BIASED: f32 = ROUNDER + 127.0;
    // Comparisons are written so that NaN passes through.
    let x = if x > 87.0 { 87.0 } else { x };
    let x = if x < -89.0 { -89.0 } else { x };
    let shifted = x * -std::f32::consts::LOG2_E + BIASED;
    let n = shifted - BIASED;
    let p = exp_of_reduced(n * -LN2_HI - x - n * LN2_LO);
    1.0 / (1.0 + p * f32::from_bits(shifted.to_bits() << 23))
}

/// Hyperbolic tangent; polynomial of Cephes' `tanhf` near zero, where `1 - e^-2x` cancels.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let z = x * x;
    let mut p = -5.704_988_7e-3;
    p = p * z + 2.063_909e-2;
    p = p * z - 5.373_971_6e-2;
    p = p * z + 1.333_144_2e-1;
    p = p * z - 3.333_328e-1;
    let near_zero = p * z * x + x;
    let e = exp(-2.0 * x.abs());
    let far = ((1.0 - e) / (1.0 + e)).copysign(x);
    if x.abs() < 0.625 { near_zero } else { far }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Units in the last place between `got` and the exact value.
    fn ulps(got: f32, exact: f64) -> f64 {
        let rounded = exact as f32;
        if got == rounded {
            return 0.0;
        }
        let ulp = f64::from(rounded.abs().next_up()) - f64::from(rounded.abs());
        (f64::from(got) - exact).abs() / ulp
    }

    fn floats(limit: f32) -> impl Iterator<Item = f32> {
        (0..=limit.to_bits()).step_by(1_009).map(f32::from_bits).flat_map(|x| [x, -x])
    }

    #[test]
    fn exp_is_within_two_ulps_everywhere() {
        for x in floats(120.0) {
            let exact = f64::from(x).exp();
            if exact < f64::from(f32::MIN_POSITIVE) {
                assert_eq!(exp(x), 0.0, "exp({x})");
                continue;
            }
            let error = ulps(exp(x), exact);
            assert!(error <= 2.0, "exp({x}) = {}: {error} ulp", exp(x));
        }
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn tanh_and_sigmoid_are_within_four_ulps() {
        for x in floats(80.0) {
            let error = ulps(tanh(x), f64::from(x).tanh());
            assert!(error <= 4.0, "tanh({x}) = {}: {error} ulp", tanh(x));
            let error = ulps(sigmoid(x), 1.0 / (1.0 + (-f64::from(x)).exp()));
            assert!(error <= 4.0, "sigmoid({x}) = {}: {error} ulp", sigmoid(x));
        }
        assert!(tanh(f32::NAN).is_nan());
        assert_eq!(tanh(f32::INFINITY), 1.0);
        assert!(sigmoid(f32::NAN).is_nan());
        for (x, expected) in [(f32::INFINITY, 1.0), (f32::NEG_INFINITY, 0.0)] {
            assert_eq!(sigmoid(x), expected);
            assert_eq!(sigmoid(x.clamp(-88.5, 88.5)), expected);
        }
    }
}
