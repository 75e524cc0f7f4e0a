//! What the tensor-core kernels make the device do, as the emulated driver counts it: no bank conflicts where the
//! layout of shared memory is to prevent them, and little more traffic than the tiles must have.

use kernels::ops::LinearGrads;
use kernels::{Backend, DType};
use serde_json::Value;

use crate::operands::{Case, Operands, nf4};
use crate::support::{Host, output};
use crate::{attention, child, linears};

/// The report of the kernels that `work` ran in a process of its own, which is this test's again; `None` in
/// that process and without the emulated driver.
fn counted(test: &str, work: impl FnOnce()) -> Option<Value> {
    if child::results().is_some() {
        work();
        return None;
    }
    child::emulated()
        .then(|| child::run(&format!("counters::{test}"), &[("CUDA_EMULATOR_PROFILE", "rtx3090")]).report["kernels"].take())
}

#[track_caller]
fn assert_conflict_free(kernels: &Value, kernel: &str, accesses: &[&str]) {
    for access in accesses {
        let count = &kernels[kernel]["shared"][access];
        let number = |name: &str| count[name].as_u64().unwrap_or(0);
        let (taken, least) = (number("wavefronts"), number("ideal_wavefronts"));
        assert!(least > 0, "{kernel} has no {access}: {}", kernels[kernel]);
        assert_eq!(taken, least, "wavefronts of {kernel}, {access}");
    }
}

const TILE: usize = 128;
/// Rows, columns and depth of the products: as many whole tiles as the device has multiprocessors.
const SHAPE: (usize, usize, usize) = (2 * TILE, 41 * TILE, 512);

/// A linear of whole tiles forward, and another backward.
fn products(rank: Option<usize>) {
    let (k, dtype) = (&crate::cuda(), DType::Bf16);
    let (m, columns, depth) = SHAPE;
    let upload = |shape| {
        let lora = rank.map(|r| (r, 0.0));
        let case = Case { shape, stored: nf4(64, true), bias: false, lora };
        Operands::new(case, dtype).upload(k)
    };
    upload((m, columns, depth)).forward(k, dtype);
    let backward = upload((m, depth, columns));
    let mut dx = output(k, dtype, m * columns);
    let dy = Host::normal(dtype, 6, m * depth).upload(k);
    let grads = LinearGrads { dx: Some(&mut dx), accumulate_dx: false, da: None, db: None };
    k.linear_backward(&backward.op(), &backward.x, None, &dy, grads).unwrap();
}

/// Each tile reads its rows of activations, its part of the weight, the code and the scale of each run of 64
/// weights, and the factors of the extra product, `extra` wide, once; and writes its results.
fn check_products(kernels: &Value, extra: usize) {
    let (m, columns, depth) = SHAPE;
    let tiles = m * columns / (TILE * TILE);
    let factors = 2 * 2 * TILE * extra;
    let loads = tiles * (2 * TILE * depth + TILE * depth / 2 + TILE * depth / 64 * 5 + factors);
    for kernel in ["nf4_matmul_128", "nf4_matmul_backward_128"] {
        assert_eq!(kernels[kernel]["launches"], 1, "{kernel}");
        assert_conflict_free(kernels, kernel, &["matrix", "store", "async-copy"]);
        assert_eq!(kernels[kernel]["global_store_bytes"], 2 * m * columns, "{kernel}");
        let loaded = kernels[kernel]["global_load_bytes"].as_f64().unwrap() / loads as f64;
        assert!((1.0..1.06).contains(&loaded), "{kernel} loads {loaded} of the least");
    }
}

#[test]
fn products_have_no_conflicts_and_little_traffic() {
    let test = "products_have_no_conflicts_and_little_traffic";
    if let Some(kernels) = counted(test, || products(None)) {
        check_products(&kernels, 0);
    }
}

#[test]
fn products_with_adapters_have_no_conflicts_and_little_traffic() {
    let test = "products_with_adapters_have_no_conflicts_and_little_traffic";
    if let Some(kernels) = counted(test, || products(Some(16))) {
        // Three parts of 16 ranks.
        check_products(&kernels, 48);
    }
}

/// Queries, keys and values: more tiles than the device does at a time, the last of which are done in halves.
#[test]
fn linears_of_one_input_are_one_launch() {
    let (m, depth, dtype) = (4 * TILE, 128, DType::Bf16);
    let columns = [16, 4, 4].map(|tiles| tiles * TILE);
    let work = || {
        let k = &crate::cuda();
        let case = |n| {
            let shape = (m, n, depth);
            Case { shape, stored: nf4(64, true), bias: false, lora: Some((16, 0.0)) }
        };
        let linears = linears::upload_group(k, &columns.map(case), dtype);
        linears::forward_together(k, &linears, dtype);
    };
    let Some(kernels) = counted("linears_of_one_input_are_one_launch", work) else { return };
    let kernel = &kernels["nf4_matmul_128"];
    assert_eq!(kernel["launches"], 1);
    assert_eq!(kernel["global_store_bytes"], 2 * m * columns.iter().sum::<usize>());
}

#[test]
fn attention_reads_tiles_without_conflicts() {
    let work = || {
        let (k, dtype) = (&crate::cuda(), DType::Bf16);
        let case = attention::Case::new((4, 2, 128), &[(200, 200)], None, None);
        let operands = attention::Operands::new(&case, dtype);
        let (o, lse) = attention::forward(k, &case, &operands, dtype);
        attention::backward(k, &case, &operands, (&o, &lse), dtype);
    };
    let Some(kernels) = counted("attention_reads_tiles_without_conflicts", work) else { return };
    for kernel in
        ["flash_attention_128", "flash_attention_backward_q_128", "flash_attention_backward_kv_128"]
    {
        assert_conflict_free(&kernels, kernel, &["matrix", "async-copy"]);
    }
}
