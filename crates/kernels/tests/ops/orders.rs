//! The order in which the device runs warps, blocks and copies changes no bit of any result: the emulated driver
//! takes other ones by its seed, and runs the work of a stream as late as it may when streams are lazy.

use std::fmt::Write as _;
use std::fs;

use kernels::{Backend, DType};

use crate::{attention, child, operands, results};

/// Results of each family of kernels on ragged shapes, a line each.
fn all<K: Backend>(k: &K) -> String {
    let (nf4, dense) = (operands::nf4(64, true), operands::Stored::Dense);
    let linears = [
        ((130, 200, 192), nf4, (16, 0.1)),
        ((63, 136, 128), nf4, (8, 0.1)),
        ((130, 72, 136), dense(DType::Bf16), (33, 0.1)),
        ((5, 136, 192), nf4, (8, 0.0)),
        ((3, 70, 200), dense(DType::Bf16), (3, 0.0)),
        ((37, 70, 45), nf4, (3, 0.1)),
        ((37, 70, 45), dense(DType::F32), (3, 0.1)),
    ]
    .map(|(shape, stored, lora)| {
        let case = operands::Case { shape, stored, bias: true, lora: Some(lora) };
        results::of_linear(k, case, DType::Bf16)
    });
    let prefill: &[_] = &[(65, 130), (1, 1), (63, 63)];
    let decode: &[_] = &[(1, 300), (1, 1), (1, 77)];
    let attentions = [
        ((2, 1, 64), prefill),
        ((3, 1, 96), prefill),
        ((2, 2, 128), prefill),
        ((2, 1, 256), prefill),
        ((4, 2, 10), prefill),
        ((6, 2, 64), decode),
    ]
    .map(|(heads, lens)| {
        let case = attention::Case::new(heads, lens, Some(40), None);
        results::of_attention(k, &case, DType::Bf16)
    });
    let rest = [
        results::of_cross_entropy(k, (70, 40, 1_030), DType::Bf16),
        results::of_rows(k, 37, 300, DType::Bf16),
        results::of_rope(k, 37, DType::Bf16),
        results::of_adamw(k, 5_001),
    ];
    let mut text = String::new();
    for (i, bits) in linears.into_iter().chain(attentions).chain(rest).enumerate() {
        for (what, bits) in bits {
            writeln!(text, "{i} {what}: {}", results::hash(&bits)).unwrap();
        }
    }
    text
}

#[test]
fn no_order_changes_a_result() {
    if let Some(results) = child::results() {
        fs::write(results, all(&crate::cuda())).unwrap();
        return;
    }
    if !child::emulated() {
        return;
    }
    let run = |seed, streams| {
        let variables = [("CUDA_EMULATOR_SEED", seed), ("CUDA_EMULATOR_STREAMS", streams)];
        let child = child::run("orders::no_order_changes_a_result", &variables);
        assert_eq!(child.report["settings"]["streams"], streams);
        assert_eq!(child.report["findings"].as_array().map(Vec::len), Some(0));
        child.results
    };
    let expected = run("0", "eager");
    assert!(expected.lines().count() > 60, "{expected}");
    for (seed, streams) in [("1", "eager"), ("2", "eager"), ("0", "lazy"), ("3", "lazy")] {
        assert_eq!(run(seed, streams), expected, "seed {seed}, {streams}");
    }
}
