use kernels::ops::Activation;
use kernels::{Backend, DType, reference};

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
        let [mut d_gate, mut d_up, dy_buffer] = [&gate, &up, &dy].map(|x| x.upload(k));
        k.gated_backward(act, &mut d_gate, &mut d_up, &dy_buffer).unwrap();
        let naive = reference::gated_backward(act, &gate.f32, &up.f32, &dy.f32);
        let truth = reference::gated_backward(act, &gate.f64, &up.f64, &dy.f64);
        assert_close(k, &format!("d_gate of {act:?}"), &d_gate, &naive.0, &truth.0);
        assert_close(k, &format!("d_up of {act:?}"), &d_up, &naive.1, &truth.1);
    }
}
