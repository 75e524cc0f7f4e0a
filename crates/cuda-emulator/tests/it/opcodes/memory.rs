use half::f16;

use super::{
    BLOCK, Kernel, THREADS, UNTOUCHED, Values, by_thread, case, check, check_in_process, exact,
};
use crate::common::{case::Case, compile::Flavour};

const KERNELS: [Kernel; 7] = [
    ("atomics_shared", atomics_shared),
    ("local_array", local_array),
    ("calls", calls),
    ("globals", globals),
    ("generic_pointers", generic_pointers),
    ("vectors", vectors),
    ("async_copies", async_copies),
];

#[test]
fn optimised() {
    check("opcodes_memory", Flavour::Optimised, cases);
}

#[test]
fn optimised_in_process() {
    check_in_process("opcodes_memory", Flavour::Optimised, cases);
}

#[test]
fn debug_in_process() {
    check_in_process("opcodes_memory", Flavour::Debug, cases);
}

#[test]
fn debug() {
    check("opcodes_memory", Flavour::Debug, cases);
}

fn cases(inputs: &[u32]) -> Vec<Case> {
    let mut cases = exact(&KERNELS, inputs);
    let after = atomics_global(inputs);
    cases.push(case("atomics_global", inputs, &vec![0; after.len()], &after));
    cases
}

/// On words that are zero before.
fn atomics_global(inputs: &[u32]) -> Vec<u32> {
    let words = || inputs.iter().copied();
    let add = |f: fn(u32) -> u32| words().map(f).fold(0, u32::wrapping_add);
    let sum = |f: fn(u32) -> u32| f64::from(words().map(f).sum::<u32>());
    let two = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
    let mut v = Values::default();
    v.word(add(|x| x));
    v.word(add(u32::wrapping_neg));
    v.word(0);
    v.word(words().max().unwrap_or(0));
    v.int(words().map(|x| x as i32).min().unwrap_or(0).min(0));
    v.int(words().map(|x| x as i32).max().unwrap_or(0).max(0));
    v.word(0);
    v.word(words().fold(0, |a, x| a | x & 0xf0f));
    v.word(words().fold(0, |a, x| a ^ x));
    v.word(words().fold(0, |a, _| if a >= 99 { 0 } else { a + 1 }));
    v.word(words().fold(0, |a, _| if a == 0 || a > 77 { 77 } else { a - 1 }));
    v.float(sum(|x| x % 64) as f32);
    v.word(two(f16::from_f64(sum(|x| x % 4)).to_bits(), f16::from_f64(128.0).to_bits()));
    v.word(two(f16::from_f64(128.0).to_bits(), 0));
    v.word(BLOCK as u32);
    v.word(BLOCK as u32);
    v.word(2 * THREADS as u32);
    for word in [0, 1234, 0, 4321, 0, 0] {
        v.word(word); // exchanged, exchanged, compared and equal, compared and different
    }
    v.word(words().map(|x| x % 1000).sum::<u32>() % 1_000_003);
    for _ in 0..THREADS / 32 {
        v.word(u32::MAX);
    }
    v.word(0);
    v.word(0);
    v.word(THREADS as u32);
    v.word(0);
    v.long(words().fold(0, |a, x| a + (u64::from(x) << 8)));
    v.long(words().map(|x| u64::from(x) << 16).max().unwrap_or(0));
    v.double(words().map(f64::from).sum());
    v.long(words().fold(0, |a, x| a ^ u64::from(x).wrapping_mul(0x1_0000_0001)));
    v.long(words().map(|x| -i64::from(x)).min().unwrap_or(0) as u64);
    v.long(0x1234_5678_9abc);
    v.long(0xcba9_8765_4321);
    v.0
}

fn atomics_shared(inputs: &[u32]) -> Vec<u32> {
    by_thread(|t, v| {
        let words = || inputs[t / BLOCK * BLOCK..][..BLOCK].iter().copied();
        v.word(words().fold(0, u32::wrapping_add));
        v.word(words().max().unwrap_or(0));
        v.word(words().min().unwrap_or(0));
        v.word(words().fold(0, |a, x| a ^ x));
        v.word(BLOCK as u32 % 10);
        for kind in 0..4 {
            v.word(words().filter(|x| x % 4 == kind).fold(0, |a, x| a | 1 << (x % 32)));
        }
        for word in [77, 88, 0, 0, BLOCK as u32] {
            v.word(word);
        }
        v.float(words().map(|x| x % 64).sum::<u32>() as f32);
        v.double(words().map(f64::from).sum());
        v.long(words().map(|x| u64::from(x) << 8).sum());
    })
}

fn local_array(inputs: &[u32]) -> Vec<u32> {
    by_thread(|t, v| {
        let x = inputs[t];
        let mut items = [0, 1, 2, 3, 4, 5, 6, 7].map(|i| x >> (i * 4) & 15);
        items.sort_unstable();
        v.words(&items);
        v.word(items[x as usize % 8]);
    })
}

fn calls(inputs: &[u32]) -> Vec<u32> {
    by_thread(|t, v| {
        let x = inputs[t];
        v.word(x / 13);
        v.long(u64::from(x) * 77 % 13);
        v.word(x.wrapping_add(7 * (x % 5 + 1)));
        v.float((x % 100) as f32 * 0.25 + 6.0);
        v.float(if x.is_multiple_of(2) { 1.25 } else { 1.75 });
    })
}

fn globals(inputs: &[u32]) -> Vec<u32> {
    const PRIMES: [u32; 16] = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53];
    by_thread(|t, v| {
        let x = inputs[t] as usize;
        v.word(PRIMES[x % 16]);
        v.word(PRIMES[3]);
        v.word([10, 20, 30, 40][x % 4]);
        v.word([30, 40][x % 2]);
        v.word(0);
        v.word(inputs[t]);
        v.word(u32::from(b"text"[x % 4]));
        v.double(2.5);
    })
}

fn generic_pointers(inputs: &[u32]) -> Vec<u32> {
    by_thread(|t, v| {
        let x = inputs[t];
        let block = &inputs[t / BLOCK * BLOCK..];
        let own = [x, x.wrapping_add(1), x.wrapping_add(2), x % 3];
        let from = match x % 3 {
            0 => [0, 1, 2, 3].map(|i| inputs[i]),
            1 => [0, 1, 2, 3].map(|i| block[i] ^ 1),
            _ => own,
        };
        let weighted = from.iter().zip(1..).map(|(p, weight)| p.wrapping_mul(weight));
        v.word(weighted.fold(0, u32::wrapping_add));
        for space in 0..3 {
            v.flag(x % 3 == space);
        }
        let odd = !x.is_multiple_of(2);
        v.word(if odd { 5 } else { x });
        v.word(if odd { x ^ 1 } else { 5 });
        v.word(12);
    })
}

fn vectors(inputs: &[u32]) -> Vec<u32> {
    by_thread(|t, v| {
        let x = inputs[t];
        let four = &inputs[t / 4 * 4..][..4];
        v.word(four.iter().fold(0, |a, x| a ^ x));
        v.word(inputs[t / 2 * 2].wrapping_add(inputs[t / 2 * 2 + 1]));
        for _ in ["ldcg", "ldcs", "ldca", "ldlu", "volatile"] {
            v.word(x);
        }
        v.word(x >> 8 & 0xff);
        v.int(i32::from((x >> 16) as i16));
        for _ in ["no_allocate", "relaxed"] {
            v.word(x);
        }
        v.words(four);
        v.word(t as u32);
        v.word(x);
        v.float(if t.is_multiple_of(2) { 1.5 } else { (t - 1) as f32 });
        let byte = t % 4 * 8;
        v.word(UNTOUCHED & !(0xff << byte) | (t as u32) << byte);
    })
}

fn async_copies(inputs: &[u32]) -> Vec<u32> {
    by_thread(|t, v| {
        let from = |t: usize| &inputs[t / 4 * 4..][..4];
        let words = t % BLOCK % 5; // of four
        for i in 0..4 {
            v.word(if i < words { from(t)[i] } else { 0 });
        }
        v.word(from(t)[0]);
        v.word(from(t)[1]);
        v.word(if words % 2 == 1 { from(t)[3] } else { 0 });
        v.word(from(t ^ 32)[1]);
    })
}
