//! Times the products of bf16 activations with NF4 weights on the CPU, with the matrix unit and
//! without it: `cargo run --release -p kernels --example cpu_linear [M,N,K]...`

use std::env;
use std::time::Instant;

use half::bf16;
use kernels::ops::{Linear, LinearGrads, Weight};
use kernels::{Backend, Cpu, CpuBuffer, HostSlice, MemoryKind, Philox};

/// Timed runs of each, of which the fastest counts: what else the machine does only adds to it.
const RUNS: usize = 15;
const SHAPES: &str = "1,4096,4096 16,4096,4096 256,4096,4096 1024,4096,4096 1024,192,576 \
                      1024,576,576 1024,1536,576 1024,576,1536";

fn main() {
    let given: Vec<String> = env::args().skip(1).collect();
    let shapes = if given.is_empty() { SHAPES.to_owned() } else { given.join(" ") };
    let cpu = Cpu::new();
    println!("matrix unit: {}; TFLOP/s", if cpu.has_amx() { "AMX" } else { "none" });
    println!("{:>16} {:>10} {:>8} {:>10} {:>8}", "M,N,K", "forward", "ratio", "dX", "ratio");
    for shape in shapes.split_whitespace() {
        let sizes: Vec<usize> =
            shape.split(',').map(|x| x.parse().expect("a shape is M,N,K")).collect();
        let &[m, n, k] = &sizes[..] else { panic!("a shape is M,N,K") };
        let [[forward, slow_forward], [dx, slow_dx]] = time(&cpu, (m, n, k));
        let rate = |seconds: f64| 2e-12 * (m * n * k) as f64 / seconds;
        println!(
            "{shape:>16} {:10.3} {:8.1} {:10.3} {:8.1}",
            rate(forward),
            slow_forward / forward,
            rate(dx),
            slow_dx / dx
        );
    }
}

/// Seconds of the forward and of the gradient of X, each with the matrix unit and without it.
fn time(cpu: &Cpu, (m, n, k): (usize, usize, usize)) -> [[f64; 2]; 2] {
    let config = nf4::QuantConfig::default();
    let weight = nf4::quantize("w", &normal(n * k), &[n, k], &config).expect("a finite weight");
    let weight = cpu.upload_quantized(weight).expect("memory");
    let weight = Weight::Quantized(&weight);
    let op = Linear { m, n, k, weight, bias: None, lora: None };
    let [x, dy] = [m * k, m * n].map(|len| upload(cpu, len));
    let [mut y, mut dx] = [m * n, m * k].map(|len| upload(cpu, len));
    let backends = [cpu.clone(), cpu.clone().without_amx()];
    let forward = fastest(|i| backends[i].linear(&op, &x, &mut y, None).expect("valid"));
    let backward = fastest(|i| {
        let grads = LinearGrads { dx: Some(&mut dx), accumulate_dx: false, da: None, db: None };
        backends[i].linear_backward(&op, &x, None, &dy, grads).expect("valid");
    });
    [forward, backward]
}

fn fastest(mut run: impl FnMut(usize)) -> [f64; 2] {
    [0, 1].map(|which| {
        let mut seconds = || {
            let start = Instant::now();
            run(which);
            start.elapsed().as_secs_f64()
        };
        (0..RUNS).map(|_| seconds()).fold(f64::INFINITY, f64::min)
    })
}

fn normal(len: usize) -> Vec<f32> {
    let philox = Philox::new(1, 2);
    (0..len as u64).map(|i| philox.normal(i)).collect()
}

fn upload(cpu: &Cpu, len: usize) -> CpuBuffer {
    let values: Vec<bf16> = normal(len).into_iter().map(bf16::from_f32).collect();
    cpu.upload(HostSlice::Bf16(&values), MemoryKind::Activations).expect("memory")
}
