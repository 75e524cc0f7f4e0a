//! The references' gradients against central differences of their own forward, in f64.

use kernels::Philox;
use kernels::ops::{Attention, Dropout, IGNORE, RmsNorm, Rope};
use kernels::reference::{
    self, AttentionInputs, CrossEntropyInputs, LinearInputs, LoraInputs, Sequence,
};

use crate::gated::ACTIVATIONS;

fn normal(seed: u64, len: usize) -> Vec<f64> {
    let philox = Philox::new(seed, 1);
    (0..len as u64).map(|i| philox.normal(i).into()).collect()
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// `gradients[i]` is that of `f` with respect to `inputs[i]`.
#[track_caller]
fn check(inputs: &[Vec<f64>], gradients: &[Vec<f64>], f: impl Fn(&[Vec<f64>]) -> f64) {
    const STEP: f64 = 1e-5;
    assert_eq!(inputs.len(), gradients.len());
    let mut moved = inputs.to_vec();
    for (i, gradient) in gradients.iter().enumerate() {
        assert_eq!(gradient.len(), inputs[i].len());
        let largest = gradient.iter().fold(0.0, |a: f64, g| a.max(g.abs()));
        for (j, &gradient) in gradient.iter().enumerate() {
            let x = inputs[i][j];
            let mut at = |x: f64| {
                moved[i][j] = x;
                f(&moved)
            };
            let difference = (at(x + STEP) - at(x - STEP)) / (2.0 * STEP);
            at(x);
            assert!(
                (difference - gradient).abs() <= 1e-7 * largest.max(1e-2),
                "input {i}, element {j}: difference {difference}, gradient {gradient}"
            );
        }
    }
}

#[test]
fn rms_norm() {
    let op = RmsNorm { rows: 3, cols: 7, eps: 1e-2 };
    let (weight, dy) = (normal(2, 7), normal(3, 21));
    let x = normal(1, 21);
    let dx = reference::rms_norm_backward(op, &x, &weight, &dy);
    check(&[x], &[dx], |inputs| dot(&reference::rms_norm(op, &inputs[0], &weight).0, &dy));
}

#[test]
fn rope_is_undone_and_differentiated_by_its_inverse() {
    let op = Rope { tokens: 3, heads: 2, head_dim: 6, inverse: false };
    let inverse = Rope { inverse: true, ..op };
    let angles = normal(1, 4 * 3);
    let cos: Vec<f64> = angles.iter().map(|a| a.cos()).collect();
    let sin: Vec<f64> = angles.iter().map(|a| a.sin()).collect();
    let positions = [2, 0, 3];
    let (x, dy) = (normal(2, 36), normal(3, 36));
    let rotated = reference::rope(op, &cos, &sin, &positions, &x);
    let back = reference::rope(inverse, &cos, &sin, &positions, &rotated);
    assert!(x.iter().zip(&back).all(|(x, y)| (x - y).abs() < 1e-14));
    let dx = reference::rope(inverse, &cos, &sin, &positions, &dy);
    check(&[x], &[dx], |inputs| dot(&reference::rope(op, &cos, &sin, &positions, &inputs[0]), &dy));
}

#[test]
fn gated() {
    for act in ACTIVATIONS {
        let (inputs, dy) = ([normal(1, 40), normal(2, 40)], normal(3, 40));
        let (d_gate, d_up) = reference::gated_backward(act, &inputs[0], &inputs[1], &dy);
        check(&inputs, &[d_gate, d_up], |inputs| {
            dot(&reference::gated(act, &inputs[0], &inputs[1]), &dy)
        });
    }
}

#[test]
fn linear_with_bias_adapter_and_dropout() {
    let (m, n, k, r) = (5, 4, 7, 3);
    let (w, bias, dy) = (normal(4, n * k), normal(5, n), normal(6, m * n));
    for p in [0.0, 0.4] {
        let dropout = (p > 0.0).then_some(Dropout { p, key: 3, stream: 5 });
        let op = |inputs: &[Vec<f64>], run: &dyn Fn(&LinearInputs<'_, f64>)| {
            let lora = LoraInputs { a: &inputs[1], b: &inputs[2], r, scale: 0.7, dropout };
            run(&LinearInputs {
                m,
                n,
                k,
                x: &inputs[0],
                w: &w,
                bias: Some(&bias),
                lora: Some(lora),
            });
        };
        let inputs = [normal(1, m * k), normal(2, r * k), normal(3, n * r)];
        let gradients = std::cell::RefCell::new(Vec::new());
        op(&inputs, &|op| *gradients.borrow_mut() = reference::linear_backward(op, &dy).into());
        check(&inputs, &gradients.into_inner(), |inputs| {
            let value = std::cell::Cell::new(0.0);
            op(inputs, &|op| value.set(dot(&reference::linear(op).0, &dy)));
            value.get()
        });
    }
}

#[test]
fn dropout_keeps_the_right_share_and_the_mean() {
    let dropout = Some(Dropout { p: 0.25, key: 1, stream: 2 });
    let x = vec![1.0_f64; 40_000];
    let masked = reference::masked(dropout, &x);
    let zeros = masked.iter().filter(|&&x| x == 0.0).count();
    assert!((zeros as f64 / 40_000.0 - 0.25).abs() < 0.01);
    assert!(masked.iter().all(|&x| x == 0.0 || (x - 4.0 / 3.0).abs() < 1e-15));
}

fn view<'a>(
    op: Attention,
    sequences: &'a [Sequence],
    inputs: &'a [Vec<f64>],
) -> AttentionInputs<'a, f64> {
    let [q, k, v] = [&inputs[0], &inputs[1], &inputs[2]];
    AttentionInputs { op, sequences, q, k, v }
}

#[test]
fn attention() {
    let sequences = [Sequence { q: 0..2, k: 0..6 }, Sequence { q: 2..5, k: 6..9 }];
    for (window, softcap) in
        [(None, None), (Some(2), None), (None, Some(1.5)), (Some(3), Some(0.8))]
    {
        let op = Attention { heads: 4, kv_heads: 2, head_dim: 3, scale: 0.6, window, softcap };
        let inputs = [normal(1, 5 * 12), normal(2, 9 * 6), normal(3, 9 * 6)];
        let d_o = normal(4, 5 * 12);
        let operands = view(op, &sequences, &inputs);
        let (o, lse) = reference::attention(&operands);
        let gradients = reference::attention_backward(&operands, &o, &lse, &d_o);
        check(&inputs, &gradients, |inputs| {
            dot(&reference::attention(&view(op, &sequences, inputs)).0, &d_o)
        });
    }
}

#[test]
fn linear_cross_entropy() {
    let (hidden, vocab) = (5, 11);
    let w = normal(2, hidden * vocab);
    let labels = [3, IGNORE, 10, 0];
    let run = |x: &[f64]| {
        let op = CrossEntropyInputs { hidden, x, w: &w, labels: &labels };
        reference::linear_cross_entropy(&op, 0.25)
    };
    let x = normal(1, 4 * hidden);
    let (losses, dx) = run(&x);
    assert_eq!(losses[1], 0.0);
    check(&[x], &[dx], |inputs| 0.25 * run(&inputs[0]).0.iter().sum::<f64>());
}
