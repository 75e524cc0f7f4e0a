//! Kernels with one defect each: the right check must find it, at the right line.

use cuda_emulator::{exec::Settings, findings::Check, ptx::parse};
use serde_json::{Value, json};

use crate::common::{
    case::{Arg, Buffer, Case, Launch},
    compile::{Flavour, ptx, source},
    direct,
    driver::Session,
    emulator::on_emulator,
};

/// Long enough for every other kernel, short enough to wait for.
const BUDGET: u64 = 100_000;

fn zeros(words: usize) -> Buffer {
    Buffer::Data(vec![0; words * 4])
}

fn counting(words: i32) -> Buffer {
    Buffer::data(&(0..words).collect::<Vec<_>>())
}

/// Blocks of 64 threads, arguments the buffers in order and then `last`.
fn case(kernel: &'static str, blocks: usize, buffers: Vec<Buffer>, last: Option<i32>) -> Case {
    let addresses = (0..buffers.len()).map(Arg::Buffer);
    let args = addresses.chain(last.map(Arg::value)).collect();
    let launches = vec![Launch::line(kernel, blocks, 64, args)];
    Case { label: kernel.into(), buffers, launches, expected: vec![] }
}

/// Fails unless `findings` are of this one check, in this kernel, at one of the lines that the source
/// marks with it, and say where on the device.
fn assert_found(case: &Case, check: Check, findings: &[Value]) {
    let kernel = case.launches[0].kernel;
    assert!(!findings.is_empty(), "{kernel}: nothing found");
    let lines = marked_lines(&source("broken"), kernel, check);
    assert!(!lines.is_empty(), "{kernel}: no line is marked");
    for finding in findings {
        assert_eq!(finding["check"], check.name(), "{finding:#}");
        assert_eq!(finding["kernel"], kernel, "{finding:#}");
        let line = finding["line"].as_u64().unwrap_or(0);
        assert!(lines.contains(&line), "expected line {lines:?}: {finding:#}");
        let place = format!("broken.cu:{line}");
        assert!(finding["source"].as_str().is_some_and(|s| s.contains(&place)), "{finding:#}");
        assert!(finding["block"].is_array(), "{finding:#}");
        // The two that concern the block as a whole.
        if !matches!(kernel, "barrier_left_out" | "endless") {
            assert!(finding["thread"].is_array(), "{finding:#}");
        }
        let at_address = !matches!(
            check,
            Check::BarrierDivergence | Check::WarpSync | Check::Trap | Check::Hang
        );
        assert!(!at_address || finding["address"].is_u64(), "{finding:#}");
    }
}

/// Lines of a kernel that end in a `FINDING` comment, from 1.
fn marked_lines(source: &str, kernel: &str, check: Check) -> Vec<u64> {
    let starts = format!(" {kernel}(");
    let mark = format!("// FINDING: {}", check.name());
    source
        .lines()
        .zip(1..)
        .skip_while(|(line, _)| !(line.starts_with("KERNEL") && line.contains(&starts)))
        .enumerate()
        .take_while(|(i, (line, _))| *i == 0 || !line.starts_with("KERNEL"))
        .filter(|(_, (line, _))| line.ends_with(&mark))
        .map(|(_, (_, number))| number)
        .collect()
}

fn found_in_process(case: &Case, check: Check) {
    let module = parse(&ptx("broken", Flavour::Optimised)).expect("nvcc wrote it");
    for seed in 0..3 {
        let settings = Settings { seed, instruction_budget: BUDGET, ..Settings::default() };
        let outcome = direct::run(&module, case, &settings).unwrap_or_else(|e| panic!("{e}"));
        let findings: Vec<Value> = outcome.findings.iter().map(|f| json!(f)).collect();
        assert_found(case, check, &findings);
    }
}

fn found(case: &Case, check: Check) {
    // What a lost context holds can no longer be freed.
    let checks = if check.is_fault() { "-leak" } else { "all" };
    let runs = on_emulator(&[&[("BUDGET", "100000"), ("CHECKS", checks)]], || {
        let session = Session::new(ptx("broken", Flavour::Optimised)).expect("loads");
        // A fault is returned by the call that waits for the kernel; other findings go unnoticed.
        assert_eq!(session.run(case).is_err(), check.is_fault());
    });
    runs[0].passed();
    assert_found(case, check, runs[0].findings());
}

macro_rules! twins {
    ($($kernel:ident, $check:ident, $case:expr;)*) => {
        mod twins {
            use super::*;
            $(#[test] fn $kernel() { found(&($case)(stringify!($kernel)), Check::$check); })*
        }
        mod twins_in_process {
            use super::*;
            $(#[test] fn $kernel() { found_in_process(&($case)(stringify!($kernel)), Check::$check); })*
        }
    };
}

twins! {
    out_of_bounds_global, OutOfBounds, |k| case(k, 2, vec![zeros(100)], None);
    out_of_bounds_read, OutOfBounds, |k| case(k, 1, vec![zeros(64), zeros(64)], None);
    out_of_bounds_shared, OutOfBounds, |k| case(k, 1, vec![zeros(64)], Some(1));
    out_of_bounds_local, OutOfBounds, |k| case(k, 1, vec![zeros(64)], Some(8));
    out_of_bounds_async, OutOfBounds, |k| case(k, 1, vec![zeros(252), zeros(64)], None);
    use_after_free, UseAfterFree, |k| case(k, 1, vec![zeros(64), Buffer::Freed(256)], None);
    misaligned_word, Misaligned, |k| case(k, 1, vec![zeros(64), zeros(64)], None);
    misaligned_vector, Misaligned, |k| case(k, 1, vec![zeros(260), zeros(256)], None);
    misaligned_matrix_row, Misaligned, |k| case(k, 1, vec![zeros(64)], None);
    uninitialised_global, Uninitialised, |k| case(k, 1, vec![Buffer::Unwritten(256), zeros(64)], None);
    uninitialised_shared, Uninitialised, |k| case(k, 1, vec![zeros(64)], None);
    race_between_warps, SharedRace, |k| case(k, 1, vec![zeros(64)], None);
    race_same_value, SharedRace, |k| case(k, 1, vec![zeros(64)], None);
    race_within_warp, SharedRace, |k| case(k, 1, vec![zeros(64)], None);
    race_next_step, SharedRace, |k| case(k, 1, vec![zeros(64)], None);
    race_after_async_copy, SharedRace, |k| case(k, 1, vec![zeros(64), zeros(64)], None);
    race_between_blocks, GlobalRace, |k| case(k, 2, vec![zeros(1)], None);
    race_read_other_block, GlobalRace, |k| case(k, 2, vec![zeros(128)], None);
    async_copy_not_waited, AsyncCopyPending, |k| case(k, 1, vec![zeros(256), zeros(64)], None);
    async_copy_overwritten, AsyncCopyPending, |k| case(k, 1, vec![zeros(256), zeros(64)], None);
    barrier_in_branch, BarrierDivergence, |k| case(k, 1, vec![counting(64)], None);
    barrier_left_out, BarrierDivergence, |k| case(k, 1, vec![zeros(64)], None);
    shuffle_inactive, WarpSync, |k| case(k, 1, vec![counting(64)], None);
    shuffle_not_in_mask, WarpSync, |k| case(k, 1, vec![counting(64)], None);
    matrix_in_branch, WarpSync, |k| case(k, 1, vec![Buffer::data(&[0.0f32, 20.0].repeat(32))], None);
    load_matrix_in_branch, WarpSync, |k| case(k, 1, vec![counting(64)], None);
    failed_assertion, Trap, |k| case(k, 1, vec![counting(64)], None);
    trapped, Trap, |k| case(k, 1, vec![counting(64)], None);
    endless, Hang, |k| case(k, 1, vec![zeros(1)], None);
}

/// Bytes of one word that have different owners are no race.
#[test]
fn bytes_of_one_word_may_have_different_owners() {
    let mut case = case("bytes_of_one_word", 2, vec![Buffer::Unwritten(128)], None);
    let bytes = (0..128).map(|i| i / 2).collect();
    case.expected = vec![(0, crate::common::case::Expected::Exact(bytes))];
    direct::assert_clean(&ptx("broken", Flavour::Optimised), &[case]);
}
