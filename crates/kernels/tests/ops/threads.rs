//! The number of threads changes no bit of any result of the CPU backend.

use kernels::{Cpu, DType};

use crate::results::{self, Bits};
use crate::{attention, linears, operands};

/// The results of `run`, the same in pools of 1, 2 and 3 threads, again, and of more than there are tasks.
fn check(run: impl Fn(&Cpu, DType) -> Bits + Sync) {
    for dtype in [DType::F32, DType::Bf16] {
        let mut expected: Option<Bits> = None;
        for threads in [1, 2, 3, 3, 8] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let got = pool.install(|| run(&Cpu::new(), dtype));
            let expected = expected.get_or_insert_with(|| got.clone());
            for ((what, got), (_, expected)) in got.iter().zip(&*expected) {
                assert!(got == expected, "{what} in {dtype} differs with {threads} threads");
            }
        }
    }
}

#[test]
fn linear() {
    let dense = operands::Stored::Dense;
    for (stored, shape, r) in [
        (operands::nf4(64, true), (700, 450, 300), 8),
        (operands::nf4(64, true), (700, 450, 640), 8),
        (operands::nf4(64, true), (3, 500, 300), 8),
        (operands::nf4(64, true), (40, 1_200, 1_100), 4),
        (dense(DType::F32), (300, 450, 300), 8),
        (dense(DType::Bf16), (300, 450, 300), 8),
        (dense(DType::Bf16), (700, 450, 640), 8),
    ] {
        let case = operands::Case { shape, stored, bias: true, lora: Some((r, 0.1)) };
        check(|cpu, dtype| results::of_linear(cpu, case, dtype));
    }
}

#[test]
fn linears_of_one_input() {
    check(linears::results);
}

#[test]
fn attention() {
    let lens = [(300, 300), (1, 400), (50, 90)];
    for (shape, window, softcap) in [
        ((6, 2, 16), Some(200), Some(5.0)),
        ((6, 2, 64), Some(200), Some(5.0)),
        ((6, 2, 64), None, None),
        ((2, 2, 128), Some(33), None),
    ] {
        let case = attention::Case::new(shape, &lens, window, softcap);
        check(|cpu, dtype| results::of_attention(cpu, &case, dtype));
    }
}

#[test]
fn linear_cross_entropy() {
    check(|cpu, dtype| results::of_cross_entropy(cpu, (400, 64, 3_000), dtype));
    check(|cpu, dtype| results::of_cross_entropy(cpu, (400, 40, 3_000), dtype));
}

#[test]
fn rows_and_elements() {
    check(|cpu, dtype| results::of_rows(cpu, 200, 300, dtype));
    check(|cpu, dtype| results::of_rope(cpu, 200, dtype));
}

#[test]
fn adamw() {
    check(|cpu, _| results::of_adamw(cpu, 50_001));
}
