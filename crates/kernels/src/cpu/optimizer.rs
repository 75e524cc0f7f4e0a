//! `AdamW` and the norm that clipping needs.

use rayon::prelude::*;

use super::Cpu;
use super::buffer::CpuBuffer;
use super::check::Op;
use super::elementwise::CHUNK;
use super::simd::simd;
use super::view::FloatRef;
use crate::ops::{AdamW, AdamWTensor};
use crate::{Buffer, Result};

/// Partial sums of a chunk, added in a fixed order.
const LANES: usize = 8;

pub(super) fn squared_norm(buffers: &[&CpuBuffer]) -> Result<f64> {
    let name = Op("squared_norm");
    let mut total = 0.0;
    for buffer in buffers {
        let x = name.float("buffers", buffer, buffer.len())?;
        let chunks = (0..x.len().div_ceil(CHUNK)).into_par_iter();
        let sums = chunks.map_init(Vec::new, |scratch, i| squares(x.chunk(i, CHUNK), scratch));
        let sums: Vec<f64> = sums.collect();
        total += sums.iter().sum::<f64>();
    }
    Ok(total)
}

fn squares(x: FloatRef<'_>, scratch: &mut Vec<f32>) -> f64 {
    let (lanes, rest) = x.widen(scratch).as_chunks::<LANES>();
    let mut sums = [0.0_f64; LANES];
    simd!(for x in lanes {
        for lane in 0..LANES {
            sums[lane] += f64::from(x[lane]) * f64::from(x[lane]);
        }
    });
    let rest: f64 = rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    sums.iter().sum::<f64>() + rest
}

/// Factors of one step, with the bias corrections worked in.
#[derive(Clone, Copy)]
struct Factors {
    op: AdamW,
    decay: f32,
    step_size: f32,
    v_root_correction: f32,
}

impl Factors {
    fn new(op: AdamW) -> Self {
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(op.step as f64);
        Self {
            op,
            decay: (1.0 - f64::from(op.lr) * f64::from(op.weight_decay)) as f32,
            step_size: (f64::from(op.lr) / correction(op.beta1)) as f32,
            v_root_correction: correction(op.beta2).sqrt() as f32,
        }
    }
}

pub(super) fn adamw(op: AdamW, tensors: &mut [AdamWTensor<'_, Cpu>]) -> Result<()> {
    let name = Op("adamw");
    name.require(op.step > 0, || "steps are counted from 1".into())?;
    let factors = Factors::new(op);
    for tensor in tensors {
        let len = tensor.param.len();
        let param = name.f32_mut("param", tensor.param, len)?.par_chunks_mut(CHUNK);
        let grad = name.f32("grad", tensor.grad, len)?.par_chunks(CHUNK);
        let m = name.f32_mut("m", tensor.m, len)?.par_chunks_mut(CHUNK);
        let v = name.f32_mut("v", tensor.v, len)?.par_chunks_mut(CHUNK);
        let tasks = param.zip(grad).zip(m.zip(v));
        tasks.for_each(|((param, grad), (m, v))| update(factors, param, grad, m, v));
    }
    Ok(())
}

fn update(factors: Factors, param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32]) {
    let AdamW { beta1, beta2, eps, grad_scale, .. } = factors.op;
    let state = m.iter_mut().zip(v);
    simd!(for ((param, grad), (m, v)) in param.iter_mut().zip(grad).zip(state) {
        let grad = grad * grad_scale;
        *m += (grad - *m) * (1.0 - beta1);
        *v = *v * beta2 + grad * grad * (1.0 - beta2);
        let denominator = v.sqrt() / factors.v_root_correction + eps;
        *param = *param * factors.decay - factors.step_size * (*m / denominator);
    });
}
