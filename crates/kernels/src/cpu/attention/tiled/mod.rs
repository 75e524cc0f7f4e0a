//! Attention on the matrix unit: bf16 operands, probabilities and gradients of scores rounded to bf16
//! before they are multiplied, f32 sums.

mod backward;
mod forward;

use std::ops::Range;

use half::bf16;

pub(super) use self::backward::Backward;
pub(super) use self::forward::Forward;
use super::layout::Layout;
use crate::cpu::amx::{BLOCK, Values};
use crate::cpu::level::has_amx;
use crate::cpu::view::FloatRef;

/// Keys of a block.
const KEYS: usize = 256;

/// The operands, if all can be multiplied on the tiles.
fn narrow_operands<'a, const N: usize>(
    layout: &Layout,
    operands: [FloatRef<'a>; N],
) -> Option<[&'a [bf16]; N]> {
    let fits = has_amx() && layout.op.head_dim.is_multiple_of(BLOCK);
    let mut narrow: [&[bf16]; N] = [&[]; N];
    for (narrow, operand) in narrow.iter_mut().zip(operands) {
        match operand {
            FloatRef::Bf16(x) if fits => *narrow = x,
            _ => return None,
        }
    }
    Some(narrow)
}

/// One head of consecutive rows of k or v.
fn key_values<'a>(
    layout: &Layout,
    x: &'a [bf16],
    rows: Range<usize>,
    kv_head: usize,
) -> Values<'a> {
    let (d, stride) = (layout.op.head_dim, layout.k_width());
    let first = (rows.start * stride + kv_head * d).min(x.len());
    Values { data: &x[first..], rows: rows.len(), cols: d, stride }
}

/// Contiguous rows of a head.
fn head_values(data: &[bf16], rows: usize, d: usize) -> Values<'_> {
    Values { data, rows, cols: d, stride: d }
}
