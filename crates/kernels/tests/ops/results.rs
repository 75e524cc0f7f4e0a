//! Results of operations as bits, to be compared between runs that must not differ.

use kernels::ops::{
    Activation, AdamW, AdamWTensor, LinearCrossEntropy, LinearGrads, RmsNorm, Rope, RopeTable,
    Weight,
};
use kernels::{Backend, Buffer, DType};

use crate::support::{Host, output, upload_u32};
use crate::{attention, cross_entropy, operands, optimizer, rope};

/// Bits of results, by name.
pub(crate) type Bits = Vec<(&'static str, Vec<u32>)>;

pub(crate) fn bits<K: Backend>(k: &K, buffer: &K::Buffer) -> Vec<u32> {
    k.download(buffer).unwrap().into_iter().map(f32::to_bits).collect()
}

/// FNV-1a.
pub(crate) fn hash(words: &[u32]) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    words.iter().flat_map(|word| word.to_le_bytes()).fold(0xcbf2_9ce4_8422_2325, step)
}

/// Of a linear with an adapter, forward and backward.
pub(crate) fn of_linear<K: Backend>(k: &K, case: operands::Case, dtype: DType) -> Bits {
    let (m, n, depth) = case.shape;
    let (r, _) = case.lora.unwrap();
    let zeros = |len| Host::new(DType::F32, vec![0.0; len]).upload(k);
    let uploaded = operands::Operands::new(case, dtype).upload(k);
    let (y, xa) = uploaded.forward(k, dtype);
    let dy = Host::normal(dtype, 6, m * n).upload(k);
    let mut dx = output(k, dtype, m * depth);
    let mut sum = Host::normal(dtype, 7, m * depth).upload(k);
    let (mut da, mut db) = (zeros(r * depth), zeros(n * r));
    let (da, db) = (&mut da, &mut db);
    for (dx, accumulate_dx) in [(&mut dx, false), (&mut sum, true)] {
        let grads = LinearGrads { dx: Some(dx), accumulate_dx, da: Some(da), db: Some(db) };
        k.linear_backward(&uploaded.op(), &uploaded.x, xa.as_ref(), &dy, grads).unwrap();
    }
    let xa = xa.unwrap();
    let all =
        [("y", &y), ("xa", &xa), ("dx", &dx), ("accumulated dx", &sum), ("da", da), ("db", db)];
    all.map(|(what, x)| (what, bits(k, x))).into()
}

/// Of attention, forward and backward.
pub(crate) fn of_attention<K: Backend>(k: &K, case: &attention::Case, dtype: DType) -> Bits {
    let operands = attention::Operands::new(case, dtype);
    let (o, lse) = attention::forward(k, case, &operands, dtype);
    let [dq, dk, dv] = attention::backward(k, case, &operands, (&o, &lse), dtype);
    let all = [("o", &o), ("lse", &lse), ("dq", &dq), ("dk", &dk), ("dv", &dv)];
    all.map(|(what, x)| (what, bits(k, x))).into()
}

/// Of the output projection with its loss.
pub(crate) fn of_cross_entropy<K: Backend>(
    k: &K,
    (tokens, hidden, vocab): (usize, usize, usize),
    dtype: DType,
) -> Bits {
    let labels = cross_entropy::labels(tokens, vocab);
    let head = Host::normal(dtype, 2, vocab * hidden).upload(k);
    let weight = Weight::Dense(&head);
    let op = LinearCrossEntropy { tokens, hidden, vocab, weight, grad_scale: 0.1 };
    let x = Host::normal(dtype, 1, tokens * hidden).upload(k);
    let labels = upload_u32(k, &labels);
    let mut loss = output(k, DType::F32, tokens);
    let mut dx = output(k, dtype, tokens * hidden);
    k.linear_cross_entropy(&op, &x, &labels, &mut loss, Some(&mut dx)).unwrap();
    vec![("loss", bits(k, &loss)), ("dx", bits(k, &dx))]
}

/// Of norms, gates, sums of squares and the embedding's rows.
pub(crate) fn of_rows<K: Backend>(k: &K, rows: usize, cols: usize, dtype: DType) -> Bits {
    let op = RmsNorm { rows, cols, eps: 1e-5 };
    let len = rows * cols;
    let [x, up, dy] = [1, 2, 3].map(|seed| Host::normal(dtype, seed, len).upload(k));
    let weight = Host::normal(dtype, 4, cols).upload(k);
    let mut inv_rms = output(k, DType::F32, rows);
    let [mut y, mut dx, mut gated, mut d_gate, mut d_up, mut added, mut picked] =
        [(); 7].map(|()| output(k, dtype, len));
    let mut sum = Host::normal(dtype, 5, len).upload(k);
    k.rms_norm(op, &x, &weight, &mut y, &mut inv_rms).unwrap();
    k.rms_norm_backward(op, &x, &weight, &inv_rms, &dy, &mut dx, false).unwrap();
    k.rms_norm_backward(op, &x, &weight, &inv_rms, &dy, &mut sum, true).unwrap();
    let act = Activation::Silu;
    k.gated(act, &x, &up, &mut gated).unwrap();
    for (from, to) in [(&x, &mut d_gate), (&up, &mut d_up)] {
        k.copy(from, 0, to, 0, from.len()).unwrap();
    }
    let mut d_gated = Host::normal(dtype, 3, len).upload(k);
    k.gated_backward(act, &mut d_gate, &mut d_up, &mut d_gated).unwrap();
    k.add(&x, &up, &mut added).unwrap();
    k.add_assign(&mut added, &dy).unwrap();
    k.scale(&mut added, 0.3).unwrap();
    let ids: Vec<u32> = (0..rows).map(|i| (i * 7 % rows) as u32).collect();
    k.gather_rows(&x, &upload_u32(k, &ids), cols, &mut picked).unwrap();
    let norm = k.squared_norm(&[&x, &up]).unwrap().to_bits();
    vec![
        ("rms_norm", bits(k, &y)),
        ("rms_norm_backward", bits(k, &dx)),
        ("rms_norm_backward, accumulated", bits(k, &sum)),
        ("gated", bits(k, &gated)),
        ("d_gate", bits(k, &d_gate)),
        ("d_up", bits(k, &d_up)),
        ("sum", bits(k, &added)),
        ("rows", bits(k, &picked)),
        ("squared_norm", vec![norm as u32, (norm >> 32) as u32]),
    ]
}

/// Of the rotary embedding.
pub(crate) fn of_rope<K: Backend>(k: &K, tokens: usize, dtype: DType) -> Bits {
    let (heads, head_dim, positions) = (3, 10, 40);
    let (cos, sin) = rope::table(positions, head_dim / 2);
    let table = RopeTable { cos: cos.upload(k), sin: sin.upload(k), positions };
    let ids: Vec<u32> = (0..tokens).map(|i| (i * 11 % positions) as u32).collect();
    let mut x = Host::normal(dtype, 1, tokens * heads * head_dim).upload(k);
    let op = Rope { tokens, heads, head_dim, inverse: false };
    k.rope(op, &table, &upload_u32(k, &ids), &mut x).unwrap();
    vec![("rope", bits(k, &x))]
}

/// Of a step of the optimizer.
pub(crate) fn of_adamw<K: Backend>(k: &K, len: usize) -> Bits {
    let op = AdamW {
        lr: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.01,
        step: 3,
        grad_scale: 0.5,
    };
    let [mut param, grad, mut m, mut v] =
        [1, 2, 3, 4].map(|seed| Host::normal(DType::F32, seed, len).upload(k));
    let tensor = AdamWTensor { param: &mut param, grad: &grad, m: &mut m, v: &mut v };
    k.adamw(op, &mut [tensor]).unwrap();
    let eight = optimizer::step_eight(k, op, &[optimizer::Eight::new(5, len)]).remove(0);
    let [[m_codes, m_absmax], [v_codes, v_absmax]] = &eight.moments;
    [
        ("param", &param),
        ("m", &m),
        ("v", &v),
        ("param of 8-bit", &eight.param),
        ("m's codes", m_codes),
        ("m's absmax", m_absmax),
        ("v's codes", v_codes),
        ("v's absmax", v_absmax),
    ]
    .map(|(what, buffer)| (what, bits(k, buffer)))
    .into()
}
