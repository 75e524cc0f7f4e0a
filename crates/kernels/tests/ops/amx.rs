//! The matrix unit of the processor, where there is one.

use std::fmt::Write as _;
use std::fs;

use kernels::{Backend, Cpu, CpuLevel, DType};

use crate::linear;
use crate::operands::{Case, Operands, Stored, fp4, nf4};
use crate::support::Host;
use crate::{attention, child, results};

/// Many parts of the depth, tasks of rows and columns, rows that collide in the cache; the last row
/// block and column pair whole and not, up to 16 rows and more.
const CASES: [(Case, &str); 13] = [
    (case((530, 700, 1216), nf4(64, true)), "tasks of rows and columns"),
    (case((256, 64, 2048), nf4(256, false)), "colliding rows of X"),
    (case((257, 2048, 64), fp4(64, true)), "colliding rows of dY"),
    (case((48, 1187, 640), nf4(4096, true)), "odd depth of the gradient"),
    (case((530, 700, 1216), Stored::Dense(DType::Bf16)), "a dense weight"),
    (case((13, 610, 1280), nf4(128, true)), "few rows"),
    (case((2, 610, 1344), nf4(64, true)), "two rows"),
    (
        Case { bias: false, ..adapted((850, 640, 704), 16) },
        "outputs that are stored past the caches while the next rows are multiplied",
    ),
    (
        Case { bias: false, ..adapted((850, 648, 640), 16) },
        "large outputs whose rows begin within a cache line",
    ),
    (adapted((530, 704, 1216), 16), "an adapter on whole tiles"),
    (adapted((300, 701, 192), 40), "an adapter of odd rank and odd outputs"),
    (adapted((2048, 192, 64), 1), "an adapter of one rank"),
    (adapted((75, 64, 4160), 130), "an adapter of high rank"),
];

const fn case(shape: (usize, usize, usize), stored: Stored) -> Case {
    Case { shape, stored, bias: true, lora: Some((4, 0.1)) }
}

/// Without dropout, which the products of an adapter on the matrix unit do not know.
const fn adapted(shape: (usize, usize, usize), r: usize) -> Case {
    Case { shape, stored: nf4(64, true), bias: true, lora: Some((r, 0.0)) }
}

#[test]
fn products_of_large_shapes() {
    let cpu = Cpu::new();
    for (case, _) in CASES {
        linear::check_case(&cpu, case, DType::Bf16);
    }
}

/// Rows that are rounded to integers by pieces: sizes differ from piece to piece, or are all very small.
#[test]
fn few_rows_of_any_size() {
    let cpu = Cpu::new();
    for (m, k) in [(1, 64), (2, 192), (3, 576), (4, 4_160), (1, 4_160)] {
        let case = Case { shape: (m, 70, k), stored: nf4(64, true), bias: false, lora: None };
        let mut operands = Operands::new(case, DType::Bf16);
        let y = |operands: &Operands| {
            cpu.download(&operands.upload(&cpu).forward(&cpu, DType::Bf16).0).unwrap()
        };
        let uneven = |i: usize, x: f32| x * [1.0, 1e-3, 1e3, 1e-9, 0.0][i / 128 % 5];
        operands.x = map(&operands.x, uneven);
        linear::check_forward_of(&cpu, &operands, DType::Bf16);

        let whole = y(&operands);
        operands.x = map(&operands.x, |_, x| x * 2.0_f32.powi(-60));
        let back: Vec<f32> = y(&operands).into_iter().map(|y| y * 2.0_f32.powi(60)).collect();
        assert!(back == whole, "{m} rows of {k}");
    }
}

fn map(x: &Host, f: impl Fn(usize, f32) -> f32) -> Host {
    Host::new(DType::Bf16, x.f32.iter().enumerate().map(|(i, &x)| f(i, x)).collect())
}

/// What is not finite in a row reaches all its outputs, and no other row's.
#[test]
fn few_rows_of_nan() {
    let cpu = Cpu::new();
    for bad in [f32::NAN, f32::INFINITY] {
        let case = Case { shape: (3, 70, 576), stored: nf4(64, true), bias: false, lora: None };
        let mut operands = Operands::new(case, DType::Bf16);
        operands.x = map(&operands.x, |i, x| if i == 576 + 300 { bad } else { x });
        let y = cpu.download(&operands.upload(&cpu).forward(&cpu, DType::Bf16).0).unwrap();
        for (i, y) in y.into_iter().enumerate() {
            assert_eq!(y.is_finite(), i / 70 != 1, "{y} of row {} with {bad}", i / 70);
        }
    }
}

/// More keys than a block has, and than a task keeps in order; windows that end in another block; more heads of a key
/// head than are summed at a time.
#[test]
fn attention_of_many_keys_and_heads() {
    let cpu = Cpu::new();
    for (shape, lens, window, softcap) in [
        ((9, 3, 64), &[(300, 300), (257, 520)][..], None, None),
        ((18, 2, 32), &[(70, 70), (260, 600)], Some(270), None),
        ((2, 1, 128), &[(290, 290), (1, 1)], None, Some(5.0)),
        ((2, 1, 32), &[(33, 8_300)], None, None),
        ((2, 1, 32), &[(300, 8_700)], Some(8_200), None),
    ] {
        let case = attention::Case::new(shape, lens, window, softcap);
        let operands = attention::Operands::new(&case, DType::Bf16);
        attention::check_output(&cpu, &case, &operands, DType::Bf16);
        attention::check_gradients(&cpu, &case, DType::Bf16);
    }
}

/// Results of all cases, of attention and of the head, a line each.
fn all() -> String {
    let cpu = &Cpu::new();
    let linears = CASES.map(|(case, what)| (what, results::of_linear(cpu, case, DType::Bf16)));
    let case = attention::Case::new((6, 2, 64), &[(70, 70), (33, 90)], None, None);
    let others = [
        ("attention", results::of_attention(cpu, &case, DType::Bf16)),
        ("the head", results::of_cross_entropy(cpu, (100, 64, 1_100), DType::Bf16)),
    ];
    let mut text = String::new();
    for (of, bits) in linears.into_iter().chain(others) {
        for (what, bits) in bits {
            writeln!(text, "{what} of {of}: {}", results::hash(&bits)).unwrap();
        }
    }
    text
}

/// Another order of the sums, or weights and probabilities rounded to bf16, moves some sum across a
/// rounding.
#[test]
fn it_is_used_and_can_be_left_out() {
    if let Some(results) = child::results() {
        fs::write(results, all()).unwrap();
        return;
    }
    if !CpuLevel::supported().contains(&CpuLevel::Amx) {
        return;
    }
    let [with, without] = ["amx", "avx512"].map(|level| {
        let test = ["--exact", "amx::it_is_used_and_can_be_left_out"];
        child::results_of(&test, &[("QLORA_CPU", level)])
    });
    let lines = || with.lines().zip(without.lines());
    // `xa` and the adapter's own gradients may be the same.
    for (with, without) in
        lines().filter(|(x, _)| ["y ", "dx ", "acc"].iter().any(|y| x.starts_with(y)))
    {
        assert_ne!(with, without);
    }
    for (with, without) in lines().filter(|(x, _)| x.contains("attention")) {
        assert_ne!(with, without);
    }
    assert!(lines().any(|(x, y)| x.contains("the head") && x != y), "the head is the same");
}
