//! Wrong operands give errors that name the operation and the operand.

use kernels::ops::{
    Activation, AdamW, AdamW8bitTensor, AdamWTensor, Attention, AttentionGrads, Dropout, IGNORE,
    Linear, LinearCrossEntropy, LinearGrads, Lora, Moment8, RmsNorm, Rope, RopeTable, Sequences,
    Weight,
};
use kernels::{Backend, Cpu, CpuBuffer, DType, Error, MemoryKind, Result};

use crate::support::upload_u32;

fn floats(len: usize) -> CpuBuffer {
    Cpu::new().zeros(DType::F32, len, MemoryKind::Workspace).unwrap()
}

fn ids(values: &[u32]) -> CpuBuffer {
    upload_u32(&Cpu::new(), values)
}

#[track_caller]
fn length(result: Result<()>, expected: (&str, &str)) {
    match result {
        Err(Error::Length { op, operand, .. }) => assert_eq!((op, operand), expected),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn dtype(result: Result<()>, expected: (&str, &str)) {
    match result {
        Err(Error::DType { op, operand, .. }) => assert_eq!((op, operand), expected),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn parameter(result: Result<()>, expected: &str) {
    match result {
        Err(Error::Parameter { what, .. }) => assert!(what.contains(expected), "{what}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn messages_say_what_is_wrong() {
    let error = Cpu::new().add(&floats(3), &floats(4), &mut floats(3)).unwrap_err();
    let expected = "add: `y` has 4 elements, the shape asks for 3";
    assert_eq!(error.to_string(), expected);
    let error = Cpu::new().scale(&mut ids(&[1]), 2.0).unwrap_err();
    assert_eq!(error.to_string(), "scale: `x` is u32, which this operation does not take");
}

#[test]
fn buffers_larger_than_memory() {
    let cpu = Cpu::new();
    for dtype in [DType::F32, DType::Bf16, DType::U32, DType::U8] {
        for len in [usize::MAX, usize::MAX / 4, 1 << 50] {
            for result in [
                cpu.alloc(dtype, len, MemoryKind::KvCache),
                cpu.zeros(dtype, len, MemoryKind::KvCache),
            ] {
                let bytes = len.saturating_mul(dtype.size());
                let expected = format!("out of memory: {bytes} bytes for KvCache");
                assert!(result.unwrap_err().to_string().starts_with(&expected));
            }
        }
    }
    assert!(cpu.memory().live.iter().all(|(_, bytes)| *bytes == 0));
}

#[test]
fn elementwise_and_rows() {
    let cpu = Cpu::new();
    length(cpu.add_assign(&mut floats(3), &floats(2)), ("add_assign", "x"));
    dtype(cpu.add(&ids(&[1]), &floats(1), &mut floats(1)), ("add", "x"));
    dtype(cpu.download(&ids(&[1])).map(drop), ("download", "buffer"));
    length(cpu.copy(&floats(3), 1, &mut floats(9), 0, 3), ("copy", "src"));
    length(cpu.copy(&floats(3), 0, &mut floats(9), usize::MAX, 3), ("copy", "dst"));
    dtype(cpu.copy(&floats(3), 0, &mut ids(&[0; 3]), 0, 3), ("copy", "dst"));
    let table = floats(6);
    length(cpu.gather_rows(&table, &ids(&[0]), 4, &mut floats(4)), ("gather_rows", "table"));
    length(cpu.gather_rows(&table, &ids(&[0]), 3, &mut floats(4)), ("gather_rows", "out"));
    dtype(cpu.gather_rows(&table, &floats(1), 3, &mut floats(3)), ("gather_rows", "ids"));
    let outside = cpu.gather_rows(&table, &ids(&[1, 2]), 3, &mut floats(6)).unwrap_err();
    assert_eq!(
        outside.to_string(),
        "gather_rows: index 2 at position 1 is outside a table of 2 rows"
    );
}

#[test]
fn norm_rope_and_gate() {
    let cpu = Cpu::new();
    let op = RmsNorm { rows: 2, cols: 3, eps: 1e-5 };
    let norm = |x: &CpuBuffer, weight: &CpuBuffer, inv_rms: &mut CpuBuffer| {
        cpu.rms_norm(op, x, weight, &mut floats(6), inv_rms)
    };
    length(norm(&floats(5), &floats(3), &mut floats(2)), ("rms_norm", "x"));
    length(norm(&floats(6), &floats(2), &mut floats(2)), ("rms_norm", "weight"));
    let mut narrow = cpu.zeros(DType::Bf16, 2, MemoryKind::Workspace).unwrap();
    dtype(norm(&floats(6), &floats(3), &mut narrow), ("rms_norm", "inv_rms"));

    let table = RopeTable { cos: floats(4), sin: floats(4), positions: 2 };
    let op = Rope { tokens: 1, heads: 1, head_dim: 4, inverse: false };
    let rope = |op, positions: &[u32]| cpu.rope(op, &table, &ids(positions), &mut floats(4));
    rope(op, &[1]).unwrap();
    assert!(matches!(rope(op, &[2]), Err(Error::Index { index: 2, len: 2, .. })));
    length(rope(op, &[0, 1]), ("rope", "positions"));
    parameter(rope(Rope { head_dim: 3, ..op }, &[0]), "head_dim 3");

    let act = Activation::Silu;
    length(cpu.gated(act, &floats(2), &floats(3), &mut floats(3)), ("gated", "gate"));
}

#[test]
fn linear() {
    let cpu = Cpu::new();
    let (w, a, b) = (floats(6), floats(3), floats(2));
    let weight = Weight::Dense(&w);
    let plain = Linear { m: 1, n: 2, k: 3, weight, bias: None, lora: None };
    let lora = Lora { a: &a, b: &b, r: 1, scale: 1.0, dropout: None };
    let adapted = Linear { lora: Some(lora), ..plain };
    let run = |op: &Linear<'_, Cpu>, xa: Option<&mut CpuBuffer>| {
        cpu.linear(op, &floats(3), &mut floats(2), xa)
    };
    run(&plain, None).unwrap();
    run(&adapted, Some(&mut floats(1))).unwrap();
    parameter(run(&plain, Some(&mut floats(1))), "`xa`");
    parameter(run(&adapted, None), "`xa`");
    length(run(&adapted, Some(&mut floats(2))), ("linear", "xa"));
    let (short, wrong) = (floats(5), ids(&[0; 6]));
    length(run(&Linear { weight: Weight::Dense(&short), ..plain }, None), ("linear", "weight"));
    dtype(run(&Linear { weight: Weight::Dense(&wrong), ..plain }, None), ("linear", "weight"));
    let quantized = nf4::quantize("w", &[1.0_f32; 5], &[5], &nf4::QuantConfig::default()).unwrap();
    let quantized = cpu.upload_quantized(quantized).unwrap();
    let weight = Weight::Quantized(&quantized);
    length(run(&Linear { weight, ..plain }, None), ("linear", "weight"));
    for p in [1.0, -0.1, f32::NAN] {
        let dropout = Some(Dropout { p, key: 0, stream: 0 });
        let op = Linear { lora: Some(Lora { dropout, ..lora }), ..plain };
        parameter(run(&op, Some(&mut floats(1))), "dropout probability");
    }

    let none = || LinearGrads { dx: None, accumulate_dx: false, da: None, db: None };
    let back =
        |op: &Linear<'_, Cpu>, grads| cpu.linear_backward(op, &floats(3), None, &floats(2), grads);
    let (mut da, mut dx) = (floats(3), floats(4));
    parameter(back(&plain, LinearGrads { da: Some(&mut da), ..none() }), "no adapter");
    length(back(&plain, LinearGrads { dx: Some(&mut dx), ..none() }), ("linear_backward", "dx"));
}

fn sequences(q_start: &[u32], k_start: &[u32], k_len: &[u32]) -> Sequences<Cpu> {
    Sequences {
        q_start: ids(q_start),
        k_start: ids(k_start),
        k_len: ids(k_len),
        count: k_len.len(),
        q_tokens: 3,
        k_tokens: 4,
        max_q: 3,
        max_k: 4,
    }
}

#[test]
fn attention() {
    let cpu = Cpu::new();
    let op =
        Attention { heads: 2, kv_heads: 1, head_dim: 2, scale: 1.0, window: None, softcap: None };
    let run = |op, sequences: &Sequences<Cpu>| {
        let (q, k, v) = (floats(12), floats(8), floats(8));
        cpu.attention(op, sequences, &q, &k, &v, &mut floats(12), &mut floats(6))
    };
    let good = sequences(&[0, 2, 3], &[0, 2], &[2, 2]);
    run(op, &good).unwrap();
    parameter(run(Attention { kv_heads: 3, ..op }, &good), "cannot share");
    parameter(run(Attention { window: Some(0), ..op }, &good), "window");
    parameter(run(Attention { softcap: Some(0.0), ..op }, &good), "softcap");
    parameter(run(op, &sequences(&[0, 2, 2], &[0, 2], &[2, 2])), "do not cover");
    parameter(run(op, &sequences(&[0, 2, 3], &[0, 3], &[2, 2])), "sequence 1");
    parameter(run(op, &sequences(&[0, 2, 3], &[0, 2], &[1, 2])), "2 queries but 1 keys");
    parameter(run(op, &sequences(&[0, 9, 3], &[0, 2], &[2, 2])), "sequence 0");
    length(run(op, &sequences(&[0, 3], &[0, 2], &[2, 2])), ("attention", "q_start"));
    length(run(Attention { head_dim: 3, ..op }, &good), ("attention", "q"));

    let (mut dq, mut dk, mut dv) = (floats(12), floats(7), floats(8));
    let grads = AttentionGrads {
        q: &floats(12),
        k: &floats(8),
        v: &floats(8),
        o: &floats(12),
        lse: &floats(6),
        d_o: &floats(12),
        dq: &mut dq,
        dk: &mut dk,
        dv: &mut dv,
    };
    length(cpu.attention_backward(op, &good, grads), ("attention_backward", "dk"));
}

#[test]
fn cross_entropy_and_optimizer() {
    let cpu = Cpu::new();
    let head = floats(10);
    let op = LinearCrossEntropy {
        tokens: 2,
        hidden: 2,
        vocab: 5,
        weight: Weight::Dense(&head),
        grad_scale: 1.0,
    };
    let run = |labels: &[u32], loss: usize| {
        let labels = ids(labels);
        cpu.linear_cross_entropy(&op, &floats(4), &labels, &mut floats(loss), None)
    };
    run(&[4, IGNORE], 2).unwrap();
    let outside = run(&[IGNORE, 5], 2);
    assert!(matches!(outside, Err(Error::Index { index: 5, position: 1, len: 5, .. })));
    length(run(&[0], 2), ("linear_cross_entropy", "labels"));
    length(run(&[0, 1], 1), ("linear_cross_entropy", "token_loss"));

    let op = AdamW {
        lr: 0.1,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weight_decay: 0.0,
        step: 1,
        grad_scale: 1.0,
    };
    let step = |op, grad: &CpuBuffer| {
        let (mut param, mut m, mut v) = (floats(2), floats(2), floats(2));
        let tensor = AdamWTensor { param: &mut param, grad, m: &mut m, v: &mut v };
        cpu.adamw(op, &mut [tensor])
    };
    length(step(op, &floats(3)), ("adamw", "grad"));
    let narrow = cpu.zeros(DType::Bf16, 2, MemoryKind::Gradients).unwrap();
    dtype(step(op, &narrow), ("adamw", "grad"));
    parameter(step(AdamW { step: 0, ..op }, &floats(2)), "from 1");
    let step = |op, codes: DType, absmax: usize| {
        let zeros = |len| cpu.zeros(codes, len, MemoryKind::Optimizer).unwrap();
        let (mut param, grad) = (floats(257), floats(257));
        let (mut m_codes, mut v_codes, mut m, mut v) =
            (zeros(257), zeros(257), floats(2), floats(absmax));
        let tensor = AdamW8bitTensor {
            param: &mut param,
            grad: &grad,
            m: Moment8 { codes: &mut m_codes, absmax: &mut m },
            v: Moment8 { codes: &mut v_codes, absmax: &mut v },
        };
        cpu.adamw_8bit(op, &mut [tensor])
    };
    step(op, DType::U8, 2).unwrap();
    dtype(step(op, DType::U32, 2), ("adamw_8bit", "m.codes"));
    length(step(op, DType::U8, 1), ("adamw_8bit", "v.absmax"));
    parameter(step(AdamW { step: 0, ..op }, DType::U8, 2), "from 1");
    dtype(cpu.squared_norm(&[&ids(&[1])]).map(drop), ("squared_norm", "buffers"));
}
