//! Gated activations of the MLP.

#![expect(
    clippy::inline_always,
    reason = "a loop is compiled for the instruction set of the function it is inlined into"
)]

use rayon::prelude::*;

use super::buffer::CpuBuffer;
use super::check::Op;
use super::elementwise::CHUNK;
use super::exp::sigmoid;
use super::simd::simd;
use crate::ops::Activation;
use crate::{Buffer, Result};

/// `sqrt(2 / pi)` of the tanh form of gelu (Hendrycks and Gimpel 2016).
const SQRT_2_OVER_PI: f32 = 0.797_884_6;
/// Cubic coefficient of the same.
const CUBIC: f32 = 0.044_715;

#[inline(always)]
fn silu(x: f32) -> (f32, f32) {
    let s = sigmoid(x);
    (x * s, s + x * s * (1.0 - s))
}

/// `x * (1 + tanh(u)) / 2 = x * sigmoid(2u)`, which does not cancel where `tanh(u)` nears -1.
#[inline(always)]
fn gelu_tanh(x: f32) -> (f32, f32) {
    let s = sigmoid(2.0 * SQRT_2_OVER_PI * (x + CUBIC * x * x * x));
    let du = 2.0 * SQRT_2_OVER_PI * (1.0 + 3.0 * CUBIC * x * x);
    (x * s, s + x * s * (1.0 - s) * du)
}

pub(super) fn forward(
    act: Activation,
    gate: &CpuBuffer,
    up: &CpuBuffer,
    out: &mut CpuBuffer,
) -> Result<()> {
    let name = Op("gated");
    let len = out.len();
    let gate = name.float("gate", gate, len)?;
    let up = name.float("up", up, len)?;
    let tasks = name.float_mut("out", out, len)?.chunks(CHUNK).into_par_iter();
    tasks.enumerate().for_each_init(
        Default::default,
        |scratch: &mut [Vec<f32>; 3], (task, out)| {
            let [wide_gate, wide_up, wide_out] = scratch;
            let gate = gate.chunk(task, CHUNK).widen(wide_gate);
            let up = up.chunk(task, CHUNK).widen(wide_up);
            out.write(wide_out, |out| match act {
                Activation::Silu => simd!(forward_chunk(silu, gate, up, out)),
                Activation::GeluTanh => simd!(forward_chunk(gelu_tanh, gate, up, out)),
            });
        },
    );
    Ok(())
}

#[inline(always)]
fn forward_chunk(act: impl Fn(f32) -> (f32, f32), gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        *out = act(*gate).0 * up;
    }
}

pub(super) fn backward(
    act: Activation,
    gate: &CpuBuffer,
    up: &CpuBuffer,
    d_out: &CpuBuffer,
    d_gate: &mut CpuBuffer,
    d_up: &mut CpuBuffer,
) -> Result<()> {
    let name = Op("gated_backward");
    let len = d_out.len();
    let gate = name.float("gate", gate, len)?;
    let up = name.float("up", up, len)?;
    let d_out = name.float("d_out", d_out, len)?;
    let d_gate = name.float_mut("d_gate", d_gate, len)?.chunks(CHUNK).into_par_iter();
    let d_up = name.float_mut("d_up", d_up, len)?.chunks(CHUNK).into_par_iter();
    let tasks = d_gate.zip(d_up).enumerate();
    tasks.for_each_init(Default::default, |scratch: &mut [Vec<f32>; 5], (task, (d_gate, d_up))| {
        let [wide_gate, wide_up, wide_d_out, wide_d_gate, wide_d_up] = scratch;
        let gate = gate.chunk(task, CHUNK).widen(wide_gate);
        let up = up.chunk(task, CHUNK).widen(wide_up);
        let d_out = d_out.chunk(task, CHUNK).widen(wide_d_out);
        d_gate.write(wide_d_gate, |d_gate| {
            d_up.write(wide_d_up, |d_up| match act {
                Activation::Silu => simd!(backward_chunk(silu, gate, up, d_out, d_gate, d_up)),
                Activation::GeluTanh => {
                    simd!(backward_chunk(gelu_tanh, gate, up, d_out, d_gate, d_up));
                }
            });
        });
    });
    Ok(())
}

#[inline(always)]
fn backward_chunk(
    act: impl Fn(f32) -> (f32, f32),
    gate: &[f32],
    up: &[f32],
    d_out: &[f32],
    d_gate: &mut [f32],
    d_up: &mut [f32],
) {
    let inputs = gate.iter().zip(up).zip(d_out);
    for (((gate, up), d_out), (d_gate, d_up)) in inputs.zip(d_gate.iter_mut().zip(d_up)) {
        let (value, slope) = act(*gate);
        *d_gate = d_out * up * slope;
        *d_up = d_out * value;
    }
}
