//! Fragments as small matrices, and the products of these.

use std::{collections::HashMap, marker::PhantomData};

use half::{bf16, f16};

use super::{MatrixOp, exact};
use crate::{
    alu::{operation::vectorized, ops::canonical, registers::Registers, sixteen::Sixteen},
    exec::MatrixOrder,
};

/// Rows of A and of the result.
const M: usize = 16;
/// Columns of B and of the result.
const N: usize = 8;
/// Most elements along k of the floating-point shapes.
pub(super) const MAX_K: usize = 16;

pub(super) type Left = [[f32; MAX_K]; M];
pub(super) type Right = [[f32; N]; MAX_K];
pub(super) type Sum = [[f32; N]; M];

/// An element type of A and B.
trait Element {
    /// Elements in a word, neighbours along k.
    const PER_WORD: usize;
    fn unpack(word: u32, i: usize) -> f32;
}

struct Half<T>(PhantomData<T>);

impl<T: Sixteen> Element for Half<T> {
    const PER_WORD: usize = 2;
    #[inline(always)]
    fn unpack(word: u32, i: usize) -> f32 {
        T::of_bits((word >> (16 * i)) as u16).widen()
    }
}

/// Single precision of which the unit reads the upper 19 bits.
struct Tf32;

impl Element for Tf32 {
    const PER_WORD: usize = 1;
    #[inline(always)]
    fn unpack(word: u32, _: usize) -> f32 {
        f32::from_bits(word & 0xffff_e000)
    }
}

/// A type of the accumulator.
trait Accumulator {
    /// Registers of its 16 x 8 values.
    const REGISTERS: usize;
    fn load(registers: &Registers, c: &[u16]) -> Sum;
    fn store(sum: &Sum, registers: &mut Registers, d: &[u16]);
}

impl Accumulator for f32 {
    const REGISTERS: usize = 4;

    #[inline(always)]
    fn load(registers: &Registers, c: &[u16]) -> Sum {
        let mut sum = [[0.0; N]; M];
        for half in 0..2 {
            let even = &registers.w[usize::from(c[2 * half])].0;
            let odd = &registers.w[usize::from(c[2 * half + 1])].0;
            for lane in 0..32 {
                let row = &mut sum[8 * half + lane / 4];
                row[2 * (lane % 4)] = f32::from_bits(even[lane]);
                row[2 * (lane % 4) + 1] = f32::from_bits(odd[lane]);
            }
        }
        sum
    }

    #[inline(always)]
    fn store(sum: &Sum, registers: &mut Registers, d: &[u16]) {
        for half in 0..2 {
            for odd in 0..2 {
                let to = &mut registers.w[usize::from(d[2 * half + odd])].0;
                for (lane, to) in to.iter_mut().enumerate() {
                    *to = canonical(sum[8 * half + lane / 4][2 * (lane % 4) + odd]).to_bits();
                }
            }
        }
    }
}

/// Summed in single precision, rounded once at the end.
impl Accumulator for f16 {
    const REGISTERS: usize = 2;

    #[inline(always)]
    fn load(registers: &Registers, c: &[u16]) -> Sum {
        let mut sum = [[0.0; N]; M];
        for half in 0..2 {
            let from = &registers.w[usize::from(c[half])].0;
            for lane in 0..32 {
                for odd in 0..2 {
                    sum[8 * half + lane / 4][2 * (lane % 4) + odd] =
                        Half::<f16>::unpack(from[lane], odd);
                }
            }
        }
        sum
    }

    #[inline(always)]
    fn store(sum: &Sum, registers: &mut Registers, d: &[u16]) {
        for half in 0..2 {
            let to = &mut registers.w[usize::from(d[half])].0;
            for (lane, to) in to.iter_mut().enumerate() {
                let value = |odd| {
                    let x = sum[8 * half + lane / 4][2 * (lane % 4) + odd];
                    u32::from(f16::nearest(x).to_bits())
                };
                *to = value(0) | value(1) << 16;
            }
        }
    }
}

/// One instruction; A has `2 * BLOCKS` registers, B has `BLOCKS`.
struct Multiply<'a, E, A, const BLOCKS: usize> {
    registers: &'a mut Registers,
    d: &'a [u16],
    a: &'a [u16],
    b: &'a [u16],
    c: &'a [u16],
    order: MatrixOrder,
    types: PhantomData<(E, A)>,
}

impl<E: Element, A: Accumulator, const BLOCKS: usize> Multiply<'_, E, A, BLOCKS> {
    const BLOCK: usize = 4 * E::PER_WORD;

    #[inline(always)]
    fn left(&self) -> Left {
        let mut left = [[0.0; MAX_K]; M];
        for i in 0..2 * BLOCKS {
            let words = &self.registers.w[usize::from(self.a[i])].0;
            for row in 0..8 {
                for k in 0..Self::BLOCK {
                    let word = words[4 * row + k / E::PER_WORD];
                    left[8 * (i % 2) + row][Self::BLOCK * (i / 2) + k] =
                        E::unpack(word, k % E::PER_WORD);
                }
            }
        }
        left
    }

    #[inline(always)]
    fn right(&self) -> Right {
        let mut right = [[0.0; N]; MAX_K];
        for i in 0..BLOCKS {
            let words = &self.registers.w[usize::from(self.b[i])].0;
            for k in 0..Self::BLOCK {
                for column in 0..N {
                    let word = words[4 * column + k / E::PER_WORD];
                    right[Self::BLOCK * i + k][column] = E::unpack(word, k % E::PER_WORD);
                }
            }
        }
        right
    }
}

impl<E: Element, A: Accumulator, const BLOCKS: usize> pulp::NullaryFnOnce
    for Multiply<'_, E, A, BLOCKS>
{
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let (left, right) = (self.left(), self.right());
        let mut sum = A::load(self.registers, self.c);
        match self.order {
            MatrixOrder::Sequential => chain(&left, &right, &mut sum, Self::BLOCK * BLOCKS),
            MatrixOrder::Truncated => exact::accumulate(&left, &right, &mut sum),
        }
        A::store(&sum, self.registers, self.d);
    }
}

/// Fused multiply-adds with k ascending. Eight rows at a time fit the vector registers.
#[inline(always)]
fn chain(left: &Left, right: &Right, sum: &mut Sum, depth: usize) {
    for half in 0..2 {
        let mut rows = [[0.0f32; N]; 8];
        rows.copy_from_slice(&sum[8 * half..8 * half + 8]);
        for k in 0..depth {
            for (row, left) in rows.iter_mut().zip(&left[8 * half..8 * half + 8]) {
                for (sum, right) in row.iter_mut().zip(&right[k]) {
                    *sum = left[k].mul_add(*right, *sum);
                }
            }
        }
        sum[8 * half..8 * half + 8].copy_from_slice(&rows);
    }
}

fn multiply<E: Element, A: Accumulator, const BLOCKS: usize>(
    registers: &mut Registers,
    d: &[u16],
    a: &[u16],
    b: &[u16],
    c: &[u16],
    order: MatrixOrder,
) {
    let types = PhantomData::<(E, A)>;
    vectorized(Multiply::<E, A, BLOCKS> { registers, d, a, b, c, order, types });
}

fn floating<E: Element, A: Accumulator, const BLOCKS: usize>() -> MatrixOp {
    let flops = 2 * M * N * 4 * E::PER_WORD * BLOCKS;
    let (c, d) = (A::REGISTERS, A::REGISTERS);
    MatrixOp { a: 2 * BLOCKS, b: BLOCKS, c, d, flops: flops as u64, run: multiply::<E, A, BLOCKS> }
}

/// Bytes with 32-bit sums that wrap.
fn bytes<const BLOCKS: usize, const SIGNED_A: bool, const SIGNED_B: bool>() -> MatrixOp {
    let run: super::MatrixRun = |registers, d, a, b, c, _| {
        let mut sum = [[0i32; N]; M];
        let word = |register: u16, lane: usize| registers.w[usize::from(register)].0[lane];
        let element = |word: u32, i: usize, signed: bool| {
            let byte = (word >> (8 * i)) as u8;
            if signed { i32::from(byte as i8) } else { i32::from(byte) }
        };
        for (row, sums) in sum.iter_mut().enumerate() {
            for (column, sum) in sums.iter_mut().enumerate() {
                let lane = 4 * (row % 8) + column / 2;
                *sum = word(c[2 * (row / 8) + column % 2], lane) as i32;
                for block in 0..BLOCKS {
                    for j in 0..16 {
                        let left = word(a[2 * block + row / 8], 4 * (row % 8) + j / 4);
                        let right = word(b[block], 4 * column + j / 4);
                        *sum = sum.wrapping_add(
                            element(left, j % 4, SIGNED_A) * element(right, j % 4, SIGNED_B),
                        );
                    }
                }
            }
        }
        for (i, &register) in d.iter().enumerate() {
            for lane in 0..32 {
                let value = sum[8 * (i / 2) + lane / 4][2 * (lane % 4) + i % 2];
                registers.w[usize::from(register)].0[lane] = value as u32;
            }
        }
    };
    let flops = 2 * M * N * 16 * BLOCKS;
    MatrixOp { a: 2 * BLOCKS, b: BLOCKS, c: 4, d: 4, flops: flops as u64, run }
}

/// Every matrix instruction by its opcode.
pub(super) fn table() -> HashMap<String, MatrixOp> {
    let mut table = HashMap::new();
    let mut add = |depth: u32, types: &str, op: MatrixOp| {
        table.insert(format!("mma.sync.aligned.m16n8k{depth}.row.col.{types}"), op);
    };
    add(16, "f32.bf16.bf16.f32", floating::<Half<bf16>, f32, 2>());
    add(8, "f32.bf16.bf16.f32", floating::<Half<bf16>, f32, 1>());
    add(16, "f32.f16.f16.f32", floating::<Half<f16>, f32, 2>());
    add(8, "f32.f16.f16.f32", floating::<Half<f16>, f32, 1>());
    add(16, "f16.f16.f16.f16", floating::<Half<f16>, f16, 2>());
    add(8, "f16.f16.f16.f16", floating::<Half<f16>, f16, 1>());
    add(8, "f32.tf32.tf32.f32", floating::<Tf32, f32, 2>());
    add(4, "f32.tf32.tf32.f32", floating::<Tf32, f32, 1>());
    add(16, "s32.s8.s8.s32", bytes::<1, true, true>());
    add(16, "s32.s8.u8.s32", bytes::<1, true, false>());
    add(16, "s32.u8.s8.s32", bytes::<1, false, true>());
    add(16, "s32.u8.u8.s32", bytes::<1, false, false>());
    add(32, "s32.s8.s8.s32", bytes::<2, true, true>());
    add(32, "s32.s8.u8.s32", bytes::<2, true, false>());
    add(32, "s32.u8.s8.s32", bytes::<2, false, true>());
    add(32, "s32.u8.u8.s32", bytes::<2, false, false>());
    table
}
