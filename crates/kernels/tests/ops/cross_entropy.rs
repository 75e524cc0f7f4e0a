use kernels::ops::{IGNORE, LinearCrossEntropy, Weight};
use kernels::reference::{self, CrossEntropyInputs};
use kernels::{Backend, Buffer, DType};

use crate::arithmetic::{in_integers, in_parts};
use crate::operands::{Stored, fp4, nf4};
use crate::support::{FLOOR, Host, assert_close, assert_close_above, output, upload_u32};

pub(crate) fn labels(tokens: usize, vocab: usize) -> Vec<u32> {
    let label = |i: usize| if i % 3 == 1 { IGNORE } else { (i * 131 % vocab) as u32 };
    (0..tokens).map(label).collect()
}

pub(crate) fn check_cross_entropy<K: Backend>(k: &K, dtype: DType) {
    let shapes = [
        (0, 3, 5),
        (1, 1, 1),
        (3, 7, 11),
        (17, 33, 513),
        (41, 20, 5_000),
        (400, 9, 1_030),
        (9, 16, 1_023),
        (200, 72, 1_027),
        (200, 640, 1_027),
        (610, 128, 2_100),
        (40, 64, 513),
        (7, 192, 31),
    ];
    for (tokens, hidden, vocab) in shapes {
        let heads =
            [Stored::Dense(dtype), Stored::Dense(DType::F32), nf4(64, true), fp4(128, false)];
        for head in heads {
            let x = Host::normal(dtype, 1, tokens * hidden);
            check(k, (tokens, hidden, vocab), &x, head);
        }
    }
}

/// A hidden state of no value gives a loss of no value, and harms no other token.
pub(crate) fn check_cross_entropy_of_nan<K: Backend>(k: &K, dtype: DType) {
    for hidden in [5, 64] {
        check_of_nan(k, hidden, dtype);
    }
}

fn check_of_nan<K: Backend>(k: &K, hidden: usize, dtype: DType) {
    let (tokens, vocab) = (9, 1_030);
    let mut x = Host::normal(dtype, 1, tokens * hidden).f32;
    for token in [2, 4, 6] {
        x[token * hidden + 1] = f32::NAN;
    }
    let x = Host::new(dtype, x);
    let loss = check(k, (tokens, hidden, vocab), &x, Stored::Dense(dtype));
    let nan: Vec<usize> = (0..tokens).filter(|&i| loss[i].is_nan()).collect();
    assert_eq!(nan, [2, 6], "the label of token 4 is ignored");
}

/// Hidden states that point at their labels: the gradient is what little probability is left to others.
pub(crate) fn check_cross_entropy_of_confident_tokens<K: Backend>(k: &K, dtype: DType) {
    let (tokens, hidden, vocab) = (70, 64, 600);
    let (w, _) = Stored::Dense(dtype).weight(vocab, hidden);
    let rows = labels(tokens, vocab).into_iter().enumerate().map(|(i, label)| {
        let label = if label == IGNORE { 0 } else { label as usize };
        let row = w.f32[label * hidden..][..hidden].iter();
        row.map(|x| x * (0.2 + 0.002 * i as f32)).collect::<Vec<f32>>()
    });
    let x = Host::new(dtype, rows.flatten().collect());
    // Probabilities may be rounded to bf16, but not the label's before one is taken from it.
    let floor = if dtype == DType::Bf16 { 1.0 / 512.0 } else { FLOOR };
    check_above(k, floor, (tokens, hidden, vocab), &x, Stored::Dense(dtype));
}

/// Loss and gradient against the reference; returns the loss.
fn check<K: Backend>(k: &K, shape: (usize, usize, usize), x: &Host, stored: Stored) -> Vec<f32> {
    check_above(k, FLOOR, shape, x, stored)
}

/// [`check`] with a floor of the gradient's tolerance.
fn check_above<K: Backend>(
    k: &K,
    floor: f64,
    (tokens, hidden, vocab): (usize, usize, usize),
    x: &Host,
    stored: Stored,
) -> Vec<f32> {
    let (w, quantized) = stored.weight(vocab, hidden);
    let labels = labels(tokens, vocab);
    let grad_scale = 0.37;
    // However few the tokens, they are not multiplied one by one.
    let in_integers =
        in_integers::<K>(x.dtype, tokens.max(5)) && !matches!(stored, Stored::Dense(DType::F32));
    let [x_parts, w_parts] = [(x, 4096.0), (&w, 8064.0)].map(|(values, parts)| {
        if in_integers { in_parts(&values.f32, hidden, parts) } else { values.f32.clone() }
    });
    let naive = CrossEntropyInputs { hidden, x: &x_parts, w: &w_parts, labels: &labels };
    let truth = CrossEntropyInputs { hidden, x: &x.f64, w: &w.f64, labels: &labels };
    let naive = reference::linear_cross_entropy(&naive, grad_scale);
    let truth = reference::linear_cross_entropy(&truth, grad_scale);

    let head = w.upload(k);
    let quantized = quantized.map(|w| k.upload_quantized(w).unwrap());
    let weight = quantized.as_ref().map_or(Weight::Dense(&head), Weight::Quantized);
    let op = LinearCrossEntropy { tokens, hidden, vocab, weight, grad_scale };
    let (x, labels) = (x.upload(k), upload_u32(k, &labels));
    let mut loss = output(k, DType::F32, tokens);
    let mut dx = output(k, x.dtype(), tokens * hidden);
    k.linear_cross_entropy(&op, &x, &labels, &mut loss, Some(&mut dx)).unwrap();
    let what = format!("{tokens} x {hidden} x {vocab}, head {stored:?}");
    assert_close(k, &format!("loss of {what}"), &loss, &naive.0, &truth.0);
    assert_close_above(k, (floor, 0.0), &format!("dx of {what}"), &dx, &naive.1, &truth.1);

    let mut again = output(k, DType::F32, tokens);
    k.linear_cross_entropy(&op, &x, &labels, &mut again, None).unwrap();
    let [loss, again] = [&loss, &again].map(|x| k.download(x).unwrap());
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&again), bits(&loss));
    loss
}
