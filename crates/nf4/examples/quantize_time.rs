//! Times quantising and restoring a 4096 x 4096 weight with nested absmax; prints lines of JSON with medians
//! of SECONDS of each, at least three runs: `cargo run --release -p nf4 --example quantize_time SECONDS`

use std::hint::black_box;
use std::time::Instant;

use half::bf16;
use nf4::{Element, QuantConfig};

const SHAPE: [usize; 2] = [4096, 4096];

fn main() {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let seconds = seconds.expect("usage: quantize_time SECONDS");
    time::<f32>("f32", seconds);
    time::<bf16>("bf16", seconds);
}

fn time<T: Element>(dtype: &str, seconds: f64) {
    // Sums of uniform numbers: bell-shaped, as trained weights are.
    let mut state = 1_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut bell = || T::from_f32((0..4).map(|_| uniform()).sum::<f32>() * 0.035);
    let mut data: Vec<T> = (0..SHAPE[0] * SHAPE[1]).map(|_| bell()).collect();

    let config = QuantConfig::default();
    let quantize = || nf4::quantize("w", black_box(&data), &SHAPE, &config).expect("finite");
    print("quantize", dtype, median(seconds, || drop(black_box(quantize()))));
    let quantized = quantize();
    print("dequantize", dtype, median(seconds, || quantized.dequantize_into(black_box(&mut data))));
}

fn print(operation: &str, dtype: &str, seconds: f64) {
    let ms = 1e3 * seconds;
    println!("{}", serde_json::json!({ "operation": operation, "dtype": dtype, "ms": ms }));
}

fn median(at_least: f64, mut run: impl FnMut()) -> f64 {
    run();
    let mut times = Vec::new();
    while times.len() < 3 || times.iter().sum::<f64>() < at_least {
        let start = Instant::now();
        run();
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
