//! The number of threads changes no bit of any result of the CPU backend.

use kernels::ops::{
    Activation, AdamW, AdamWTensor, LinearCrossEntropy, LinearGrads, RmsNorm, Weight,
};
use kernels::{Backend, Cpu, CpuBuffer, DType};

use crate::support::{Host, output, upload_u32};
use crate::{attention, cross_entropy, linear};

/// Bits of results, by name.
type Bits = Vec<(&'static str, Vec<u32>)>;

fn bits(buffer: &CpuBuffer) -> Vec<u32> {
    let values = Cpu::new().download(buffer).unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

/// The results of `run`, the same in pools of 1, 2 and 3 threads and again.
fn check(run: impl Fn(&Cpu, DType) -> Bits + Sync) {
    for dtype in [DType::F32, DType::Bf16] {
        let mut expected: Option<Bits> = None;
        for threads in [1, 2, 3, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let got = pool.install(|| run(&Cpu::new(), dtype));
            let expected = expected.get_or_insert_with(|| got.clone());
            for ((what, got), (_, expected)) in got.iter().zip(&*expected) {
                assert!(got == expected, "{what} in {dtype} differs with {threads} threads");
            }
        }
    }
}

#[test]
fn linear() {
    let dense = linear::Stored::Dense;
    for (stored, shape, r) in [
        (linear::nf4(64, true), (700, 450, 300), 8),
        (linear::nf4(64, true), (3, 500, 300), 8),
        (linear::nf4(64, true), (40, 1_200, 1_100), 4),
        (dense(DType::F32), (300, 450, 300), 8),
        (dense(DType::Bf16), (300, 450, 300), 8),
    ] {
        let lora = Some((r, 0.1));
        check_linear(linear::Case { shape, stored, bias: true, lora }, r);
    }
}

fn check_linear(case: linear::Case, r: usize) {
    let (m, n, k) = case.shape;
    let zeros = |cpu: &Cpu, len| Host::new(DType::F32, vec![0.0; len]).upload(cpu);
    check(|cpu, dtype| {
        let uploaded = linear::Operands::new(case, dtype).upload(cpu);
        let (y, xa) = uploaded.forward(cpu, dtype);
        let dy = Host::normal(dtype, 6, m * n).upload(cpu);
        let mut dx = output(cpu, dtype, m * k);
        let mut sum = Host::normal(dtype, 7, m * k).upload(cpu);
        let (mut da, mut db) = (zeros(cpu, r * k), zeros(cpu, n * r));
        let (da, db) = (&mut da, &mut db);
        for (dx, accumulate_dx) in [(&mut dx, false), (&mut sum, true)] {
            let grads = LinearGrads { dx: Some(dx), accumulate_dx, da: Some(da), db: Some(db) };
            cpu.linear_backward(&uploaded.op(), &uploaded.x, xa.as_ref(), &dy, grads).unwrap();
        }
        let xa = xa.unwrap();
        let all =
            [("y", &y), ("xa", &xa), ("dx", &dx), ("accumulated dx", &sum), ("da", da), ("db", db)];
        all.map(|(what, x)| (what, bits(x))).into()
    });
}

#[test]
fn attention() {
    let lens = [(300, 300), (1, 400), (50, 90)];
    let case = attention::Case::new((6, 2, 16), &lens, Some(200), Some(5.0));
    check(|cpu, dtype| {
        let operands = attention::Operands::new(&case, dtype);
        let (o, lse) = attention::forward(cpu, &case, &operands, dtype);
        let [dq, dk, dv] = attention::backward(cpu, &case, &operands, (&o, &lse), dtype);
        let all = [("o", &o), ("lse", &lse), ("dq", &dq), ("dk", &dk), ("dv", &dv)];
        all.map(|(what, x)| (what, bits(x))).into()
    });
}

#[test]
fn linear_cross_entropy() {
    let (tokens, hidden, vocab) = (400, 40, 3_000);
    let labels = cross_entropy::labels(tokens, vocab);
    check(|cpu, dtype| {
        let head = Host::normal(dtype, 2, vocab * hidden).upload(cpu);
        let op = LinearCrossEntropy {
            tokens,
            hidden,
            vocab,
            weight: Weight::Dense(&head),
            grad_scale: 0.1,
        };
        let x = Host::normal(dtype, 1, tokens * hidden).upload(cpu);
        let labels = upload_u32(cpu, &labels);
        let mut loss = output(cpu, DType::F32, tokens);
        let mut dx = output(cpu, dtype, tokens * hidden);
        cpu.linear_cross_entropy(&op, &x, &labels, &mut loss, Some(&mut dx)).unwrap();
        vec![("loss", bits(&loss)), ("dx", bits(&dx))]
    });
}

#[test]
fn rows_and_elements() {
    let op = RmsNorm { rows: 200, cols: 300, eps: 1e-5 };
    let len = op.rows * op.cols;
    check(|cpu, dtype| {
        let [x, up, dy] = [1, 2, 3].map(|seed| Host::normal(dtype, seed, len).upload(cpu));
        let weight = Host::normal(dtype, 4, op.cols).upload(cpu);
        let mut inv_rms = output(cpu, DType::F32, op.rows);
        let [mut y, mut dx, mut gated, mut d_gate, mut d_up] =
            [(); 5].map(|()| output(cpu, dtype, len));
        let mut sum = Host::normal(dtype, 5, len).upload(cpu);
        cpu.rms_norm(op, &x, &weight, &mut y, &mut inv_rms).unwrap();
        cpu.rms_norm_backward(op, &x, &weight, &inv_rms, &dy, &mut dx, false).unwrap();
        cpu.rms_norm_backward(op, &x, &weight, &inv_rms, &dy, &mut sum, true).unwrap();
        let act = Activation::Silu;
        cpu.gated(act, &x, &up, &mut gated).unwrap();
        cpu.gated_backward(act, &x, &up, &dy, &mut d_gate, &mut d_up).unwrap();
        let norm = cpu.squared_norm(&[&x, &up]).unwrap().to_bits();
        vec![
            ("rms_norm", bits(&y)),
            ("rms_norm_backward", bits(&dx)),
            ("rms_norm_backward, accumulated", bits(&sum)),
            ("gated", bits(&gated)),
            ("d_gate", bits(&d_gate)),
            ("d_up", bits(&d_up)),
            ("squared_norm", vec![norm as u32, (norm >> 32) as u32]),
        ]
    });
}

#[test]
fn adamw() {
    let op = AdamW {
        lr: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.01,
        step: 3,
        grad_scale: 0.5,
    };
    check(|cpu, _| {
        let [mut param, grad, mut m, mut v] =
            [1, 2, 3, 4].map(|seed| Host::normal(DType::F32, seed, 50_001).upload(cpu));
        let tensor = AdamWTensor { param: &mut param, grad: &grad, m: &mut m, v: &mut v };
        cpu.adamw(op, &mut [tensor]).unwrap();
        vec![("param", bits(&param)), ("m", bits(&m)), ("v", bits(&v))]
    });
}
