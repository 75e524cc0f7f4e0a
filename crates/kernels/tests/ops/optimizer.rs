use kernels::ops::{AdamW, AdamWTensor};
use kernels::{Backend, DType, reference};

use crate::support::{Host, assert_close};

pub(crate) fn check_squared_norm<K: Backend>(k: &K, dtype: DType) {
    let hosts: Vec<Host> =
        [0, 1, 17, 30_001].into_iter().map(|len| Host::normal(dtype, len as u64, len)).collect();
    let buffers: Vec<K::Buffer> = hosts.iter().map(|x| x.upload(k)).collect();
    let got = k.squared_norm(&buffers.iter().collect::<Vec<_>>()).unwrap();
    let truth: f64 = hosts.iter().flat_map(|x| &x.f64).map(|x| x * x).sum();
    assert!((got - truth).abs() <= 1e-12 * truth, "{got} is not {truth}");
    assert_eq!(k.squared_norm(&[]).unwrap(), 0.0);
    let nan = Host::new(dtype, vec![1.0, f32::NAN]).upload(k);
    assert!(k.squared_norm(&[&nan]).unwrap().is_nan());
}

/// State is f32 whatever the dtype of the activations.
pub(crate) fn check_adamw<K: Backend>(k: &K, _: DType) {
    let lens = [0, 1, 17, 20_011];
    let hosts: Vec<[Host; 3]> =
        lens.iter().map(|&len| [1, 2, 3].map(|seed| Host::normal(DType::F32, seed, len))).collect();
    for step in [1, 7, 100_000] {
        let op = AdamW {
            lr: 3e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
            step,
            grad_scale: 0.25,
        };
        // Second moments are squares.
        let squared = |x: &Host| Host::new(DType::F32, x.f32.iter().map(|x| x * x).collect());
        let grads: Vec<K::Buffer> = hosts.iter().map(|[_, g, _]| g.upload(k)).collect();
        let mut state: Vec<[K::Buffer; 3]> = hosts
            .iter()
            .map(|[p, _, m]| [p.upload(k), m.upload(k), squared(p).upload(k)])
            .collect();
        let pairs = state.iter_mut().zip(&grads);
        let mut tensors: Vec<_> =
            pairs.map(|([param, m, v], grad)| AdamWTensor { param, grad, m, v }).collect();
        k.adamw(op, &mut tensors).unwrap();
        for ([p, g, m], [got_p, got_m, got_v]) in hosts.iter().zip(&state) {
            let v = squared(p);
            let naive: Vec<_> = (0..p.f32.len())
                .map(|i| reference::adamw(op, p.f32[i], g.f32[i], m.f32[i], v.f32[i]))
                .collect();
            let truth: Vec<_> = (0..p.f64.len())
                .map(|i| reference::adamw(op, p.f64[i], g.f64[i], m.f64[i], v.f64[i]))
                .collect();
            let naive: [Vec<f32>; 3] = columns(&naive);
            let truth: [Vec<f64>; 3] = columns(&truth);
            for (i, (what, got)) in
                [("param", got_p), ("m", got_m), ("v", got_v)].iter().enumerate()
            {
                assert_close(k, &format!("{what} at step {step}"), got, &naive[i], &truth[i]);
            }
        }
    }
}

fn columns<T: Copy>(rows: &[(T, T, T)]) -> [Vec<T>; 3] {
    [
        rows.iter().map(|row| row.0).collect(),
        rows.iter().map(|row| row.1).collect(),
        rows.iter().map(|row| row.2).collect(),
    ]
}
