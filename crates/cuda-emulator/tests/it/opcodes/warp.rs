use half::f16;

use super::{BLOCK, Kernel, WARP, by_thread, check, check_in_process, exact};
use crate::common::{case::Case, compile::Flavour};

const KERNELS: [Kernel; 8] = [
    ("votes", votes),
    ("shuffles", shuffles),
    ("branches", branches),
    ("jump_table", jump_table),
    ("barriers", barriers),
    ("matrices", matrices),
    ("volatile_shared", volatile_shared),
    ("special", special),
];

#[test]
fn optimised() {
    check("opcodes_warp", Flavour::Optimised, cases);
}

#[test]
fn optimised_in_process() {
    check_in_process("opcodes_warp", Flavour::Optimised, cases);
}

#[test]
fn debug_in_process() {
    check_in_process("opcodes_warp", Flavour::Debug, cases);
}

#[test]
fn debug() {
    check("opcodes_warp", Flavour::Debug, cases);
}

fn cases(inputs: &[u32]) -> Vec<Case> {
    exact(&KERNELS, inputs)
}

/// The words of the warp of thread `t`.
fn warp(inputs: &[u32], t: usize) -> &[u32] {
    &inputs[t / WARP * WARP..][..WARP]
}

/// Bit i is whether lane i's word has the property.
fn ballot(words: &[u32], property: impl Fn(u32) -> bool) -> u32 {
    words.iter().enumerate().fold(0, |mask, (lane, x)| mask | u32::from(property(*x)) << lane)
}

fn votes(inputs: &[u32]) -> Vec<u32> {
    by_thread(|t, v| {
        let (words, x, lane) = (warp(inputs, t), inputs[t], t % WARP);
        let fold = |f: fn(u32, u32) -> u32, g: fn(u32) -> u32| {
            words.iter().map(|w| g(*w)).reduce(f).expect("a warp has lanes")
        };
        v.word(ballot(words, |x| x & 1 != 0));
        v.flag(words.iter().any(|x| x % 32 == 0));
        v.flag(words.iter().all(|x| x % 32 != 0));
        v.word(ballot(words, |w| w % 4 == x % 4));
        let same = words.iter().all(|w| w >> 31 == x >> 31);
        v.word(if same { u32::MAX } else { 0 });
        v.flag(same);
        v.word(fold(u32::wrapping_add, |x| x));
        v.word(fold(u32::min, |x| x));
        v.word(fold(|a, b| (a as i32).max(b as i32) as u32, |x| x));
        v.word(fold(|a, b| a & b, |x| x | 0xff));
        v.word(fold(|a, b| a | b, |x| x & 0xff00));
        v.word(fold(|a, b| a ^ b, |x| x));
        let part = if lane < 20 { 0xf_ffff } else { 0xfff0_0000 };
        v.word(ballot(words, |x| x & 2 != 0) & part);
        v.word(part);
        let members = words.iter().enumerate().filter(|(lane, _)| part >> lane & 1 != 0);
        v.word(members.map(|(_, x)| x & 0xff).sum());
    })
}

fn shuffles(inputs: &[u32]) -> Vec<u32> {
    by_thread(|t, v| {
        let (words, lane) = (warp(inputs, t), t % WARP);
        let from = |source: usize, allowed: bool| words[if allowed { source } else { lane }];
        v.word(words[words[lane] as usize % WARP]);
        v.word(from(lane.wrapping_sub(3), lane >= 3));
        v.word(from(lane + 5, lane + 5 < WARP));
        v.word(words[lane ^ 9]);
        v.word(words[lane / 8 * 8 + 5]);
        v.word(from(lane.wrapping_sub(2), lane % 16 >= 2));
        v.word(from(lane + 6, lane % 16 + 6 < 16));
        v.word(from(lane ^ 0x14, lane >= 16));
        v.long(u64::from(words[lane ^ 1]).wrapping_mul(0x1_0000_0001));
        v.double(f64::from(from(lane + 1, lane + 1 < WARP)));
        v.flag(lane >= 4);
    })
}

/// The first value of `branches`, and the one after the nested branches.
fn branch_values(x: u32, lane: usize) -> (u32, u32) {
    let v = match x % 11 {
        0 => x.wrapping_add(1),
        1 => x.wrapping_mul(3),
        2 => x ^ 0x5555,
        3 => x >> 3,
        4 => !x,
        5 => x / 5,
        6 => x.count_ones(),
        7 => x % 9,
        8 => x.reverse_bits().wrapping_add(9),
        9 => x.wrapping_add(9),
        _ => 42,
    };
    let more = match (lane % 3, x & 8) {
        (0, 0) => 200,
        (0, _) => 100,
        (1, _) => 300,
        _ => 0,
    };
    (v, v.wrapping_add(more))
}

fn branches(inputs: &[u32]) -> Vec<u32> {
    by_thread(|t, v| {
        let (words, x, lane) = (warp(inputs, t), inputs[t], t % WARP);
        let (first, last) = branch_values(x, lane);
        v.word(first);
        let (mut n, mut steps) = (x % 100 + 1, 0);
        while n != 1 {
            n = if n.is_multiple_of(2) { n / 2 } else { 3 * n + 1 };
            steps += 1;
        }
        v.word(steps);
        v.word(last);
        let lasts: Vec<u32> =
            words.iter().enumerate().map(|(lane, x)| branch_values(*x, lane).1).collect();
        v.word(ballot(&lasts, |last| last & 1 != 0));
        if x % 7 != 0 {
            v.word(1);
        }
    })
}

fn jump_table(inputs: &[u32]) -> Vec<u32> {
    let value = |x: u32| match x % 4 {
        0 => x.wrapping_add(1),
        1 => x.wrapping_sub(1),
        2 => x << 1,
        _ => x >> 1,
    };
    by_thread(|t, v| {
        v.word(value(inputs[t]));
        v.word(ballot(warp(inputs, t), |x| value(x) & 1 != 0));
    })
}

fn barriers(inputs: &[u32]) -> Vec<u32> {
    by_thread(|t, v| {
        let block = &inputs[t / BLOCK * BLOCK..][..BLOCK];
        v.word(block.iter().filter(|x| *x & 1 != 0).count() as u32);
        v.flag(block.iter().all(|x| *x != 0));
        v.flag(block.iter().any(|x| x % 64 == 0));
        let sent = block[WARP + ((t % WARP) ^ 1)];
        v.word(if t % BLOCK < WARP { sent } else { sent.wrapping_add(1) });
    })
}

/// Elements `c[0..4]` of the product with `depth` terms that a lane holds.
fn fragment(lane: usize, depth: usize, start: u32) -> [f32; 4] {
    let a = |row: usize, k: usize| ((row * 3 + k * 5) % 7) as f32 - 3.0;
    let b = |k: usize, column: usize| ((k * 2 + column * 3) % 5) as f32 - 2.0;
    [0, 1, 2, 3].map(|i| {
        let (row, column) = (lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2);
        (0..depth).fold(start as f32, |sum, k| sum + a(row, k) * b(k, column))
    })
}

fn matrices(inputs: &[u32]) -> Vec<u32> {
    by_thread(|t, v| {
        let of_depth = |depth| fragment(t % WARP, depth, inputs[0] % 3);
        v.floats(of_depth(16));
        v.floats(of_depth(8));
        let c = of_depth(16).map(|c| f16::from_f32(c).to_bits());
        v.pair([c[0], c[1]]);
        v.pair([c[2], c[3]]);
        v.floats(of_depth(8));
    })
}

fn volatile_shared(inputs: &[u32]) -> Vec<u32> {
    by_thread(|t, v| {
        v.word(inputs[t ^ 1]);
        v.word(inputs[t].wrapping_add(1));
    })
}

fn special(inputs: &[u32]) -> Vec<u32> {
    by_thread(|t, v| {
        let lane = (t % WARP) as u32;
        for _ in ["clock64 advances", "clock advances", "time does not go back"] {
            v.flag(true);
        }
        v.word(lane);
        v.word((1 << lane) - 1);
        v.word(u32::MAX << lane);
        v.flag(true); // at least the two warps of the block
        v.word(2 * 100 + 64);
        v.word(32);
        v.word(inputs[t]);
    })
}
