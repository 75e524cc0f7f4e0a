//! The 16-bit floating-point formats, by bit operations that vectorise.

use half::{bf16, f16};

use super::rounding::{Direction, narrow_to_odd};

/// A 16-bit format.
pub(super) trait Sixteen: Copy {
    /// The NaN that arithmetic gives.
    const NAN: Self;
    /// Exact.
    fn widen(self) -> f32;
    /// To nearest, ties to even; [`Self::NAN`] for a NaN.
    fn nearest(x: f32) -> Self;
    fn bits(self) -> u16;
    fn of_bits(bits: u16) -> Self;

    /// From a number rounded to odd, to nearest.
    #[inline(always)]
    fn from_odd(x: f64) -> Self {
        Self::nearest(narrow_to_odd(x))
    }

    /// Rounded in a direction.
    #[inline(always)]
    fn directed(x: f32, direction: Direction) -> Self {
        let near = Self::nearest(x);
        let (wide, bits) = (near.widen(), near.bits());
        let wanted = match direction {
            Direction::Zero => wide.abs() > x.abs(),
            Direction::Down => wide > x,
            Direction::Up => wide < x,
        };
        let up = match direction {
            Direction::Zero => wide < 0.0,
            Direction::Down => false,
            Direction::Up => true,
        };
        let away = (bits >> 15 != 0) != up;
        let next = if away { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
        let next = if bits << 1 == 0 { if up { 1 } else { 0x8001 } } else { next };
        Self::of_bits(if wanted { next } else { bits })
    }
}

impl Sixteen for f16 {
    const NAN: Self = f16::from_bits(0x7fff);

    #[inline(always)]
    fn widen(self) -> f32 {
        let bits = u32::from(self.to_bits());
        // The exponent's bias grows by 112, as an exact product so that subnormals come right.
        let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
        let special = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
        f32::from_bits(magnitude.to_bits() | special | (bits & 0x8000) << 16)
    }

    #[inline(always)]
    fn nearest(x: f32) -> Self {
        let sign = x.to_bits() >> 16 & 0x8000;
        let magnitude = x.to_bits() & 0x7fff_ffff;
        // Below 2^-14: adding a number whose last place is 2^-24 rounds to that place.
        let magic = f32::from_bits(0x3f00_0000);
        let small = (f32::from_bits(magnitude) + magic).to_bits().wrapping_sub(0x3f00_0000);
        let odd = magnitude >> 13 & 1;
        let large = magnitude.wrapping_sub(112 << 23).wrapping_add(0xfff + odd) >> 13;
        let finite = if magnitude < 0x3880_0000 { small } else { large };
        let bits = if magnitude >= 0x4780_0000 { 0x7c00 } else { finite };
        let bits = if magnitude > 0x7f80_0000 { 0x7fff } else { bits | sign };
        f16::from_bits(bits as u16)
    }

    #[inline(always)]
    fn bits(self) -> u16 {
        self.to_bits()
    }
    #[inline(always)]
    fn of_bits(bits: u16) -> Self {
        f16::from_bits(bits)
    }
}

impl Sixteen for bf16 {
    const NAN: Self = bf16::from_bits(0x7fff);

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn nearest(x: f32) -> Self {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        bf16::from_bits(if x.is_nan() { 0x7fff } else { rounded as u16 })
    }

    #[inline(always)]
    fn bits(self) -> u16 {
        self.to_bits()
    }
    #[inline(always)]
    fn of_bits(bits: u16) -> Self {
        bf16::from_bits(bits)
    }
}
