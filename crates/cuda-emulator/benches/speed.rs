//! How fast the emulator runs the sample kernels, on one host thread and on all, with every check on
//! and with none: millions of warp instructions and billions of matrix operations per second, the
//! median of several launches with the fastest and slowest.
//!
//! `cargo bench -p cuda-emulator --bench speed [-- KERNEL]`, after `scripts/setup-cuda.sh`.

#[path = "../tests/it/common/compile.rs"]
#[allow(dead_code)]
mod compile;

use std::{thread::available_parallelism, time::Instant};

use cuda_emulator::{
    exec::{CheckSet, LaunchConfig, LoadedModule, Settings, launch},
    memory::Memory,
    profile::Profile,
};

/// Timed launches of each kernel.
const LAUNCHES: usize = 9;

/// A kernel at a size that takes a fraction of a second.
struct Workload {
    file: &'static str,
    kernel: &'static str,
    grid: [u32; 3],
    block: u32,
    shared: u32,
    /// Bytes of each buffer; the first parameters are their addresses.
    buffers: &'static [u64],
    /// The parameters after them.
    scalars: &'static [[u8; 4]],
}

const fn int(value: u32) -> [u8; 4] {
    value.to_le_bytes()
}

const HALF: [u8; 4] = [0, 0, 0, 0x3f];
const MANY: u64 = 1 << 19;

const WORKLOADS: [Workload; 6] = [
    Workload {
        file: "vector_add",
        kernel: "vector_add",
        grid: [MANY as u32 / 256, 1, 1],
        block: 256,
        shared: 0,
        buffers: &[4 * MANY; 3],
        scalars: &[int(MANY as u32)],
    },
    Workload {
        file: "rms_norm",
        kernel: "rms_norm",
        grid: [2048, 1, 1],
        block: 256,
        shared: 0,
        buffers: &[2048 * 1152, 1152, 2048 * 1152, 4 * 2048],
        scalars: &[int(576), HALF],
    },
    Workload {
        file: "cross_entropy",
        kernel: "cross_entropy",
        grid: [256, 1, 1],
        block: 256,
        shared: 0,
        buffers: &[4 << 20, 4 * 256, 4 * 256, 4 << 20],
        scalars: &[int(4096), HALF],
    },
    Workload {
        file: "adamw",
        kernel: "adamw",
        grid: [MANY as u32 / 1024, 1, 1],
        block: 256,
        shared: 0,
        buffers: &[4 * MANY, 2 * MANY, 4 * MANY, 4 * MANY, 2 * MANY],
        scalars: &[int(MANY as u32), HALF, HALF, HALF, HALF, HALF, HALF, HALF],
    },
    Workload {
        file: "gemm",
        kernel: "gemm",
        grid: [12, 12, 1],
        block: 128,
        shared: 0,
        buffers: &[2 * 768 * 768, 2 * 768 * 768, 4 * 768 * 768],
        scalars: &[int(768); 4],
    },
    Workload {
        file: "attention",
        kernel: "attention",
        grid: [8, 6, 1],
        block: 128,
        shared: 3 * 64 * 64 * 2,
        buffers: &[512 * 6 * 128, 512 * 6 * 128, 512 * 6 * 128, 512 * 6 * 128, 4 * 512 * 6],
        scalars: &[int(512), HALF],
    },
];

/// Warp instructions, matrix operations, and the seconds of each launch.
fn measure(workload: &Workload, settings: &Settings) -> (u64, u64, Vec<f64>) {
    let mut memory = Memory::new(1 << 32);
    let text = compile::ptx(workload.file, compile::Flavour::Optimised);
    let module = LoadedModule::load(&text, &mut memory).expect("the samples load");
    let kernel = &module.kernels[workload.kernel];
    let mut params = vec![0; kernel.param_bytes];
    let mut values = Vec::new();
    for &bytes in workload.buffers {
        let address = memory.allocate(bytes).expect("room for the workload");
        memory.fill(address, &[0], bytes).expect("just allocated");
        values.extend(address.to_le_bytes());
    }
    values.extend(workload.scalars.as_flattened());
    let used = values.len().min(params.len());
    params[..used].copy_from_slice(&values[..used]);
    let config = LaunchConfig {
        grid: workload.grid,
        block: [workload.block, 1, 1],
        dynamic_shared: workload.shared,
        cooperative: false,
    };
    let mut seconds = Vec::new();
    let mut counts = (0, 0);
    for _ in 0..=LAUNCHES {
        let start = Instant::now();
        let outcome = launch(kernel, &memory, &params, &config, Profile::ALL[0], settings);
        seconds.push(start.elapsed().as_secs_f64());
        assert!(outcome.findings.is_empty(), "{}", outcome.findings[0]);
        counts = (outcome.counters.total_instructions(), outcome.counters.mma_flops);
    }
    seconds.remove(0); // The first launch pays for the pages of the record of accesses.
    seconds.sort_by(f64::total_cmp);
    (counts.0, counts.1, seconds)
}

fn main() {
    let all = available_parallelism().map_or(1, usize::from);
    println!(
        "{:<14} {:>7} {:>6} {:>24} {:>10}",
        "kernel", "threads", "checks", "M warp instr/s", "GFLOP/s"
    );
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    for workload in WORKLOADS.iter().filter(|w| w.kernel.contains(&wanted)) {
        for (threads, checks) in [(1, true), (all, true), (1, false)] {
            let settings = Settings {
                threads,
                checks: if checks { CheckSet::ALL } else { CheckSet::NONE },
                counters: checks,
                ..Settings::default()
            };
            let (instructions, flops, seconds) = measure(workload, &settings);
            let median = seconds[seconds.len() / 2];
            let rate = |s: f64| instructions as f64 / s / 1e6;
            println!(
                "{:<14} {threads:>7} {:>6} {:>9.1} ({:.1} to {:.1}) {:>10.2}",
                workload.kernel,
                if checks { "all" } else { "none" },
                rate(median),
                rate(seconds[seconds.len() - 1]),
                rate(seconds[0]),
                flops as f64 / median / 1e9,
            );
        }
    }
}
