//! `AdamW` and the norm that clipping needs.

#![expect(
    clippy::inline_always,
    reason = "a loop is compiled for the instruction set of the function it is inlined into"
)]

use nf4::moment8::{self, BLOCK};

use super::Cpu;
use super::blocks::{self, CHUNK, Operands};
use super::buffer::CpuBuffer;
use super::check::Op;
use super::simd::simd;
use super::team;
use super::view::{FloatMut, FloatRef};
use crate::ops::{AdamW, AdamW8bitTensor, AdamWFactors, AdamWTensor, Moment8};
use crate::{Buffer, Result};

/// Partial sums of a chunk, added in a fixed order.
const LANES: usize = 8;

pub(super) fn squared_norm(buffers: &[&CpuBuffer]) -> Result<f64> {
    let name = Op("squared_norm");
    let (mut chunks, mut counts) = (Vec::new(), Vec::new());
    for buffer in buffers {
        let x = name.float("buffers", buffer, buffer.len())?;
        counts.push(x.len().div_ceil(CHUNK));
        chunks.extend((0..x.len().div_ceil(CHUNK)).map(|i| x.chunk(i, CHUNK)));
    }
    let mut sums = vec![0.0; chunks.len()];
    team::for_each(chunks.into_iter().zip(&mut sums), |(x, sum)| *sum = simd!(squares(x)));
    let mut sums = sums.into_iter();
    Ok(counts.into_iter().map(|count| sums.by_ref().take(count).sum::<f64>()).sum())
}

#[inline(always)]
fn squares(x: FloatRef<'_>) -> f64 {
    let mut wide = [0.0; BLOCK];
    let (mut sums, mut last) = ([0.0_f64; LANES], 0.0);
    for block in 0..x.len().div_ceil(BLOCK) {
        let len = BLOCK.min(x.len() - block * BLOCK);
        let (lanes, rest) = x.row(block, BLOCK, &mut wide[..len]).as_chunks::<LANES>();
        for x in lanes {
            for lane in 0..LANES {
                sums[lane] += f64::from(x[lane]) * f64::from(x[lane]);
            }
        }
        last = rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    }
    sums.iter().sum::<f64>() + last
}

/// All tensors are cut into tasks before the first begins: those of adapters are small, and there are
/// hundreds.
pub(super) fn adamw(op: AdamW, tensors: &mut [AdamWTensor<'_, Cpu>]) -> Result<()> {
    let name = Op("adamw");
    let step = Step { op, factors: name.adamw(op)? };
    let mut tasks = Vec::new();
    for tensor in tensors {
        let len = tensor.param.len();
        let inputs = [name.f32("grad", tensor.grad, len)?].map(FloatRef::F32);
        let outputs = [
            name.f32_mut("param", tensor.param, len)?,
            name.f32_mut("m", tensor.m, len)?,
            name.f32_mut("v", tensor.v, len)?,
        ];
        let outputs = outputs.map(FloatMut::F32);
        tasks.extend(Operands { inputs, outputs }.tasks());
    }
    blocks::update(tasks, |[grad], [param, m, v]| step.element(param, grad, m, v).into());
    Ok(())
}

pub(super) fn adamw_8bit(op: AdamW, tensors: &mut [AdamW8bitTensor<'_, Cpu>]) -> Result<()> {
    let name = Op("adamw_8bit");
    let step = Step { op, factors: name.adamw(op)? };
    let mut tasks = Vec::new();
    for tensor in tensors {
        let len = tensor.param.len();
        let param = name.f32_mut("param", tensor.param, len)?.chunks_mut(CHUNK);
        let grad = name.f32("grad", tensor.grad, len)?.chunks(CHUNK);
        let m = name.moment(["m.codes", "m.absmax"], &mut tensor.m, len)?;
        let v = name.moment(["v.codes", "v.absmax"], &mut tensor.v, len)?;
        tasks.extend(param.zip(grad).zip(m.chunks().zip(v.chunks())));
    }
    team::for_each(tasks, |((param, grad), (m, v))| step.all_8bit(param, grad, m, v));
    Ok(())
}

/// Codes and absmax of consecutive blocks.
struct Blocks<'a> {
    codes: &'a mut [u8],
    absmax: &'a mut [f32],
}

impl Op {
    fn moment<'a>(
        self,
        [codes, absmax]: [&'static str; 2],
        moment: &'a mut Moment8<'_, Cpu>,
        len: usize,
    ) -> Result<Blocks<'a>> {
        Ok(Blocks {
            codes: self.u8_mut(codes, moment.codes, len)?,
            absmax: self.f32_mut(absmax, moment.absmax, len.div_ceil(BLOCK))?,
        })
    }
}

impl<'a> Blocks<'a> {
    fn chunks(self) -> impl Iterator<Item = Blocks<'a>> {
        let absmax = self.absmax.chunks_mut(CHUNK / BLOCK);
        let chunks = self.codes.chunks_mut(CHUNK).zip(absmax);
        chunks.map(|(codes, absmax)| Blocks { codes, absmax })
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = (&mut [u8], &mut f32)> {
        self.codes.chunks_mut(BLOCK).zip(self.absmax.iter_mut())
    }
}

#[derive(Clone, Copy)]
struct Step {
    op: AdamW,
    factors: AdamWFactors,
}

impl Step {
    /// `(param, m, v)` of one element. Each operation rounds by itself, as on a card.
    #[inline(always)]
    fn element(&self, param: f32, grad: f32, m: f32, v: f32) -> (f32, f32, f32) {
        let AdamW { beta1, beta2, eps, grad_scale, .. } = self.op;
        let AdamWFactors { decay, step_size, v_root_correction } = self.factors;
        let grad = grad * grad_scale;
        let m = m + (grad - m) * (1.0 - beta1);
        let v = v * beta2 + grad * grad * (1.0 - beta2);
        let denominator = v.sqrt() / v_root_correction + eps;
        (param * decay - step_size * (m / denominator), m, v)
    }

    fn all_8bit(&self, param: &mut [f32], grad: &[f32], mut m: Blocks<'_>, mut v: Blocks<'_>) {
        let (first, second) = (moment8::first(), moment8::second());
        let mut moments = [[0.0; BLOCK]; 2];
        let blocks = param.chunks_mut(BLOCK).zip(grad.chunks(BLOCK));
        simd!(for ((param, grad), (m8, v8)) in blocks.zip(m.iter_mut().zip(v.iter_mut())) {
            let [m, v] = moments.each_mut().map(|x| &mut x[..grad.len()]);
            first.dequantize(m8.0, *m8.1, m);
            second.dequantize(v8.0, *v8.1, v);
            let state = m.iter_mut().zip(v.iter_mut());
            for ((param, grad), (m, v)) in param.iter_mut().zip(grad).zip(state) {
                let stepped = self.element(*param, *grad, *m, *v);
                (*param, *m, *v) = if grad.is_finite() { stepped } else { (*param, 0.0, 0.0) };
            }
            *m8.1 = first.quantize(m, m8.0);
            *v8.1 = second.quantize(v, v8.0);
        });
    }
}
