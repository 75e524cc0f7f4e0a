//! Large copies to the device, which take turns in two pinned buffers beside the kernels: in whatever order the
//! emulated driver runs streams, each reads what was meant for it, and no kernel comes too early.

use std::fmt::Write as _;
use std::fs;

use half::bf16;
use kernels::ops::{Linear, Weight};
use kernels::{Backend, Buffer, Cuda, DType, HostSlice, MemoryKind};
use nf4::{Elements, QuantConfig};

use crate::child;
use crate::support::output;

/// Elements of f32 in some three and a half buffers.
const LEN: usize = 3_700_003;

fn values(round: usize) -> Vec<f32> {
    (0..LEN).map(|i| ((i * 31 + round * 7) % 1_021) as f32).collect()
}

/// Uploads that take the place of each other while kernels still read them.
fn upload(k: &Cuda) {
    let mut sum = k.zeros(DType::F32, LEN, MemoryKind::Activations).unwrap();
    let mut expected = vec![0.0; LEN];
    for round in 0..3 {
        let x = values(round);
        let buffer = k.upload(HostSlice::F32(&x), MemoryKind::Weights).unwrap();
        k.add_assign(&mut sum, &buffer).unwrap();
        expected.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
    }
    assert!(k.download(&sum).unwrap() == expected);
}

/// A weight that is quantised in three chunks, by what a product makes of it.
fn quantize(k: &Cuda) -> Vec<u32> {
    let (n, depth) = (2_304, 4_096);
    let weight: Vec<bf16> =
        (0..n * depth).map(|i| bf16::from_f32((i * 17 % 1_009) as f32 / 512.0 - 1.0)).collect();
    let (weight, config) = (Elements::Bf16(&weight), QuantConfig::default());
    let on_card = k.quantize("w", weight, &[n, depth], &config).unwrap();
    let on_host = weight.quantize("w", &[n, depth], &config).unwrap();
    let on_host = k.upload_quantized(on_host).unwrap();
    let ones = vec![bf16::ONE; depth];
    let x = k.upload(HostSlice::Bf16(&ones), MemoryKind::Activations).unwrap();
    let [found, expected] = [&on_card, &on_host].map(|weight| {
        let weight = Weight::Quantized(weight);
        let op = Linear { m: 1, n, k: depth, weight, bias: None, lora: None };
        let mut y = output(k, DType::F32, n);
        k.linear(&op, &x, &mut y, None).unwrap();
        assert_eq!(y.len(), n);
        k.download(&y).unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>()
    });
    assert_eq!(found, expected);
    found
}

#[test]
fn large_copies_are_in_time() {
    if let Some(results) = child::results() {
        let k = &crate::cuda();
        upload(k);
        let mut text = String::new();
        for word in quantize(k) {
            writeln!(text, "{word:x}").unwrap();
        }
        fs::write(results, text).unwrap();
        return;
    }
    if !child::emulated() {
        return;
    }
    let run = |seed, streams| {
        let variables = [
            ("CUDA_EMULATOR_SEED", seed),
            ("CUDA_EMULATOR_STREAMS", streams),
            ("QLORA_CUDA_ALLOCATIONS", "shared"),
        ];
        let child = child::run("copies::large_copies_are_in_time", &variables);
        assert_eq!(child.report["findings"].as_array().map(Vec::len), Some(0));
        child.results
    };
    let expected = run("0", "eager");
    for seed in ["0", "1", "2"] {
        assert!(run(seed, "lazy") == expected, "seed {seed}");
    }
}
