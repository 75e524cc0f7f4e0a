//! Times the products of bf16 activations with NF4 weights on the CPU:
//!
//!     cargo run --release -p kernels --example cpu_linear [M,N,K]...
//!     cargo run --release -p kernels --example cpu_linear -- --json SECONDS [M,N,K]...
//!
//! The first prints rates on the level of the processor that `QLORA_CPU` asks for, of f32 activations too, and in
//! brackets their share of the rate from the L1 cache. The second prints lines of JSON, with and without an adapter:
//! medians of SECONDS of each product, at least three runs, and that rate as it was between them.

use std::env;
use std::time::Instant;

use half::bf16;
use kernels::ops::{Linear, LinearGrads, Lora, Weight};
use kernels::{
    Backend, Cpu, CpuBuffer, CpuLevel, CpuQuantizedWeight, DType, HostSlice, MemoryKind, Philox,
};
use serde_json::json;

/// Timed runs of each, of which the fastest counts: what else the machine does only adds to it.
const RUNS: usize = 15;
const SHAPES: &str = "1,4096,4096 16,4096,4096 256,4096,4096 1024,4096,4096 1024,192,576 \
                      1024,576,576 1024,1536,576 1024,576,1536";
/// Rank of the adapter.
const R: usize = 16;

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    match &args[..] {
        [json, seconds, shapes @ ..] if json == "--json" => {
            let seconds = seconds.parse().expect("SECONDS is a number");
            for shape in parse(shapes) {
                let case = Case::new(shape, DType::Bf16);
                print_medians(&case, false, seconds);
                print_medians(&case, true, seconds);
            }
        }
        shapes => print_rates(&parse(shapes)),
    }
}

fn parse(shapes: &[String]) -> Vec<[usize; 3]> {
    let shapes = if shapes.is_empty() { SHAPES.to_owned() } else { shapes.join(" ") };
    let sizes = |shape: &str| -> Vec<usize> {
        shape.split(',').map(|x| x.parse().expect("a shape is M,N,K")).collect()
    };
    shapes
        .split_whitespace()
        .map(|shape| sizes(shape).try_into().expect("a shape is M,N,K"))
        .collect()
}

fn print_rates(shapes: &[[usize; 3]]) {
    let level = CpuLevel::of_process().expect("QLORA_CPU names a level of this processor");
    println!("{level}; TFLOP/s");
    println!("{:>16} {:>5} {:>14} {:>14}", "M,N,K", "", "forward", "dX");
    for &[m, n, k] in shapes {
        for dtype in [DType::Bf16, DType::F32] {
            let case = Case::new([m, n, k], dtype);
            let from_l1 = case.cpu.multiplication_rate(dtype);
            let [forward, dx] = case.fastest().map(|seconds| {
                let rate = 2.0 * (m * n * k) as f64 / seconds;
                format!("{:8.3} ({:2.0} %)", 1e-12 * rate, 100.0 * rate / from_l1)
            });
            let shape = format!("{m},{n},{k}");
            println!("{shape:>16} {dtype:>5} {forward} {dx}");
        }
    }
}

fn print_medians(case: &Case, adapter: bool, seconds: f64) {
    let [m, n, k] = case.shape;
    let mut products = Products::new(case, adapter);
    let forward = median(seconds, || products.forward(&case.cpu));
    let from_l1 = case.cpu.multiplication_rate(case.dtype);
    let backward = median(seconds, || products.backward(&case.cpu));
    let line = json!({
        "m": m, "n": n, "k": k, "adapter": adapter, "forward_ms": 1e3 * forward, "dx_ms": 1e3 * backward,
        "flops_per_s_from_l1": from_l1,
    });
    println!("{line}");
}

/// A weight and what is multiplied by it.
struct Case {
    cpu: Cpu,
    shape: [usize; 3],
    dtype: DType,
    weight: CpuQuantizedWeight,
    a: CpuBuffer,
    b: CpuBuffer,
    x: CpuBuffer,
    dy: CpuBuffer,
}

impl Case {
    fn new(shape: [usize; 3], dtype: DType) -> Self {
        let ([m, n, k], cpu) = (shape, Cpu::new());
        let config = nf4::QuantConfig::default();
        let weight = nf4::quantize("w", &normal(n * k), &[n, k], &config).expect("a finite weight");
        let weight = cpu.upload_quantized(weight).expect("memory");
        let f32 =
            |len| cpu.upload(HostSlice::F32(&normal(len)), MemoryKind::Adapters).expect("memory");
        let [x, dy] = [m * k, m * n].map(|len| upload(&cpu, dtype, len));
        Self { shape, dtype, weight, a: f32(R * k), b: f32(n * R), x, dy, cpu }
    }

    /// Seconds of the fastest forward and of the fastest gradient of X.
    fn fastest(&self) -> [f64; 2] {
        let cpu = &self.cpu;
        let mut products = Products::new(self, false);
        let fastest = |run: &mut dyn FnMut()| {
            (0..RUNS).map(|_| seconds(&mut *run)).fold(f64::INFINITY, f64::min)
        };
        let forward = fastest(&mut || products.forward(cpu));
        [forward, fastest(&mut || products.backward(cpu))]
    }
}

/// The products of a case, with what they write.
struct Products<'a> {
    case: &'a Case,
    adapter: bool,
    y: CpuBuffer,
    xa: CpuBuffer,
    dx: CpuBuffer,
    da: CpuBuffer,
    db: CpuBuffer,
}

impl<'a> Products<'a> {
    fn new(case: &'a Case, adapter: bool) -> Self {
        let [m, n, k] = case.shape;
        let zeros = |dtype, len| case.cpu.zeros(dtype, len, MemoryKind::Workspace).expect("memory");
        Self {
            case,
            adapter,
            y: zeros(case.dtype, m * n),
            xa: zeros(DType::F32, m * R),
            dx: zeros(case.dtype, m * k),
            da: zeros(DType::F32, R * k),
            db: zeros(DType::F32, n * R),
        }
    }

    fn forward(&mut self, cpu: &Cpu) {
        let op = op(self.case, self.adapter);
        let xa = self.adapter.then_some(&mut self.xa);
        cpu.linear(&op, &self.case.x, &mut self.y, xa).expect("valid");
    }

    /// The gradient of X, and those of the adapter if there is one.
    fn backward(&mut self, cpu: &Cpu) {
        let op = op(self.case, self.adapter);
        let grads = LinearGrads {
            dx: Some(&mut self.dx),
            accumulate_dx: false,
            da: self.adapter.then_some(&mut self.da),
            db: self.adapter.then_some(&mut self.db),
        };
        let xa = self.adapter.then_some(&self.xa);
        cpu.linear_backward(&op, &self.case.x, xa, &self.case.dy, grads).expect("valid");
    }
}

fn op(case: &Case, adapter: bool) -> Linear<'_, Cpu> {
    let [m, n, k] = case.shape;
    let lora = Lora { a: &case.a, b: &case.b, r: R, scale: 2.0, dropout: None };
    let weight = Weight::Quantized(&case.weight);
    Linear { m, n, k, weight, bias: None, lora: adapter.then_some(lora) }
}

fn seconds(run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64()
}

fn median(at_least: f64, mut run: impl FnMut()) -> f64 {
    run();
    let mut times = Vec::new();
    while times.len() < 3 || times.iter().sum::<f64>() < at_least {
        times.push(seconds(&mut run));
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn normal(len: usize) -> Vec<f32> {
    let philox = Philox::new(1, 2);
    (0..len as u64).map(|i| philox.normal(i)).collect()
}

fn upload(cpu: &Cpu, dtype: DType, len: usize) -> CpuBuffer {
    let values = normal(len);
    let narrow: Vec<bf16> = values.iter().copied().map(bf16::from_f32).collect();
    let data = match dtype {
        DType::Bf16 => HostSlice::Bf16(&narrow),
        _ => HostSlice::F32(&values),
    };
    cpu.upload(data, MemoryKind::Activations).expect("memory")
}
