use kernels::ops::{IGNORE, LinearCrossEntropy, Weight};
use kernels::reference::{self, CrossEntropyInputs};
use kernels::{Backend, DType};

use crate::support::{Host, assert_close, output, upload_u32};

pub(crate) fn labels(tokens: usize, vocab: usize) -> Vec<u32> {
    let label = |i: usize| if i % 3 == 1 { IGNORE } else { (i * 131 % vocab) as u32 };
    (0..tokens).map(label).collect()
}

pub(crate) fn check_cross_entropy<K: Backend>(k: &K, dtype: DType) {
    let shapes =
        [(0, 3, 5), (1, 1, 1), (3, 7, 11), (17, 33, 513), (41, 20, 5_000), (400, 9, 1_030)];
    for (tokens, hidden, vocab) in shapes {
        for head_dtype in [dtype, DType::F32] {
            check_shape(k, (tokens, hidden, vocab), dtype, head_dtype);
        }
    }
}

fn check_shape<K: Backend>(
    k: &K,
    (tokens, hidden, vocab): (usize, usize, usize),
    dtype: DType,
    head_dtype: DType,
) {
    let x = Host::normal(dtype, 1, tokens * hidden);
    let w = Host::normal(head_dtype, 2, vocab * hidden);
    let labels = labels(tokens, vocab);
    let grad_scale = 0.37;
    let naive = CrossEntropyInputs { hidden, x: &x.f32, w: &w.f32, labels: &labels };
    let truth = CrossEntropyInputs { hidden, x: &x.f64, w: &w.f64, labels: &labels };
    let naive = reference::linear_cross_entropy(&naive, grad_scale);
    let truth = reference::linear_cross_entropy(&truth, grad_scale);

    let head = w.upload(k);
    let op = LinearCrossEntropy { tokens, hidden, vocab, weight: Weight::Dense(&head), grad_scale };
    let (x, labels) = (x.upload(k), upload_u32(k, &labels));
    let mut loss = output(k, DType::F32, tokens);
    let mut dx = output(k, dtype, tokens * hidden);
    k.linear_cross_entropy(&op, &x, &labels, &mut loss, Some(&mut dx)).unwrap();
    let what = format!("{tokens} x {hidden} x {vocab}, head {head_dtype}");
    assert_close(k, &format!("loss of {what}"), &loss, &naive.0, &truth.0);
    assert_close(k, &format!("dx of {what}"), &dx, &naive.1, &truth.1);

    let mut again = output(k, DType::F32, tokens);
    k.linear_cross_entropy(&op, &x, &labels, &mut again, None).unwrap();
    assert_eq!(k.download(&again).unwrap(), k.download(&loss).unwrap());
}
