//! Fragment layouts as `CuTe` has them.

use std::collections::HashMap;

use cuda_emulator::{
    alu::{
        Lanes32, Registers,
        matrix::{self, ldmatrix_tile, movmatrix, stmatrix_tile},
    },
    exec::MatrixOrder,
};
use half::{bf16, f16};

/// Row and column of each lane, for each value of a fragment.
type Fragment = Vec<[(usize, usize); 32]>;

/// Fragments by shape and name.
fn table() -> HashMap<(String, String), Fragment> {
    let mut table: HashMap<_, Fragment> = HashMap::new();
    for line in include_str!("fragment_layouts.txt").lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let place = |lane: usize| {
            let (row, column) = words[3 + lane].split_once('.').unwrap();
            (row.parse().unwrap(), column.parse().unwrap())
        };
        let fragment = table.entry((words[0].to_owned(), words[1].to_owned())).or_default();
        assert_eq!(words[2].parse(), Ok(fragment.len()));
        fragment.push(std::array::from_fn(place));
    }
    table
}

/// An element type: bits and encoding of a small integer.
#[derive(Clone, Copy)]
struct Element {
    bits: usize,
    encode: fn(i32) -> u32,
}

const BF16: Element =
    Element { bits: 16, encode: |x| u32::from(bf16::from_f32(x as f32).to_bits()) };
const F16: Element = Element { bits: 16, encode: |x| u32::from(f16::from_f32(x as f32).to_bits()) };
const F32: Element = Element { bits: 32, encode: |x| (x as f32).to_bits() };
const S32: Element = Element { bits: 32, encode: |x| x as u32 };
const S8: Element = Element { bits: 8, encode: |x| u32::from(x as u8) };

/// Small integers that differ by place and seed.
fn value(seed: usize, row: usize, column: usize) -> i32 {
    let mixed = (seed * 7919 + row * 131 + column * 31 + 17).wrapping_mul(2_654_435_761) >> 9;
    (mixed % 7) as i32 - if seed % 8 == 7 { 0 } else { 3 }
}

fn pack(fragment: &Fragment, element: Element, at: impl Fn(usize, usize) -> i32) -> Vec<Lanes32> {
    let per_word = 32 / element.bits;
    fragment
        .chunks(per_word)
        .map(|values| {
            Lanes32(std::array::from_fn(|lane| {
                let encoded = values
                    .iter()
                    .map(|places| (element.encode)(at(places[lane].0, places[lane].1)));
                encoded.rev().fold(0, |word, bits| (u64::from(word) << element.bits) as u32 | bits)
            }))
        })
        .collect()
}

fn check(shape: &str, types: &str, input: Element, sum: Element, order: MatrixOrder, seed: usize) {
    let table = table();
    let fragment = |name: &str| &table[&(shape.to_owned(), name.to_owned())];
    let (size, _) = shape.split_once('.').unwrap();
    let depth: usize = size.rsplit('k').next().unwrap().parse().unwrap();
    let a = pack(fragment("A"), input, |m, k| value(seed, m, k));
    let b = pack(fragment("B"), input, |k, n| value(seed + 1, n, k));
    let c = pack(fragment("C"), sum, |m, n| value(seed + 2, m, n));
    let want = pack(fragment("C"), sum, |m, n| {
        let products = (0..depth).map(|k| value(seed, m, k) * value(seed + 1, n, k));
        value(seed + 2, m, n) + products.sum::<i32>()
    });
    let opcode = format!("mma.sync.aligned.{size}.row.col.{types}");
    let op = matrix::find(&opcode).unwrap_or_else(|| panic!("{opcode} is missing"));
    assert_eq!((op.a, op.b, op.c, op.d), (a.len(), b.len(), c.len(), want.len()), "{opcode}");
    assert_eq!(op.flops, 2 * 16 * 8 * depth as u64, "{opcode}");
    let first = [0, op.d, op.d + op.a, op.d + op.a + op.b, op.d + op.a + op.b + op.c];
    let indices: Vec<Vec<u16>> =
        first.windows(2).map(|range| (range[0] as u16..range[1] as u16).collect()).collect();
    let w = [vec![Lanes32([u32::MAX; 32]); op.d], a, b, c].concat();
    let mut registers = Registers { w, ..Registers::default() };
    (op.run)(&mut registers, &indices[0], &indices[1], &indices[2], &indices[3], order);
    assert!(registers.w[..op.d] == want[..], "{opcode} {order:?}");
    // In place, as kernels accumulate.
    (op.run)(&mut registers, &indices[3], &indices[1], &indices[2], &indices[3], order);
    assert!(registers.w[first[3]..] == want[..], "{opcode} {order:?} in place");
}

#[test]
fn mma_takes_and_gives_fragments_as_laid_out() {
    for seed in 0..5 {
        for order in [MatrixOrder::Sequential, MatrixOrder::Truncated] {
            check("m16n8k16.bf16", "f32.bf16.bf16.f32", BF16, F32, order, seed);
            check("m16n8k8.bf16", "f32.bf16.bf16.f32", BF16, F32, order, seed);
            check("m16n8k16.f16", "f32.f16.f16.f32", F16, F32, order, seed);
            check("m16n8k8.f16", "f32.f16.f16.f32", F16, F32, order, seed);
            check("m16n8k16.f16", "f16.f16.f16.f16", F16, F16, order, seed);
            check("m16n8k8.f16", "f16.f16.f16.f16", F16, F16, order, seed);
            check("m16n8k8.tf32", "f32.tf32.tf32.f32", F32, F32, order, seed);
            check("m16n8k4.tf32", "f32.tf32.tf32.f32", F32, F32, order, seed);
            check("m16n8k16.s8", "s32.s8.s8.s32", S8, S32, order, seed);
            check("m16n8k32.s8", "s32.s8.s8.s32", S8, S32, order, seed);
        }
    }
}

#[test]
fn every_matrix_instruction_has_a_layout_test() {
    let source = include_str!("layouts.rs");
    for (opcode, _) in matrix::entries() {
        // Unsigned bytes lie as signed ones do; their signs have a test of their own.
        let types = opcode.rsplit("col.").next().unwrap().replace("u8", "s8");
        let size = opcode.split('.').nth(3).unwrap();
        let tested = source.lines().any(|line| {
            line.contains(&format!("check(\"{size}.")) && line.contains(&format!("\"{types}\""))
        });
        assert!(tested, "{opcode}");
    }
}

#[test]
fn bytes_are_signed_or_not_as_the_opcode_says() {
    for (types, product) in [("s8.s8", 1), ("s8.u8", -255), ("u8.s8", -255), ("u8.u8", 65_025)] {
        for (depth, op_a) in [(16, 2), (32, 4)] {
            let opcode = format!("mma.sync.aligned.m16n8k{depth}.row.col.s32.{types}.s32");
            let op = matrix::find(&opcode).unwrap();
            let mut w = vec![Lanes32([u32::MAX; 32]); 6];
            w.extend([Lanes32([5; 32]); 4]);
            let mut registers = Registers { w, ..Registers::default() };
            assert_eq!(op.a, op_a);
            (op.run)(
                &mut registers,
                &[6, 7, 8, 9],
                &[0, 1, 2, 3][..op.a],
                &[4, 5][..op.b],
                &[6, 7, 8, 9],
                MatrixOrder::Sequential,
            );
            let want = 5 + depth * product;
            assert!(registers.w[6..].iter().all(|lanes| lanes.0 == [want as u32; 32]), "{opcode}");
        }
    }
}

#[test]
fn tiles_move_as_laid_out() {
    let table = table();
    let rows: [[u8; 16]; 8] =
        std::array::from_fn(|row| std::array::from_fn(|byte| (16 * row + byte) as u8));
    let element = |(row, column): (usize, usize)| {
        u32::from(u16::from_le_bytes([rows[row][2 * column], rows[row][2 * column + 1]]))
    };
    for (mode, trans) in [("n", false), ("t", true)] {
        let places = &table[&("ldmatrix".to_owned(), mode.to_owned())];
        let want: [u32; 32] =
            std::array::from_fn(|lane| element(places[0][lane]) | element(places[1][lane]) << 16);
        let loaded = ldmatrix_tile(&rows, trans);
        assert_eq!(loaded.0, want, "ldmatrix {mode}");
        assert_eq!(stmatrix_tile(&loaded, trans), rows, "stmatrix {mode}");
    }
    assert_eq!(movmatrix(&ldmatrix_tile(&rows, false)), ldmatrix_tile(&rows, true));
    assert_eq!(movmatrix(&ldmatrix_tile(&rows, true)), ldmatrix_tile(&rows, false));
}
