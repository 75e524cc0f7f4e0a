//! Graphs change no bit of a result, are few, and leave the stream usable when something fails in them.

use std::fs;

use kernels::ops::RmsNorm;
use kernels::{Backend, Cuda, DType, Error, MemoryKind, Result};
use serde_json::Value;

use crate::child;
use crate::support::{Host, output};

/// What a step may be like: kernels, fills and copies, 280 in all, in buffers that come and go.
fn step(k: &Cuda, rows: usize, factor: f32) -> Result<Vec<u32>> {
    let (cols, dtype) = (48, DType::F32);
    let len = rows * cols;
    let op = RmsNorm { rows, cols, eps: 1e-5 };
    let weight = Host::normal(dtype, 1, cols).upload(k);
    let mut x = Host::normal(dtype, 2, len).upload(k);
    for _ in 0..56 {
        let mut y = k.alloc(dtype, len, MemoryKind::Activations)?;
        let mut inv_rms = k.alloc(dtype, rows, MemoryKind::Activations)?;
        k.rms_norm(op, &x, &weight, &mut y, &mut inv_rms)?;
        let mut sum = k.zeros(dtype, len, MemoryKind::Workspace)?;
        k.add(&x, &y, &mut sum)?;
        k.scale(&mut sum, factor)?;
        k.copy(&y, 0, &mut sum, len / 2, len / 4)?;
        x = sum;
    }
    Ok(k.download(&x)?.into_iter().map(f32::to_bits).collect())
}

/// Shapes that repeat and shapes that do not, with other scalars each time.
const STEPS: [(usize, f32); 6] = [(9, 0.5), (9, 0.7), (17, 0.6), (9, 0.9), (3, 0.8), (17, 0.4)];

fn calls(report: &Value, call: &str) -> u64 {
    report["calls"][call].as_u64().unwrap_or(0)
}

#[test]
fn graphs_change_no_result_and_are_made_once() {
    if child::results().is_some() {
        let k = &crate::cuda();
        for (rows, factor) in STEPS {
            let plain = step(k, rows, factor).unwrap();
            let graphs = k.in_graphs(|| step(k, rows, factor)).unwrap();
            assert_eq!(graphs, plain, "{rows} rows");
        }
        return;
    }
    if !child::emulated() {
        return;
    }
    for (seed, streams) in [("0", "eager"), ("1", "lazy"), ("2", "lazy")] {
        let variables = [
            ("CUDA_EMULATOR_SEED", seed),
            ("CUDA_EMULATOR_STREAMS", streams),
            ("QLORA_CUDA_ALLOCATIONS", "shared"),
        ];
        let report =
            child::run("graphs::graphs_change_no_result_and_are_made_once", &variables).report;
        // 280 operations are two graphs, and those of all shapes the same two.
        assert_eq!(calls(&report, "cuGraphLaunch"), 2 * STEPS.len() as u64);
        assert_eq!(calls(&report, "cuGraphInstantiateWithFlags"), 2);
        assert_eq!(report["findings"].as_array().map(Vec::len), Some(0));
    }
}

/// An error of an operation, and of each call that graphs need: it is reported, and the next step is as if
/// nothing had been.
#[test]
fn a_failure_in_a_graph_is_reported_and_left_behind() {
    const NAME: &str = "graphs::a_failure_in_a_graph_is_reported_and_left_behind";
    if let Some(results) = child::results() {
        let k = &crate::cuda();
        let error = k.in_graphs(|| step(k, 9, 0.5)).err();
        fs::write(results, error.map_or_else(String::new, |e| e.to_string())).unwrap();
        let plain = step(k, 9, 0.5).unwrap();
        assert_eq!(k.in_graphs(|| step(k, 9, 0.5)).unwrap(), plain);
        return;
    }
    if !child::emulated() {
        return;
    }
    for (fault, expected) in [
        ("cuLaunchKernel:9:1", "launching kernel scale: "),
        ("cuMemsetD8Async:3:1", "zeroing: "),
        ("cuStreamBeginCapture_v2:1:900", "capturing a graph: "),
        ("cuGraphInstantiateWithFlags:1:2", "launching a graph of kernels: "),
        ("cuGraphLaunch:2:1", "launching a graph of kernels: "),
        ("cuGraphExecUpdate_v2:1:910", ""),
    ] {
        let error = child::run(NAME, &[("CUDA_EMULATOR_FAIL", fault)]).results;
        assert!(error.starts_with(expected), "{fault}: {error}");
        assert_eq!(error.is_empty(), expected.is_empty(), "{fault}: {error}");
    }
}

#[test]
fn a_wrong_operand_in_a_graph_is_that_error() {
    let k = &crate::cuda();
    let wrong = || -> Result<()> {
        let mut x = Host::normal(DType::F32, 1, 4).upload(k);
        k.scale(&mut x, 2.0)?;
        k.add_assign(&mut x, &output(k, DType::F32, 5))
    };
    let error = k.in_graphs(wrong).unwrap_err();
    assert!(matches!(error, Error::Length { op: "add_assign", .. }), "{error}");
    assert_eq!(k.in_graphs(|| step(k, 3, 0.5)).unwrap(), step(k, 3, 0.5).unwrap());
}
