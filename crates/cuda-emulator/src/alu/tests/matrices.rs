//! Matrix instructions on numbers of every magnitude, in both orders, against exact sums.

use std::cmp::Ordering;

use super::{
    number::{BF16, F16, F32, Format, Number, Rounding, TF32, finite},
    values,
};
use crate::{
    alu::{Lanes32, Registers, WARP, matrix},
    exec::MatrixOrder,
};

/// Element `k` of row or column `i` of a fragment whose registers hold 8 rows.
fn element(registers: &[Lanes32], format: Format, i: usize, k: usize) -> Number {
    let per_word = if format == TF32 { 1 } else { 2 };
    let word = registers[k / (4 * per_word)].0[4 * i + k % (4 * per_word) / per_word];
    let shift = 16 * (k % per_word);
    format.decode(u64::from(word >> shift) & if per_word == 1 { 0xffff_e000 } else { 0xffff })
}

/// The accumulator's element.
fn sum_at(registers: &[Lanes32], format: Format, m: usize, n: usize) -> Number {
    let lane = 4 * (m % 8) + n / 2;
    match registers {
        [_, _] => format.decode(u64::from(registers[m / 8].0[lane] >> (16 * (n % 2))) & 0xffff),
        _ => format.decode(u64::from(registers[2 * (m / 8) + n % 2].0[lane])),
    }
}

/// The bits that the order gives for a sum onto `c`.
fn expected(c: &Number, products: &[Number], format: Format, order: MatrixOrder) -> u64 {
    let single = match order {
        MatrixOrder::Sequential => products.iter().fold(c.clone(), |sum, product| {
            F32.decode(F32.encode(&product.add(&sum, Rounding::Even), Rounding::Even))
        }),
        MatrixOrder::Truncated => {
            let exact = products.iter().fold(c.clone(), |sum, p| sum.add(p, Rounding::Even));
            let limit = finite(false, 1u8, 128);
            let overflows =
                exact.clone().with_sign(false).order(&limit).is_some_and(Ordering::is_ge);
            if overflows {
                Number::Infinite { negative: exact.negative() }
            } else {
                F32.decode(F32.encode(&exact, Rounding::Zero))
            }
        }
    };
    format.encode(&single, Rounding::Even)
}

fn check(opcode: &str, input: Format, output: Format, random: &mut values::Random, wild: bool) {
    let op = matrix::find(opcode).unwrap();
    let mut word = || {
        // Tame words have both halves near 1, so that sums round rather than overflow.
        let bits =
            if wild { values::word(random) } else { random.word() & 0x83ff_83ff | 0x3c00_3c00 };
        Lanes32([0; WARP].map(|_: u32| {
            if wild { values::word(random) } else { bits ^ random.word() & 0x83ff_83ff }
        }))
    };
    let registers = Registers { w: (0..16).map(|_| word()).collect(), ..Registers::default() };
    let index = |from: u16, count: usize| (from..from + count as u16).collect::<Vec<u16>>();
    let (d, a, b, c) = (index(0, op.d), index(4, op.a), index(8, op.b), index(10, op.c));
    for order in [MatrixOrder::Sequential, MatrixOrder::Truncated] {
        let mut after = registers.clone();
        (op.run)(&mut after, &d, &a, &b, &c, order);
        let depth = (op.flops / 256) as usize;
        let left: Vec<Vec<Lanes32>> = (0..2)
            .map(|half| registers.w[4..4 + op.a].iter().skip(half).step_by(2).copied().collect())
            .collect();
        for (m, n) in (0..16).flat_map(|m| (0..8).map(move |n| (m, n))) {
            let products: Vec<Number> = (0..depth)
                .map(|k| {
                    element(&left[m / 8], input, m % 8, k).mul(&element(
                        &registers.w[8..],
                        input,
                        n,
                        k,
                    ))
                })
                .collect();
            let want = expected(
                &sum_at(&registers.w[10..10 + op.c], output, m, n),
                &products,
                output,
                order,
            );
            let got = output.encode(&sum_at(&after.w[..op.d], output, m, n), Rounding::Even);
            let same_zero = |x: u64| if x == output.sign() { 0 } else { x };
            assert_eq!(same_zero(got), same_zero(want), "{opcode} {order:?} at {m}, {n}");
        }
    }
}

#[test]
fn sums_are_those_of_their_order() {
    let mut random = values::Random::new(2);
    for round in 0..12 {
        for k in [8, 16] {
            let opcode = |types: &str| format!("mma.sync.aligned.m16n8k{k}.row.col.{types}");
            check(&opcode("f32.bf16.bf16.f32"), BF16, F32, &mut random, round % 2 == 0);
            check(&opcode("f32.f16.f16.f32"), F16, F32, &mut random, round % 2 == 0);
            check(&opcode("f16.f16.f16.f16"), F16, F16, &mut random, round % 2 == 0);
        }
        for k in [4, 8] {
            let opcode = format!("mma.sync.aligned.m16n8k{k}.row.col.f32.tf32.tf32.f32");
            check(&opcode, TF32, F32, &mut random, round % 2 == 0);
        }
    }
}

#[test]
fn the_exact_sum_survives_cancellation() {
    // 2^100 - 2^100 + 2^-100: lost in doubles.
    let big = u32::from(half::bf16::from_f32(2.0f32.powi(50)).to_bits());
    let small = u32::from(half::bf16::from_f32(2.0f32.powi(-50)).to_bits());
    let row = [big | (big | 0x8000) << 16, small, 0, 0];
    let column = [big | big << 16, small, 0, 0];
    let lanes = |words: [u32; 4]| Lanes32(std::array::from_fn(|lane| words[lane % 4]));
    let w = vec![
        lanes([0; 4]),
        lanes([0; 4]),
        lanes([0; 4]),
        lanes([0; 4]),
        lanes(row),
        lanes(row),
        lanes(column),
    ];
    let mut registers = Registers { w, ..Registers::default() };
    let op = matrix::find("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32").unwrap();
    (op.run)(&mut registers, &[0, 1, 2, 3], &[4, 5], &[6], &[0, 1, 2, 3], MatrixOrder::Truncated);
    let want = 2.0f32.powi(-100).to_bits();
    assert!(registers.w[..4].iter().all(|lanes| lanes.0 == [want; WARP]));
}
