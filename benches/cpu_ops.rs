//! Operations of the CPU backend at the shapes of SmolLM2-135M and 1024 tokens.
//!
//! Matmuls count floating-point operations: criterion's `Gelem/s` are GFLOP/s. Attention counts
//! queries; the rest counts the bytes read and written, in GB/s. `dense gemm` is the yardstick: the
//! `gemm` crate alone, on all threads.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use kernels::ops::{
    Activation, Attention, AttentionGrads, IGNORE, Linear, LinearCrossEntropy, LinearGrads, Lora,
    RmsNorm, Sequences, Weight,
};
use kernels::{Backend, Cpu, CpuBuffer, DType, HostSlice, MemoryKind, Philox};

const TOKENS: usize = 1024;
const HIDDEN: usize = 576;
const INTERMEDIATE: usize = 1536;
const VOCAB: usize = 49_152;
const RANK: usize = 16;

fn normal(len: usize) -> Vec<f32> {
    let philox = Philox::new(1, 2);
    (0..len as u64).map(|i| philox.normal(i)).collect()
}

fn upload(cpu: &Cpu, dtype: DType, len: usize) -> CpuBuffer {
    let values = normal(len);
    let kind = MemoryKind::Activations;
    match dtype {
        DType::Bf16 => {
            let narrow: Vec<bf16> = values.into_iter().map(bf16::from_f32).collect();
            cpu.upload(HostSlice::Bf16(&narrow), kind).unwrap()
        }
        _ => cpu.upload(HostSlice::F32(&values), kind).unwrap(),
    }
}

fn empty(cpu: &Cpu, dtype: DType, len: usize) -> CpuBuffer {
    cpu.zeros(dtype, len, MemoryKind::Activations).unwrap()
}

fn ids(cpu: &Cpu, values: &[u32]) -> CpuBuffer {
    cpu.upload(HostSlice::U32(values), MemoryKind::Data).unwrap()
}

/// `(n, k)` of the linears: k/v, q/o, gate/up, down.
const LINEARS: [(usize, usize); 4] =
    [(192, HIDDEN), (HIDDEN, HIDDEN), (INTERMEDIATE, HIDDEN), (HIDDEN, INTERMEDIATE)];

fn yardstick(c: &mut Criterion) {
    let mut group = c.benchmark_group("dense gemm");
    for (n, k) in LINEARS {
        let (x, w, mut y) = (normal(TOKENS * k), normal(n * k), vec![0.0_f32; TOKENS * n]);
        group.throughput(Throughput::Elements((2 * TOKENS * n * k) as u64));
        group.bench_function(format!("{n}x{k}"), |b| b.iter(|| whole_gemm(&x, &w, &mut y, (n, k))));
    }
}

#[expect(unsafe_code, reason = "the gemm crate takes pointers")]
fn whole_gemm(x: &[f32], w: &[f32], y: &mut [f32], (n, k): (usize, usize)) {
    let (n_stride, k_stride) = (n as isize, k as isize);
    assert_eq!((x.len(), w.len(), y.len()), (TOKENS * k, n * k, TOKENS * n));
    // SAFETY: the lengths are those of the shapes, checked above, and `y` is borrowed exclusively.
    unsafe {
        gemm::gemm(
            TOKENS,
            n,
            k,
            y.as_mut_ptr(),
            1,
            n_stride,
            false,
            x.as_ptr(),
            1,
            k_stride,
            w.as_ptr(),
            k_stride,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(0),
        );
    }
}

#[derive(Clone, Copy, Debug)]
enum Stored {
    Nf4,
    F32,
    Bf16,
}

fn linear(c: &mut Criterion) {
    let cpu = &Cpu::new();
    for (stored, dtype) in [
        (Stored::Nf4, DType::F32),
        (Stored::F32, DType::F32),
        (Stored::Bf16, DType::F32),
        (Stored::Nf4, DType::Bf16),
    ] {
        for (n, k) in LINEARS {
            for m in [TOKENS, 8, 1] {
                let name = format!("{stored:?} {dtype} {m}x{n}x{k}");
                bench_linear(c, cpu, &name, stored, dtype, (m, n, k));
            }
        }
    }
}

fn bench_linear(
    c: &mut Criterion,
    cpu: &Cpu,
    name: &str,
    stored: Stored,
    dtype: DType,
    (m, n, k): (usize, usize, usize),
) {
    let quantized = nf4::quantize("w", &normal(n * k), &[n, k], &nf4::QuantConfig::default());
    let quantized = cpu.upload_quantized(quantized.unwrap()).unwrap();
    let dense = match stored {
        Stored::Bf16 => upload(cpu, DType::Bf16, n * k),
        _ => upload(cpu, DType::F32, n * k),
    };
    let weight = match stored {
        Stored::Nf4 => Weight::Quantized(&quantized),
        _ => Weight::Dense(&dense),
    };
    let [x, dy] = [m * k, m * n].map(|len| upload(cpu, dtype, len));
    let [mut y, mut dx] = [m * n, m * k].map(|len| empty(cpu, dtype, len));
    let [a, b] = [RANK * k, n * RANK].map(|len| upload(cpu, DType::F32, len));
    let [mut da, mut db, mut xa] =
        [RANK * k, n * RANK, m * RANK].map(|len| empty(cpu, DType::F32, len));
    let op = Linear { m, n, k, weight, bias: None, lora: None };
    let lora = Lora { a: &a, b: &b, r: RANK, scale: 2.0, dropout: None };
    let adapted = Linear { lora: Some(lora), ..op };

    let mut group = c.benchmark_group("linear");
    group.throughput(Throughput::Elements((2 * m * n * k) as u64));
    group.bench_function(BenchmarkId::new("forward", name), |b| {
        b.iter(|| cpu.linear(&op, &x, &mut y, None).unwrap());
    });
    if m < TOKENS {
        return;
    }
    group.bench_function(BenchmarkId::new("forward with LoRA", name), |b| {
        b.iter(|| cpu.linear(&adapted, &x, &mut y, Some(&mut xa)).unwrap());
    });
    group.bench_function(BenchmarkId::new("backward with LoRA", name), |b| {
        b.iter(|| {
            let grads = LinearGrads {
                dx: Some(&mut dx),
                accumulate_dx: false,
                da: Some(&mut da),
                db: Some(&mut db),
            };
            cpu.linear_backward(&adapted, &x, Some(&xa), &dy, grads).unwrap();
        });
    });
}

fn attention(c: &mut Criterion) {
    let cpu = &Cpu::new();
    let (heads, kv_heads, head_dim) = (9, 3, 64);
    let op = Attention { heads, kv_heads, head_dim, scale: 0.125, window: None, softcap: None };
    let mut group = c.benchmark_group("attention");
    // A training row, packed ones, and a step of generation for 8 sequences.
    let shapes = [
        ("1 of 1024", 1, 1024, 1024),
        ("4 of 256", 4, 256, 256),
        ("8 of 128", 8, 128, 128),
        ("decode 8 at 1024", 8, 1, 1024),
    ];
    for (dtype, (name, count, q_len, k_len)) in
        [DType::F32, DType::Bf16].into_iter().flat_map(|dtype| shapes.map(|shape| (dtype, shape)))
    {
        let name = format!("{dtype} {name}");
        let starts = |len: usize| (0..=count).map(|i| (i * len) as u32).collect::<Vec<_>>();
        let sequences = Sequences {
            q_start: ids(cpu, &starts(q_len)),
            k_start: ids(cpu, &starts(k_len)[..count]),
            k_len: ids(cpu, &vec![k_len as u32; count]),
            count,
            q_tokens: count * q_len,
            k_tokens: count * k_len,
            max_q: q_len,
            max_k: k_len,
        };
        let (q_len, k_len) = (sequences.q_tokens, sequences.k_tokens);
        let [q, d_o] = [(); 2].map(|()| upload(cpu, dtype, q_len * heads * head_dim));
        let [k, v] = [(); 2].map(|()| upload(cpu, dtype, k_len * kv_heads * head_dim));
        let [mut o, mut dq] = [(); 2].map(|()| empty(cpu, dtype, q_len * heads * head_dim));
        let [mut dk, mut dv] = [(); 2].map(|()| empty(cpu, dtype, k_len * kv_heads * head_dim));
        let mut lse = empty(cpu, DType::F32, q_len * heads);
        group.throughput(Throughput::Elements(q_len as u64));
        group.bench_function(BenchmarkId::new("forward", &name), |b| {
            b.iter(|| cpu.attention(op, &sequences, &q, &k, &v, &mut o, &mut lse).unwrap());
        });
        if q_len < k_len {
            continue;
        }
        group.bench_function(BenchmarkId::new("backward", &name), |b| {
            b.iter(|| {
                let grads = AttentionGrads {
                    q: &q,
                    k: &k,
                    v: &v,
                    o: &o,
                    lse: &lse,
                    d_o: &d_o,
                    dq: &mut dq,
                    dk: &mut dk,
                    dv: &mut dv,
                };
                cpu.attention_backward(op, &sequences, grads).unwrap();
            });
        });
    }
}

fn cross_entropy(c: &mut Criterion) {
    let cpu = &Cpu::new();
    let head = upload(cpu, DType::Bf16, VOCAB * HIDDEN);
    let x = upload(cpu, DType::F32, TOKENS * HIDDEN);
    let mut loss = empty(cpu, DType::F32, TOKENS);
    let mut dx = empty(cpu, DType::F32, TOKENS * HIDDEN);
    let op = LinearCrossEntropy {
        tokens: TOKENS,
        hidden: HIDDEN,
        vocab: VOCAB,
        weight: Weight::Dense(&head),
        grad_scale: 1.0,
    };
    let mut group = c.benchmark_group("linear_cross_entropy");
    group.sample_size(10);
    for trained in [1024, 256] {
        let label = |i: usize| if i * trained % TOKENS < trained { i as u32 } else { IGNORE };
        let labels = ids(cpu, &(0..TOKENS).map(label).collect::<Vec<_>>());
        group.throughput(Throughput::Elements((4 * trained * VOCAB * HIDDEN) as u64));
        group.bench_function(format!("loss and gradient, {trained} trained"), |b| {
            b.iter(|| {
                cpu.linear_cross_entropy(&op, &x, &labels, &mut loss, Some(&mut dx)).unwrap();
            });
        });
    }
}

fn rows_and_elements(c: &mut Criterion) {
    let cpu = &Cpu::new();
    for dtype in [DType::F32, DType::Bf16] {
        let op = RmsNorm { rows: TOKENS, cols: HIDDEN, eps: 1e-5 };
        let len = TOKENS * HIDDEN;
        let [x, dy] = [(); 2].map(|()| upload(cpu, dtype, len));
        let weight = upload(cpu, dtype, HIDDEN);
        let mut y = empty(cpu, dtype, len);
        let mut inv_rms = empty(cpu, DType::F32, TOKENS);
        let mut group = c.benchmark_group(format!("elementwise {dtype}"));
        group.throughput(Throughput::BytesDecimal((2 * len * dtype.size()) as u64));
        group.bench_function("rms_norm", |b| {
            b.iter(|| cpu.rms_norm(op, &x, &weight, &mut y, &mut inv_rms).unwrap());
        });
        group.throughput(Throughput::BytesDecimal((3 * len * dtype.size()) as u64));
        group.bench_function("rms_norm_backward", |b| {
            b.iter(|| {
                cpu.rms_norm_backward(op, &x, &weight, &inv_rms, &dy, &mut y, false).unwrap();
            });
        });
        group.bench_function("add", |b| b.iter(|| cpu.add(&x, &dy, &mut y).unwrap()));

        let len = TOKENS * INTERMEDIATE;
        let [mut gate, mut up, mut dy] = [(); 3].map(|()| upload(cpu, dtype, len));
        let mut out = empty(cpu, dtype, len);
        let act = Activation::Silu;
        group.throughput(Throughput::BytesDecimal((3 * len * dtype.size()) as u64));
        group.bench_function("swiglu", |b| {
            b.iter(|| cpu.gated(act, &gate, &up, &mut out).unwrap());
        });
        group.throughput(Throughput::BytesDecimal((6 * len * dtype.size()) as u64));
        // In place: values vanish as they are taken for inputs again, which changes no time.
        group.bench_function("swiglu_backward", |b| {
            b.iter(|| cpu.gated_backward(act, &mut gate, &mut up, &mut dy).unwrap());
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_secs(1))
        .sample_size(20);
    targets = yardstick, linear, attention, cross_entropy, rows_and_elements
}
criterion_main!(benches);
