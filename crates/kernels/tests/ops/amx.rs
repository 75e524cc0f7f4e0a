//! The matrix unit of the processor, where there is one.

use kernels::{Cpu, DType};

use crate::attention;
use crate::linear::{self, Case, Stored, fp4, nf4};
use crate::results;

/// Many parts of the depth, tasks of rows and columns, rows that collide in the cache; the last row
/// block and column pair whole and not, up to 16 rows and more.
const CASES: [(Case, &str); 10] = [
    (case((530, 700, 1216), nf4(64, true)), "tasks of rows and columns"),
    (case((256, 64, 2048), nf4(256, false)), "colliding rows of X"),
    (case((257, 2048, 64), fp4(64, true)), "colliding rows of dY"),
    (case((48, 1187, 640), nf4(4096, true)), "odd depth of the gradient"),
    (case((530, 700, 1216), Stored::Dense(DType::Bf16)), "a dense weight"),
    (case((13, 610, 1280), nf4(128, true)), "few rows"),
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

#[test]
fn it_is_used_and_can_be_left_out() {
    let (with, without) = (Cpu::new(), Cpu::new().without_amx());
    assert!(!without.has_amx());
    if !with.has_amx() {
        return;
    }
    // Another order of the sums, or weights rounded to bf16, moves some sum across a rounding.
    for (case, what) in CASES {
        let [with, without] =
            [&with, &without].map(|cpu| results::of_linear(cpu, case, DType::Bf16));
        for i in [0, 2, 3] {
            assert!(with[i].1 != without[i].1, "{} of {what} is the same to the bit", with[i].0);
        }
    }
    // Probabilities rounded to bf16 do as well.
    let case = attention::Case::new((6, 2, 64), &[(70, 70), (33, 90)], None, None);
    let [attention_with, attention_without] =
        [&with, &without].map(|cpu| results::of_attention(cpu, &case, DType::Bf16));
    let [head_with, head_without] =
        [&with, &without].map(|cpu| results::of_cross_entropy(cpu, (100, 64, 1_100), DType::Bf16));
    for (with, without) in attention_with.iter().zip(&attention_without) {
        assert!(with.1 != without.1, "{} of attention is the same to the bit", with.0);
    }
    let differs = head_with.iter().zip(&head_without).any(|(with, without)| with.1 != without.1);
    assert!(differs, "the head's results are the same to the bit");
}
