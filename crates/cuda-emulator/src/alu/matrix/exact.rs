//! Sums of products without any rounding but one truncation at the end.

use super::elements::{Left, MAX_K, Right, Sum};
use crate::alu::rounding::{Direction, narrow, to_odd};

/// Adds the exact product of `left` and `right` to `sum` and truncates toward zero; beyond single
/// precision lies infinity.
#[inline(always)]
pub(super) fn accumulate(left: &Left, right: &Right, sum: &mut Sum) {
    for (left, sums) in left.iter().zip(sum) {
        let (total, inexact) = compensated(left, right, sums);
        for (column, sum) in sums.iter_mut().enumerate() {
            *sum = if inexact[column] {
                let products = (0..MAX_K).map(|k| f64::from(left[k]) * f64::from(right[k][column]));
                truncated_sum(products.chain([f64::from(*sum)]))
            } else {
                truncate(total[column])
            };
        }
    }
}

/// The sums of a row, rounded to odd, and which of them the pair of doubles could not hold.
#[inline(always)]
fn compensated(left: &[f32; MAX_K], right: &Right, sums: &[f32; 8]) -> ([f64; 8], [bool; 8]) {
    let mut high = sums.map(f64::from);
    let (mut low, mut lost) = ([0.0; 8], [0.0; 8]);
    for k in 0..MAX_K {
        for column in 0..8 {
            let product = f64::from(left[k]) * f64::from(right[k][column]);
            let (sum, error) = two_sum(high[column], product);
            let (errors, error) = two_sum(low[column], error);
            high[column] = sum;
            low[column] = errors;
            lost[column] += error.abs();
        }
    }
    let mut total = [0.0; 8];
    for column in 0..8 {
        let (sum, error) = two_sum(high[column], low[column]);
        total[column] = if high[column].is_finite() { to_odd(sum, error) } else { high[column] };
    }
    // What became infinite or no number stays so.
    (total, std::array::from_fn(|column| lost[column] > 0.0 && high[column].is_finite()))
}

/// A sum to nearest and what rounding took from it.
#[inline(always)]
fn two_sum(x: f64, y: f64) -> (f64, f64) {
    let sum = x + y;
    let y_part = sum - x;
    (sum, (x - (sum - y_part)) + (y - y_part))
}

#[inline(always)]
fn truncate(x: f64) -> f32 {
    let overflows = x.abs() >= 2.0f64.powi(128);
    if overflows { x as f32 } else { narrow(x, Direction::Zero) }
}

/// Up to 2^256, the sign, and a limb to spare for the upper half of a shifted term.
const LIMBS: usize = 10;
/// Weight of the lowest bit: below every product of two subnormals.
const LOWEST: i32 = -288;

/// The exact sum in a fixed-point number as wide as the range of the products.
fn truncated_sum(terms: impl Iterator<Item = f64>) -> f32 {
    let mut total = [0u64; LIMBS];
    for term in terms.filter(|term| *term != 0.0) {
        let bits = term.to_bits();
        let mantissa = bits & ((1 << 52) - 1) | 1 << 52;
        let mantissa = mantissa >> mantissa.trailing_zeros();
        let exponent = (bits >> 52 & 0x7ff) as i32 - 1075;
        let exponent = exponent + (bits | 1 << 52).trailing_zeros() as i32;
        add(&mut total, mantissa, (exponent - LOWEST) as usize, term < 0.0);
    }
    let negative = total[LIMBS - 1] >> 63 != 0;
    if negative {
        negate(&mut total);
    }
    let magnitude = leading_bits(&total);
    if negative { -magnitude } else { magnitude }
}

fn add(total: &mut [u64; LIMBS], mantissa: u64, shift: usize, negative: bool) {
    let mut term = [0u64; LIMBS];
    let wide = u128::from(mantissa) << (shift % 64);
    term[shift / 64] = wide as u64;
    term[shift / 64 + 1] = (wide >> 64) as u64;
    if negative {
        negate(&mut term);
    }
    let mut carry = 0;
    for (limb, term) in total.iter_mut().zip(term) {
        let sum = u128::from(*limb) + u128::from(term) + carry;
        *limb = sum as u64;
        carry = sum >> 64;
    }
}

fn negate(number: &mut [u64; LIMBS]) {
    let mut carry = true;
    for limb in number {
        (*limb, carry) = (!*limb).overflowing_add(u64::from(carry));
    }
}

/// The highest 24 bits of a number, fewer for a subnormal.
fn leading_bits(number: &[u64; LIMBS]) -> f32 {
    let Some(top) = number.iter().rposition(|&limb| limb != 0) else { return 0.0 };
    let highest = 64 * top as i32 + 63 - number[top].leading_zeros() as i32;
    let lowest = (highest - 23).max(-149 - LOWEST);
    let mut mantissa = 0u32;
    for bit in (lowest..=highest).rev() {
        mantissa = mantissa << 1 | (number[bit as usize / 64] >> (bit % 64) & 1) as u32;
    }
    // Exact, but for a power beyond the range, which gives infinity.
    (f64::from(mantissa) * 2.0f64.powi(lowest + LOWEST)) as f32
}
