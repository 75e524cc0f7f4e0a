//! Moves, selections, and the pseudo opcodes `packN` and `unpackN` that stand for `mov` from or to
//! a vector of registers; the first element is the lowest.

use super::flush;
use crate::alu::table::{Table, op};

pub(super) fn add(t: &mut Table) {
    copies(t);
    selections(t);
    vectors(t);
}

fn copies(t: &mut Table) {
    op!(t, Move, "mov(.b8|.u8|.s8)", (x: u8) -> (u8) { x });
    op!(t, Move, "mov(.b16|.u16|.s16|.f16|.bf16)", (x: u16) -> (u16) { x });
    op!(t, Move, "mov(.b32|.u32|.s32|.f32|.f16x2|.bf16x2)", (x: u32) -> (u32) { x });
    op!(t, Move, "mov(.b64|.u64|.s64|.f64)", (x: u64) -> (u64) { x });
    op!(t, Predicate, "mov.pred", (x: bool) -> (bool) { x });
}

fn selections(t: &mut Table) {
    op!(t, Move, "selp(.b16|.u16|.s16|.f16|.bf16)", (x: u16, y: u16, p: bool) -> (u16) { if p { x } else { y } });
    op!(t, Move, "selp(.b32|.u32|.s32|.f32|.f16x2|.bf16x2)", (x: u32, y: u32, p: bool) -> (u32) { if p { x } else { y } });
    op!(t, Move, "selp(.b64|.u64|.s64|.f64)", (x: u64, y: u64, p: bool) -> (u64) { if p { x } else { y } });
    macro_rules! slct {
        ($ty:ty, $types:literal) => {
            op!(t, Move, concat!("slct", $types, ".s32"), (x: $ty, y: $ty, by: i32) -> ($ty) { if by >= 0 { x } else { y } });
            op!(t, Move, concat!("slct", $types, ".f32"), (x: $ty, y: $ty, by: f32) -> ($ty) { if by >= 0.0 { x } else { y } });
            op!(t, Move, concat!("slct.ftz", $types, ".f32"), (x: $ty, y: $ty, by: f32) -> ($ty) {
                if flush(by) >= 0.0 { x } else { y }
            });
        };
    }
    slct!(u16, "(.b16|.u16|.s16)");
    slct!(u32, "(.b32|.u32|.s32|.f32)");
    slct!(u64, "(.b64|.u64|.s64|.f64)");
}

fn vectors(t: &mut Table) {
    op!(t, Move, "pack2.b16", (x: u8, y: u8) -> (u16) { u16::from_le_bytes([x, y]) });
    op!(t, Move, "pack2.b32", (x: u16, y: u16) -> (u32) { u32::from(x) | u32::from(y) << 16 });
    op!(t, Move, "pack2.b64", (x: u32, y: u32) -> (u64) { u64::from(x) | u64::from(y) << 32 });
    op!(t, Move, "pack4.b32", (x: u8, y: u8, z: u8, w: u8) -> (u32) { u32::from_le_bytes([x, y, z, w]) });
    op!(t, Move, "pack4.b64", (x: u16, y: u16, z: u16, w: u16) -> (u64) {
        u64::from(x) | u64::from(y) << 16 | u64::from(z) << 32 | u64::from(w) << 48
    });
    op!(t, Move, "unpack2.b16", (x: u16) -> (u8, u8) { (x as u8, (x >> 8) as u8) });
    op!(t, Move, "unpack2.b32", (x: u32) -> (u16, u16) { (x as u16, (x >> 16) as u16) });
    op!(t, Move, "unpack2.b64", (x: u64) -> (u32, u32) { (x as u32, (x >> 32) as u32) });
    op!(t, Move, "unpack4.b32", (x: u32) -> (u8, u8, u8, u8) {
        (x as u8, (x >> 8) as u8, (x >> 16) as u8, (x >> 24) as u8)
    });
    op!(t, Move, "unpack4.b64", (x: u64) -> (u16, u16, u16, u16) {
        (x as u16, (x >> 16) as u16, (x >> 32) as u16, (x >> 48) as u16)
    });
}
