use kernels::ops::{Activation, LinearBackward};
use kernels::{Backend, DType, reference};

use crate::operands::{self, Case, Operands, Stored, Uploaded};
use crate::results::bits;
use crate::support::{Host, assert_close, output};

const LENGTHS: [usize; 5] = [0, 1, 17, 1_003, 20_011];
pub(crate) const ACTIVATIONS: [Activation; 2] = [Activation::Silu, Activation::GeluTanh];

/// Normal values with wide tails.
fn gate_and_up(dtype: DType, len: usize) -> (Host, Host) {
    let gate = Host::normal(dtype, 1, len).f32.into_iter().map(|x| x * x * x * 2.0).collect();
    (Host::new(dtype, gate), Host::normal(dtype, 2, len))
}

pub(crate) fn check_gated<K: Backend>(k: &K, dtype: DType) {
    for (act, len) in ACTIVATIONS.into_iter().flat_map(|act| LENGTHS.map(|len| (act, len))) {
        let (gate, up) = gate_and_up(dtype, len);
        let mut out = output(k, dtype, len);
        k.gated(act, &gate.upload(k), &up.upload(k), &mut out).unwrap();
        let naive = reference::gated(act, &gate.f32, &up.f32);
        let truth = reference::gated(act, &gate.f64, &up.f64);
        assert_close(k, &format!("{act:?}"), &out, &naive, &truth);
    }
    let (gate, up) = (Host::new(dtype, vec![f32::NAN, 1.0]), Host::new(dtype, vec![1.0; 2]));
    let mut out = output(k, dtype, 2);
    k.gated(Activation::Silu, &gate.upload(k), &up.upload(k), &mut out).unwrap();
    let values = k.download(&out).unwrap();
    assert!(values[0].is_nan() && !values[1].is_nan());
}

pub(crate) fn check_gated_backward<K: Backend>(k: &K, dtype: DType) {
    for (act, len) in ACTIVATIONS.into_iter().flat_map(|act| LENGTHS.map(|len| (act, len))) {
        let (gate, up) = gate_and_up(dtype, len);
        let dy = Host::normal(dtype, 3, len);
        let [mut d_gate, mut d_up, mut out] = [&gate, &up, &dy].map(|x| x.upload(k));
        k.gated_backward(act, &mut d_gate, &mut d_up, &mut out).unwrap();
        let naive = reference::gated_backward(act, &gate.f32, &up.f32, &dy.f32);
        let truth = reference::gated_backward(act, &gate.f64, &up.f64, &dy.f64);
        assert_close(k, &format!("d_gate of {act:?}"), &d_gate, &naive.0, &truth.0);
        assert_close(k, &format!("d_up of {act:?}"), &d_up, &naive.1, &truth.1);
        let mut forward = output(k, dtype, len);
        k.gated(act, &gate.upload(k), &up.upload(k), &mut forward).unwrap();
        assert_eq!(bits(k, &out), bits(k, &forward), "the output of {act:?} again");
    }
}

/// Bit by bit the linear's gradients for the gated product, and the gates' for that product's gradient.
pub(crate) fn check_linear_of_gated_backward<K: Backend>(k: &K, dtype: DType) {
    let nf4 = operands::nf4(64, true);
    let cases = [
        ((300, 72, 128), nf4, Some((16, 0.0))),
        ((70, 96, 192), nf4, Some((33, 0.3))),
        ((65, 65, 64), Stored::Dense(DType::Bf16), Some((3, 0.0))),
        ((40, 64, 72), Stored::Dense(DType::F32), Some((4, 0.2))),
        ((530, 576, 1_536), nf4, Some((8, 0.0))),
        ((9, 33, 64), nf4, None),
        ((0, 40, 64), nf4, Some((2, 0.0))),
    ];
    for (i, (shape, stored, lora)) in cases.into_iter().enumerate() {
        let case = Case { shape, stored, bias: false, lora };
        let (m, n, depth) = shape;
        let (gate, up) = gate_and_up(dtype, m * depth);
        let dy = Host::normal(dtype, 3, m * n).upload(k);
        let operands = Operands::new(case, dtype).upload(k);
        let act = ACTIVATIONS[i % 2];
        for (keeps_xa, wants) in [(true, true), (false, true), (true, false)] {
            let mut x = output(k, dtype, m * depth);
            k.gated(act, &gate.upload(k), &up.upload(k), &mut x).unwrap();
            let (mut y, mut xa) = operands.outputs(k, dtype);
            k.linear(&operands.op(), &x, &mut y, xa.as_mut()).unwrap();
            let xa = xa.filter(|_| keeps_xa);
            let factors = || {
                let (r, _) = lora.filter(|_| wants)?;
                Some([r * depth, n * r].map(|len| Host::normal(DType::F32, 8, len).upload(k)))
            };
            let [mut expected, mut got] = [factors(), factors()];
            let [mut d_gate, mut d_up] = [&gate, &up].map(|x| x.upload(k));
            let mut dx = output(k, dtype, m * depth);
            let mut linear = [backward(&operands, xa.as_ref(), &dy, &mut expected)];
            k.linears_backward(&x, &mut linear, Some(&mut dx), false).unwrap();
            k.gated_backward(act, &mut d_gate, &mut d_up, &mut dx).unwrap();

            let [mut d_gate_2, mut d_up_2] = [&gate, &up].map(|x| x.upload(k));
            let mut gated = output(k, dtype, m * depth);
            let linear = backward(&operands, xa.as_ref(), &dy, &mut got);
            k.linear_of_gated_backward(act, &mut d_gate_2, &mut d_up_2, &mut gated, linear)
                .unwrap();
            let pairs = [(&d_gate, &d_gate_2), (&d_up, &d_up_2), (&x, &gated)];
            let factors = expected.iter().flatten().zip(got.iter().flatten());
            for (j, (expected, got)) in pairs.into_iter().chain(factors).enumerate() {
                assert_eq!(bits(k, got), bits(k, expected), "result {j} of {case:?}, {keeps_xa}");
            }
        }
    }
}

fn backward<'a, K: Backend>(
    operands: &'a Uploaded<K>,
    xa: Option<&'a K::Buffer>,
    dy: &'a K::Buffer,
    factors: &'a mut Option<[K::Buffer; 2]>,
) -> LinearBackward<'a, K> {
    let [da, db] = match factors {
        Some([da, db]) => [Some(da), Some(db)],
        None => [None, None],
    };
    LinearBackward { op: operands.op(), xa, dy, da, db }
}
