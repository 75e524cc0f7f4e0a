//! Floating-point numbers as big integers times powers of two, and their rounding by definition.

use std::cmp::Ordering;

use num_bigint::{BigInt, BigUint, Sign};

/// A binary format.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Format {
    /// Bits of the significand, the hidden one included.
    precision: i64,
    /// Exponent of the least normal number.
    least: i64,
    /// Bits of the encoding.
    bits: i64,
    /// Zero bits below the encoding.
    padding: i64,
    /// What arithmetic gives for a NaN; `None` where the payload is free.
    pub(super) nan: Option<u64>,
}

pub(super) const F16: Format =
    Format { precision: 11, least: -14, bits: 16, padding: 0, nan: Some(0x7fff) };
pub(super) const BF16: Format =
    Format { precision: 8, least: -126, bits: 16, padding: 0, nan: Some(0x7fff) };
pub(super) const TF32: Format =
    Format { precision: 11, least: -126, bits: 19, padding: 13, nan: Some(0x7fff_ffff) };
pub(super) const F32: Format =
    Format { precision: 24, least: -126, bits: 32, padding: 0, nan: Some(0x7fff_ffff) };
pub(super) const F64: Format =
    Format { precision: 53, least: -1022, bits: 64, padding: 0, nan: None };

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rounding {
    Even,
    TiesAway,
    Zero,
    Down,
    Up,
}

/// A value: `magnitude * 2^exponent`, plus less than one unit more where `rest`.
#[derive(Clone, Debug)]
pub(super) enum Number {
    Nan,
    Infinite { negative: bool },
    Finite { negative: bool, magnitude: BigUint, exponent: i64, rest: bool },
}

pub(super) fn finite(negative: bool, magnitude: impl Into<BigUint>, exponent: i64) -> Number {
    Number::Finite { negative, magnitude: magnitude.into(), exponent, rest: false }
}

fn zero() -> BigUint {
    BigUint::ZERO
}

impl Format {
    fn lowest(self) -> i64 {
        self.least - self.precision + 1
    }
    fn infinity(self) -> u64 {
        let exponent_bits = self.bits - self.precision;
        ((1 << exponent_bits) - 1) << (self.precision - 1)
    }

    pub(super) fn decode(self, bits: u64) -> Number {
        let bits = bits >> self.padding;
        let magnitude = bits & ((1 << (self.bits - 1)) - 1);
        let negative = bits >> (self.bits - 1) & 1 != 0;
        let fraction = magnitude & ((1 << (self.precision - 1)) - 1);
        let biased = (magnitude >> (self.precision - 1)) as i64;
        match magnitude.cmp(&self.infinity()) {
            Ordering::Greater => Number::Nan,
            Ordering::Equal => Number::Infinite { negative },
            Ordering::Less if biased == 0 => finite(negative, fraction, self.lowest()),
            Ordering::Less => {
                finite(negative, fraction | 1 << (self.precision - 1), self.lowest() + biased - 1)
            }
        }
    }

    /// The encoding of the rounded number; all ones for a NaN.
    pub(super) fn encode(self, number: &Number, rounding: Rounding) -> u64 {
        let (negative, magnitude) = match number {
            Number::Nan => return self.nan.unwrap_or(u64::MAX),
            Number::Infinite { negative } => (*negative, self.infinity()),
            Number::Finite { negative, .. } => (*negative, self.encode_magnitude(number, rounding)),
        };
        (magnitude | u64::from(negative) << (self.bits - 1)) << self.padding
    }

    fn encode_magnitude(self, number: &Number, rounding: Rounding) -> u64 {
        let Number::Finite { negative, magnitude, exponent, rest } = number else { unreachable!() };
        if *magnitude == zero() && !rest {
            return 0;
        }
        let width = magnitude.bits() as i64;
        let lowest = (exponent + width - self.precision).max(self.lowest());
        let shift = lowest - exponent;
        assert!(shift > 0 || !rest, "too few digits to round");
        let (mut kept, lost, half) = if shift <= 0 {
            (magnitude << -shift, zero(), BigUint::from(1u8))
        } else {
            let kept = magnitude >> shift;
            (kept.clone(), magnitude - (kept << shift), BigUint::from(1u8) << (shift - 1))
        };
        let tie = lost.cmp(&half).then(if *rest { Ordering::Greater } else { Ordering::Equal });
        let inexact = lost != zero() || *rest;
        let up = match rounding {
            Rounding::Even => tie.is_gt() || tie.is_eq() && kept.bit(0),
            Rounding::TiesAway => tie.is_ge(),
            Rounding::Zero => false,
            Rounding::Down => inexact && *negative,
            Rounding::Up => inexact && !*negative,
        };
        kept += u8::from(up);
        let encoded =
            (BigUint::from((lowest - self.lowest()) as u64) << (self.precision - 1)) + kept;
        if encoded < BigUint::from(self.infinity()) {
            return encoded.try_into().unwrap();
        }
        let to_infinity = match rounding {
            Rounding::Even | Rounding::TiesAway => true,
            Rounding::Zero => false,
            Rounding::Down => *negative,
            Rounding::Up => !negative,
        };
        self.infinity() - u64::from(!to_infinity)
    }

    /// Whether `bits` is not normal, infinite or NaN.
    pub(super) fn is_tiny(self, bits: u64) -> bool {
        bits & self.infinity() == 0
    }
    pub(super) fn sign(self) -> u64 {
        1 << (self.bits - 1)
    }
    pub(super) fn is_nan(self, bits: u64) -> bool {
        matches!(self.decode(bits), Number::Nan)
    }
}

impl Number {
    pub(super) fn of_integer(x: &BigInt) -> Self {
        finite(x.sign() == Sign::Minus, x.magnitude().clone(), 0)
    }
    pub(super) fn negative(&self) -> bool {
        match self {
            Number::Nan => false,
            Number::Infinite { negative } | Number::Finite { negative, .. } => *negative,
        }
    }
    pub(super) fn is_nan(&self) -> bool {
        matches!(self, Number::Nan)
    }
    fn is_infinite(&self) -> bool {
        matches!(self, Number::Infinite { .. })
    }
    pub(super) fn is_zero(&self) -> bool {
        matches!(self, Number::Finite { magnitude, .. } if *magnitude == zero())
    }
    pub(super) fn with_sign(mut self, sign: bool) -> Self {
        if let Number::Infinite { negative } | Number::Finite { negative, .. } = &mut self {
            *negative = sign;
        }
        self
    }
    fn negate(self) -> Self {
        let sign = !self.negative();
        self.with_sign(sign)
    }
    fn signed(&self, at: i64) -> BigInt {
        let Number::Finite { negative, magnitude, exponent, .. } = self else { unreachable!() };
        let sign = if *negative { Sign::Minus } else { Sign::Plus };
        BigInt::from_biguint(sign, magnitude << (exponent - at))
    }
    fn exponent(&self) -> i64 {
        let Number::Finite { exponent, .. } = self else { unreachable!() };
        *exponent
    }

    pub(super) fn add(&self, other: &Self, rounding: Rounding) -> Self {
        match (self, other) {
            (Number::Nan, _) | (_, Number::Nan) => Number::Nan,
            (Number::Infinite { negative: a }, Number::Infinite { negative: b }) if a != b => {
                Number::Nan
            }
            (Number::Infinite { .. }, _) => self.clone(),
            (_, Number::Infinite { .. }) => other.clone(),
            _ => {
                let at = self.exponent().min(other.exponent());
                let sum = self.signed(at) + other.signed(at);
                let cancelled = if self.negative() == other.negative() {
                    self.negative()
                } else {
                    rounding == Rounding::Down
                };
                let negative =
                    if sum.sign() == Sign::NoSign { cancelled } else { sum.sign() == Sign::Minus };
                finite(negative, sum.magnitude().clone(), at)
            }
        }
    }
    pub(super) fn sub(&self, other: &Self, rounding: Rounding) -> Self {
        self.add(&other.clone().negate(), rounding)
    }

    pub(super) fn mul(&self, other: &Self) -> Self {
        let negative = self.negative() != other.negative();
        match (self, other) {
            (Number::Nan, _) | (_, Number::Nan) => Number::Nan,
            (
                Number::Finite { magnitude: a, exponent: x, .. },
                Number::Finite { magnitude: b, exponent: y, .. },
            ) => finite(negative, a * b, x + y),
            _ if self.is_zero() || other.is_zero() => Number::Nan,
            _ => Number::Infinite { negative },
        }
    }

    pub(super) fn div(&self, other: &Self) -> Self {
        let negative = self.negative() != other.negative();
        if self.is_nan()
            || other.is_nan()
            || self.is_zero() && other.is_zero()
            || self.is_infinite() && other.is_infinite()
        {
            return Number::Nan;
        }
        if self.is_infinite() || other.is_zero() {
            return Number::Infinite { negative };
        }
        if other.is_infinite() || self.is_zero() {
            return finite(negative, 0u8, 0);
        }
        let (
            Number::Finite { magnitude: a, exponent: x, .. },
            Number::Finite { magnitude: b, exponent: y, .. },
        ) = (self, other)
        else {
            unreachable!()
        };
        let shift = 200;
        let numerator = a << shift;
        let quotient = &numerator / b;
        let rest = &quotient * b != numerator;
        Number::Finite { negative, magnitude: quotient, exponent: x - y - shift, rest }
    }

    pub(super) fn sqrt(&self) -> Self {
        match self {
            Number::Finite { negative: false, magnitude, exponent, .. } if *magnitude != zero() => {
                let shift = 200 + (exponent & 1);
                let wide = magnitude << shift;
                let root = wide.sqrt();
                let rest = &root * &root != wide;
                Number::Finite {
                    negative: false,
                    magnitude: root,
                    exponent: (exponent - shift) / 2,
                    rest,
                }
            }
            Number::Infinite { negative: false } => self.clone(),
            _ if self.is_zero() => self.clone(),
            _ => Number::Nan,
        }
    }

    /// Order of two numbers, `None` with a NaN.
    pub(super) fn order(&self, other: &Self) -> Option<Ordering> {
        let rank = |x: &Self| match x {
            Number::Infinite { negative: true } => -1,
            Number::Infinite { negative: false } => 1,
            _ => 0,
        };
        if self.is_nan() || other.is_nan() {
            return None;
        }
        if rank(self) != 0 || rank(other) != 0 {
            return Some(rank(self).cmp(&rank(other)));
        }
        let at = self.exponent().min(other.exponent());
        Some(self.signed(at).cmp(&other.signed(at)))
    }

    /// The integral value, as `direction` rounds; for finite numbers.
    pub(super) fn integral(&self, rounding: Rounding) -> Option<BigInt> {
        let Number::Finite { negative, magnitude, exponent, .. } = self else { return None };
        let (whole, lost, half) = if *exponent >= 0 {
            (magnitude << *exponent, zero(), BigUint::from(1u8))
        } else {
            let whole = magnitude >> -exponent;
            (whole.clone(), magnitude - (whole << -exponent), BigUint::from(1u8) << (-exponent - 1))
        };
        let up = match rounding {
            Rounding::Even => lost > half || lost == half && whole.bit(0),
            Rounding::TiesAway => lost >= half,
            Rounding::Zero => false,
            Rounding::Down => lost != zero() && *negative,
            Rounding::Up => lost != zero() && !negative,
        };
        let sign = if *negative { Sign::Minus } else { Sign::Plus };
        Some(BigInt::from_biguint(sign, whole + u8::from(up)))
    }
}
