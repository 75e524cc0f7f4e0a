use kernels::ops::{self, AdamW, AdamW8bitTensor, AdamWTensor};
use kernels::reference::{self, Moment8};
use kernels::{Backend, Cpu, DType};
use nf4::moment8::{self, BLOCK, MomentMap};

use crate::support::{Host, assert_close, upload_u8};

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

/// A parameter with its gradient and 8-bit moments.
pub(crate) struct Eight {
    param: Host,
    grad: Host,
    moments: [Vec<Moment8<f32>>; 2],
}

impl Eight {
    /// Blocks of zeros, of equal values, of values over ten decades; a few gradients are not finite.
    pub(crate) fn new(seed: u64, len: usize) -> Self {
        let normal = |stream| Host::normal(DType::F32, 10 * seed + stream, len).f32;
        let mut grad = normal(1);
        for (i, bad) in [(3, f32::NAN), (260, f32::INFINITY), (261, f32::NEG_INFINITY)] {
            if let Some(grad) = grad.get_mut(i) {
                *grad = bad;
            }
        }
        let spread = |(i, x): (usize, f32)| match i / BLOCK % 4 {
            0 => x,
            1 => x * 10.0_f32.powi(-((i % 11) as i32)),
            2 => 0.25,
            _ => 0.0,
        };
        let m: Vec<f32> = normal(2).into_iter().enumerate().map(spread).collect();
        let v = normal(3).into_iter().enumerate().map(spread).map(|x| x * x).collect::<Vec<_>>();
        let grad = grad.into_iter().enumerate().map(|(i, x)| if i / BLOCK == 3 { 0.0 } else { x });
        Self {
            param: Host::new(DType::F32, normal(0)),
            grad: Host::new(DType::F32, grad.collect()),
            moments: [blocks(moment8::first(), &m), blocks(moment8::second(), &v)],
        }
    }

    /// Parameter and moments after one step, by the definition.
    fn expected<T: num_traits::Float>(&self, op: AdamW) -> (Vec<T>, [Vec<Moment8<T>>; 2]) {
        let to = |x: f32| T::from(x).unwrap();
        let all = |x: &Host| x.f32.iter().map(|&x| to(x)).collect::<Vec<T>>();
        let (mut param, grad) = (all(&self.param), all(&self.grad));
        let mut moments = self.moments.each_ref().map(|blocks| {
            let block = |x: &Moment8<f32>| Moment8 { codes: x.codes.clone(), absmax: to(x.absmax) };
            blocks.iter().map(block).collect::<Vec<_>>()
        });
        let [m, v] = &mut moments;
        let parts = param.chunks_mut(BLOCK).zip(grad.chunks(BLOCK));
        for ((param, grad), (m, v)) in parts.zip(m.iter_mut().zip(v)) {
            reference::adamw_8bit(op, param, grad, m, v);
        }
        (param, moments)
    }
}

fn blocks(map: &MomentMap, values: &[f32]) -> Vec<Moment8<f32>> {
    let block = |values: &[f32]| {
        let mut codes = vec![0; values.len()];
        let absmax = map.quantize(values, &mut codes);
        Moment8 { codes, absmax }
    };
    values.chunks(BLOCK).map(block).collect()
}

/// Parameter, and codes and absmax of both moments.
pub(crate) struct EightOn<K: Backend> {
    pub(crate) param: K::Buffer,
    pub(crate) moments: [[K::Buffer; 2]; 2],
    grad: K::Buffer,
}

impl<K: Backend> EightOn<K> {
    fn tensor(&mut self) -> AdamW8bitTensor<'_, K> {
        let [m, v] = self.moments.each_mut().map(|[codes, absmax]| ops::Moment8 { codes, absmax });
        AdamW8bitTensor { param: &mut self.param, grad: &self.grad, m, v }
    }
}

/// All tensors after `op`.
pub(crate) fn step_eight<K: Backend>(k: &K, op: AdamW, tensors: &[Eight]) -> Vec<EightOn<K>> {
    let upload = |tensor: &Eight| {
        let moments = tensor.moments.each_ref().map(|blocks| {
            let codes: Vec<u8> = blocks.iter().flat_map(|block| block.codes.clone()).collect();
            let absmax = blocks.iter().map(|block| block.absmax).collect();
            [upload_u8(k, &codes), Host::new(DType::F32, absmax).upload(k)]
        });
        EightOn { param: tensor.param.upload(k), moments, grad: tensor.grad.upload(k) }
    };
    let mut on: Vec<EightOn<K>> = tensors.iter().map(upload).collect();
    let mut refs: Vec<_> = on.iter_mut().map(EightOn::tensor).collect();
    k.adamw_8bit(op, &mut refs).unwrap();
    on
}

pub(crate) fn check_adamw_8bit<K: Backend>(k: &K, _: DType) {
    // More tensors than one launch takes.
    let lens = [0, 1, 17, 255, 256, 257, 1_100, 20_011].into_iter().chain(vec![9; 30]);
    let tensors: Vec<Eight> = lens.enumerate().map(|(i, len)| Eight::new(i as u64, len)).collect();
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
        let (got, cpu) = (step_eight(k, op, &tensors), step_eight(&Cpu::new(), op, &tensors));
        for ((tensor, got), cpu) in tensors.iter().zip(&got).zip(&cpu) {
            let (truth, moments) = tensor.expected::<f64>(op);
            let (naive, naive_moments) = tensor.expected::<f32>(op);
            assert_close(k, &format!("param at step {step}"), &got.param, &naive, &truth);
            assert_same(k, &got.param, &cpu.param);
            let maps = [moment8::first(), moment8::second()];
            for (i, map) in maps.into_iter().enumerate() {
                let [codes, absmax] = &got.moments[i];
                let naive: Vec<f32> = naive_moments[i].iter().map(|block| block.absmax).collect();
                let truth: Vec<f64> = moments[i].iter().map(|block| block.absmax).collect();
                assert_close(k, &format!("absmax at step {step}"), absmax, &naive, &truth);
                assert_codes(map, &k.download(codes).unwrap(), &moments[i]);
                assert_same(k, codes, &cpu.moments[i][0]);
                assert_same(k, absmax, &cpu.moments[i][1]);
            }
        }
    }
}

/// Codes are the right ones, or neighbours that a rounding before may lead to.
#[track_caller]
fn assert_codes(map: &MomentMap, got: &[f32], truth: &[Moment8<f64>]) {
    let truth: Vec<u8> = truth.iter().flat_map(|block| block.codes.clone()).collect();
    assert_eq!(got.len(), truth.len());
    let off = got.iter().zip(&truth).filter(|(got, truth)| **got != f32::from(**truth));
    for (got, truth) in off.clone() {
        assert!((got - f32::from(*truth)).abs() == 1.0, "code {got} for {truth}");
        let [got, truth] = [*got as usize, usize::from(*truth)].map(|code| map.values()[code]);
        assert_eq!(got < 0.0, truth < 0.0, "{got} for {truth}");
    }
    assert!(off.count() <= got.len() / 1_000, "too many neighbours");
}

#[track_caller]
fn assert_same<K: Backend>(k: &K, got: &K::Buffer, cpu: &<Cpu as Backend>::Buffer) {
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    assert_eq!(bits(k.download(got).unwrap()), bits(Cpu::new().download(cpu).unwrap()));
}

fn columns<T: Copy>(rows: &[(T, T, T)]) -> [Vec<T>; 3] {
    [
        rows.iter().map(|row| row.0).collect(),
        rows.iter().map(|row| row.1).collect(),
        rows.iter().map(|row| row.2).collect(),
    ]
}
