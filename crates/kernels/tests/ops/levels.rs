//! The CPU backend on every level that the processor has, each in a process of its own.

use std::fmt::Write as _;
use std::{env, fs};

use kernels::{Backend, Cpu, CpuLevel, DType, Error, MemoryKind};

use crate::{attention, child, operands, results};

/// All checks of the CPU backend on a level, unless that is this process's or not there.
fn check(level: CpuLevel) {
    if env::var_os("QLORA_CPU").is_some() || !CpuLevel::supported().contains(&level) {
        return;
    }
    let variables = [("QLORA_CPU", level.name()), ("PROPTEST_CASES", "32")];
    child::results_of(&["cpu_f32", "cpu_bf16", "threads"], &variables);
}

#[test]
fn checks_pass_on_scalar() {
    check(CpuLevel::Scalar);
}

#[test]
fn checks_pass_on_neon() {
    check(CpuLevel::Neon);
}

#[test]
fn checks_pass_on_avx2() {
    check(CpuLevel::Avx2);
}

#[test]
fn checks_pass_on_avx512() {
    check(CpuLevel::Avx512);
}

/// The level and results of products of more rows than are multiplied one by one.
fn products() -> String {
    let cpu = &Cpu::new();
    let linears = [operands::nf4(64, true), operands::Stored::Dense(DType::F32)].map(|stored| {
        let case =
            operands::Case { shape: (130, 203, 700), stored, bias: true, lora: Some((5, 0.1)) };
        results::of_linear(cpu, case, DType::F32)
    });
    let case = attention::Case::new((6, 2, 40), &[(70, 70), (33, 90)], Some(50), None);
    let others = [
        results::of_attention(cpu, &case, DType::Bf16),
        results::of_cross_entropy(cpu, (100, 40, 1_100), DType::F32),
        results::of_rows(cpu, 37, 300, DType::Bf16),
    ];
    let mut text = format!("{}\n", CpuLevel::of_process().unwrap());
    for (what, bits) in linears.into_iter().chain(others).flatten() {
        writeln!(text, "{what}: {}", results::hash(&bits)).unwrap();
    }
    text
}

/// Sums have the same order whatever the width of vectors, and only the scalar level rounds products
/// before it adds them.
#[test]
fn the_width_of_vectors_changes_no_bit() {
    if let Some(to) = child::results() {
        fs::write(to, products()).unwrap();
        return;
    }
    let test = ["--exact", "levels::the_width_of_vectors_changes_no_bit"];
    let of = |level: &CpuLevel| {
        let results = child::results_of(&test, &[("QLORA_CPU", level.name())]);
        let (used, results) = results.split_once('\n').unwrap();
        assert_eq!(used, level.name());
        results.to_owned()
    };
    let fused = |level: &CpuLevel| !matches!(level, CpuLevel::Scalar | CpuLevel::Amx);
    let levels = CpuLevel::supported();
    let all: Vec<String> = levels.iter().filter(|x| fused(x)).map(of).collect();
    assert!(all.iter().all(|x| *x == all[0]), "{all:#?}");
    assert!(all.is_empty() || of(&CpuLevel::Scalar) != all[0], "nothing is fused");
}

#[test]
fn what_is_asked_for_in_vain_is_an_error() {
    if child::results().is_none() {
        let test = ["--exact", "levels::what_is_asked_for_in_vain_is_an_error"];
        child::results_of(&test, &[("QLORA_CPU", "avx3")]);
        return;
    }
    let error = Cpu::new().alloc(DType::F32, 1, MemoryKind::Workspace).unwrap_err();
    for error in [error, CpuLevel::of_process().unwrap_err(), Cpu::try_new().unwrap_err()] {
        assert!(matches!(&error, Error::Level { asked } if asked == "avx3"), "{error}");
        assert!(error.to_string().starts_with("QLORA_CPU=avx3: there is no such level"), "{error}");
    }
}
