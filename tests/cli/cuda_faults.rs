//! Failures of the device, which the emulated driver makes at will: each ends in one clear error, with
//! what was there before untouched.

use std::{fs, thread};

use serde_json::Value;

use crate::support::{Workspace, error, stdout};

/// Whether the driver is the emulated one, which the test script says by this variable.
fn emulated() -> bool {
    let emulated = std::env::var_os("CUDA_EMULATOR_EXIT_CODE").is_some();
    if !emulated {
        eprintln!("skipped: faults need the emulated driver, see scripts/test.sh");
    }
    emulated
}

/// One step on the device, with gradients of every kind.
const STEP: [&str; 8] = [
    "--device",
    "cuda",
    "--set",
    "train.max_steps=1",
    "--set",
    "data.eval_rows=0",
    "--set",
    "train.gradient_accumulation_steps=1",
];

/// A workspace with the files of an earlier run, and what they hold.
fn workspace() -> (Workspace, Vec<u8>) {
    let w = Workspace::new();
    stdout(&w.train("out", &STEP));
    let adapter = fs::read(w.path("out/adapter/adapter_model.safetensors")).unwrap();
    (w, adapter)
}

#[test]
fn one_allocation_that_fails_is_asked_for_again() {
    if !emulated() {
        return;
    }
    let (w, adapter) = workspace();
    for call in [1, 2, 5, 17, 60, 130] {
        let fail = format!("cuMemAlloc_v2:{call}:2");
        let output = format!("out{call}");
        stdout(&w.train_with(&output, &STEP, &[("CUDA_EMULATOR_FAIL", &fail)]));
        let path = w.path(&output).join("adapter/adapter_model.safetensors");
        assert!(fs::read(path).unwrap() == adapter, "call {call}");
    }
}

/// Memory that is full from any allocation of a step on: an error that says what was asked for and what
/// is held, no adapter, and the one that the run went on from as it was.
#[test]
fn memory_may_run_out_at_every_allocation() {
    if !emulated() {
        return;
    }
    let (w, adapter) = workspace();
    let adapter_from = format!("[model]\nadapter = {:?}\n", w.arg("out/adapter"));
    w.write("recipe.toml", &format!("{adapter_from}[train]\nbatch_size = 2\n"));
    for (allocations, least) in [("separate", 100), ("shared", 1)] {
        let how = ("QLORA_CUDA_ALLOCATIONS", allocations);
        let calls = allocations_of_a_step(&w, how);
        assert!(calls >= least, "{calls} allocations, {allocations}");
        thread::scope(|scope| {
            for first in 1..=2 {
                let (w, adapter) = (&w, &adapter);
                scope.spawn(move || {
                    for call in (first..=calls).step_by(2) {
                        check_full_from(w, how, call, adapter);
                    }
                });
            }
        });
    }
}

/// How often a whole run asks the driver for memory.
fn allocations_of_a_step(w: &Workspace, how: (&str, &str)) -> u64 {
    let report = w.arg("report.json");
    stdout(&w.train_with(how.1, &STEP, &[how, ("CUDA_EMULATOR_REPORT", &report)]));
    let report: Value = serde_json::from_str(&fs::read_to_string(report).unwrap()).unwrap();
    report["calls"]["cuMemAlloc_v2"].as_u64().unwrap()
}

/// A run in which allocation `call` and all later ones fail.
fn check_full_from(w: &Workspace, how: (&str, &str), call: u64, earlier: &[u8]) {
    let (output, fail) = (format!("{}{call}", how.1), format!("cuMemAlloc_v2:{call}-:2"));
    let result = w.train_with(&output, &STEP, &[how, ("CUDA_EMULATOR_FAIL", &fail)]);
    let message = error(&result, 1);
    // Before the first there is nothing to hold.
    let held = if call == 1 { "" } else { "; held are " };
    for part in ["out of memory: ", " bytes for ", held, "train.gradient_checkpointing"] {
        assert!(message.contains(part), "{call}: {message}");
    }
    for adapter in ["adapter", "adapter-last"] {
        assert!(!w.path(&output).join(adapter).exists(), "{call}: {adapter}");
    }
    let kept = fs::read(w.path("out/adapter/adapter_model.safetensors")).unwrap();
    assert!(kept == earlier, "{call}: a damaged adapter");
}

#[test]
fn too_little_memory_is_an_error_at_every_size() {
    if !emulated() {
        return;
    }
    let (w, adapter) = workspace();
    let mut fits = false;
    let mut failures = 0;
    for kilobytes in
        [16, 64, 128, 192, 256, 320, 384, 448, 512, 640, 768, 1024, 1536, 2048, 4096, 8192]
    {
        let bytes = (kilobytes << 10).to_string();
        let more = [&STEP[..], &["--set", "output.overwrite=true"]].concat();
        let result = w.train_with("out", &more, &[("CUDA_EMULATOR_MEMORY", &bytes)]);
        fits = result.status.success();
        if fits {
            break;
        }
        failures += 1;
        let message = error(&result, 1);
        let planned = message.contains("the run takes ");
        let met = message.contains("out of memory") && message.contains("train.optim");
        assert!(planned || met, "{bytes}: {message}");
        let kept = fs::read(w.path("out/adapter/adapter_model.safetensors"));
        assert!(kept.unwrap() == adapter, "{bytes}: a damaged adapter");
    }
    assert!(fits && failures > 5, "{failures} sizes failed");
}

#[test]
fn a_call_that_fails_is_named() {
    if !emulated() {
        return;
    }
    let (w, _) = workspace();
    for (i, (fault, reason, call)) in [
        ("cuLaunchKernel:1:719", "LAUNCH_FAILED", "launching kernel"),
        ("cuLaunchKernel:90:700", "ILLEGAL_ADDRESS", "launching kernel"),
        ("cuMemcpyHtoDAsync_v2:3:1", "INVALID_VALUE", "copying to the device"),
        ("cuMemcpyDtoHAsync_v2:1:1", "INVALID_VALUE", "copying from the device"),
        ("cuModuleLoadData:2:218", "INVALID_PTX", "loading the kernels"),
        ("cuStreamSynchronize:1:719", "LAUNCH_FAILED", "copying from the device"),
    ]
    .into_iter()
    .enumerate()
    {
        let output = format!("out{i}");
        let result = w.train_with(&output, &STEP, &[("CUDA_EMULATOR_FAIL", fault)]);
        let message = error(&result, 1);
        assert!(message.contains(call) && message.contains(reason), "{fault}: {message}");
        assert!(!w.path(&output).join("adapter").exists(), "{fault}");
    }
}
