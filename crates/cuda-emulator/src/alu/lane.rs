//! The types an operation may take and give, and how each lies in a register.

use half::{bf16, f16};

use super::registers::{Class, Lanes32, Lanes64, Registers, WARP};

/// Takes the register indices of an instruction one by one.
pub(super) struct Indices<'a>(pub(super) &'a [u16]);

impl Indices<'_> {
    #[inline(always)]
    fn next(&mut self) -> usize {
        let (first, rest) = self.0.split_first().expect("an operation has at most 8 operands");
        self.0 = rest;
        usize::from(*first)
    }
}

/// A value of one lane.
pub(super) trait Lane: Copy {
    /// Where it lives; `None` for the carry flag, which no operand names.
    const CLASS: Option<Class>;
    /// A register seen as 32 such values.
    type View<'a>: Copy;
    /// 32 results before they are written.
    type Column;

    fn view<'a>(registers: &'a Registers, at: &mut Indices) -> Self::View<'a>;
    fn get(view: Self::View<'_>, lane: usize) -> Self;
    fn column() -> Self::Column;
    fn set(self, column: &mut Self::Column, lane: usize);
    fn commit(column: &Self::Column, registers: &mut Registers, at: &mut Indices, mask: u32);
}

/// All ones in the lanes that a byte of a mask chooses. Read from memory, because known masks make
/// the compiler use masked stores, which are slow on some processors.
static CHOSEN: [[i32; 8]; 256] = {
    let mut chosen = [[0; 8]; 256];
    let mut i = 0;
    while i < 256 * 8 {
        chosen[i / 8][i % 8] = -(((i / 8) >> (i % 8) & 1) as i32);
        i += 1;
    }
    chosen
};

/// Writes the lanes of `mask`, without a branch a lane.
macro_rules! commit {
    ($name:ident, $lanes:ty, $bits:ty) => {
        #[inline(always)]
        fn $name(column: &[$bits; WARP], to: &mut $lanes, mask: u32) {
            if mask == u32::MAX {
                to.0 = *column;
                return;
            }
            for (group, byte) in mask.to_le_bytes().into_iter().enumerate() {
                for (i, &chosen) in CHOSEN[usize::from(byte)].iter().enumerate() {
                    let lane = 8 * group + i;
                    to.0[lane] ^= (to.0[lane] ^ column[lane]) & chosen as $bits;
                }
            }
        }
    };
}
commit!(commit32, Lanes32, u32);
commit!(commit64, Lanes64, u64);

macro_rules! lane {
    ($file:ident $class:ident $bits:ty, $commit:ident: $($ty:ty, $from:expr, $to:expr;)*) => {$(
        impl Lane for $ty {
            const CLASS: Option<Class> = Some(Class::$class);
            type View<'a> = &'a [$bits; WARP];
            type Column = [$bits; WARP];

            #[inline(always)]
            fn view<'a>(registers: &'a Registers, at: &mut Indices) -> Self::View<'a> {
                &registers.$file[at.next()].0
            }
            #[inline(always)]
            fn get(view: Self::View<'_>, lane: usize) -> Self {
                const FROM: fn($bits) -> $ty = $from;
                FROM(view[lane])
            }
            #[inline(always)]
            fn column() -> Self::Column {
                [0; WARP]
            }
            #[inline(always)]
            fn set(self, column: &mut Self::Column, lane: usize) {
                const TO: fn($ty) -> $bits = $to;
                column[lane] = TO(self);
            }
            #[inline(always)]
            fn commit(column: &Self::Column, registers: &mut Registers, at: &mut Indices, mask: u32) {
                $commit(column, &mut registers.$file[at.next()], mask);
            }
        }
    )*};
}

lane! { w W u32, commit32:
    u8, |b| b as u8, u32::from;
    i8, |b| b as i8, |v| u32::from(v as u8);
    u16, |b| b as u16, u32::from;
    i16, |b| b as i16, |v| u32::from(v as u16);
    u32, |b| b, |v| v;
    i32, |b| b as i32, |v| v as u32;
    f32, f32::from_bits, f32::to_bits;
    f16, |b| f16::from_bits(b as u16), |v| u32::from(v.to_bits());
    bf16, |b| bf16::from_bits(b as u16), |v| u32::from(v.to_bits());
    [i16; 2], |b| [b as i16, (b >> 16) as i16], |v| u32::from(v[0] as u16) | u32::from(v[1] as u16) << 16;
    [u16; 2], |b| [b as u16, (b >> 16) as u16], |v| u32::from(v[0]) | u32::from(v[1]) << 16;
    [f16; 2], |b| [f16::from_bits(b as u16), f16::from_bits((b >> 16) as u16)],
        |v| u32::from(v[0].to_bits()) | u32::from(v[1].to_bits()) << 16;
    [bf16; 2], |b| [bf16::from_bits(b as u16), bf16::from_bits((b >> 16) as u16)],
        |v| u32::from(v[0].to_bits()) | u32::from(v[1].to_bits()) << 16;
}

lane! { d D u64, commit64:
    u64, |b| b, |v| v;
    i64, |b| b as i64, |v| v as u64;
    f64, f64::from_bits, f64::to_bits;
}

impl Lane for bool {
    const CLASS: Option<Class> = Some(Class::P);
    type View<'a> = u32;
    type Column = u32;

    #[inline(always)]
    fn view(registers: &Registers, at: &mut Indices) -> u32 {
        registers.p[at.next()]
    }
    #[inline(always)]
    fn get(view: u32, lane: usize) -> Self {
        view >> lane & 1 != 0
    }
    #[inline(always)]
    fn column() -> u32 {
        0
    }
    #[inline(always)]
    fn set(self, column: &mut u32, lane: usize) {
        *column |= u32::from(self) << lane;
    }
    #[inline(always)]
    fn commit(column: &u32, registers: &mut Registers, at: &mut Indices, mask: u32) {
        let to = &mut registers.p[at.next()];
        *to = *to & !mask | column & mask;
    }
}

/// The carry flag.
#[derive(Clone, Copy)]
pub(super) struct Carry(pub(super) bool);

impl Lane for Carry {
    const CLASS: Option<Class> = None;
    type View<'a> = u32;
    type Column = u32;

    #[inline(always)]
    fn view(registers: &Registers, _: &mut Indices) -> u32 {
        registers.carry
    }
    #[inline(always)]
    fn get(view: u32, lane: usize) -> Self {
        Self(view >> lane & 1 != 0)
    }
    #[inline(always)]
    fn column() -> u32 {
        0
    }
    #[inline(always)]
    fn set(self, column: &mut u32, lane: usize) {
        *column |= u32::from(self.0) << lane;
    }
    #[inline(always)]
    fn commit(column: &u32, registers: &mut Registers, _: &mut Indices, mask: u32) {
        registers.carry = registers.carry & !mask | column & mask;
    }
}
