//! Gated activations of the MLP.

#![expect(
    clippy::inline_always,
    reason = "a loop is compiled for the instruction set of the function it is inlined into"
)]

#[cfg(amx)]
use super::amx;
#[cfg(amx)]
use super::blocks::CHUNK;
use super::blocks::{self, Operands};
use super::buffer::CpuBuffer;
use super::check::Op;
use super::exp::sigmoid;
#[cfg(amx)]
use super::level::has_amx;
#[cfg(amx)]
use super::team;
#[cfg(amx)]
use super::view::{FloatMut, FloatRef};
use crate::ops::Activation;
use crate::{Buffer, Result};

/// `sqrt(2 / pi)` of the tanh form of gelu (Hendrycks and Gimpel 2016).
pub(super) const SQRT_2_OVER_PI: f32 = 0.797_884_6;
/// Cubic coefficient of the same.
pub(super) const CUBIC: f32 = 0.044_715;

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
    let inputs = [name.float("gate", gate, len)?, name.float("up", up, len)?];
    let outputs = [name.float_mut("out", out, len)?];
    #[cfg(amx)]
    if has_amx()
        && let [FloatRef::Bf16(gate), FloatRef::Bf16(up)] = inputs
        && let [FloatMut::Bf16(out)] = outputs
    {
        let inputs = gate.chunks(CHUNK).zip(up.chunks(CHUNK));
        let tasks = inputs.zip(out.chunks_mut(CHUNK));
        team::for_each(tasks, |((gate, up), out)| amx::gate(act, gate, up, out));
        return Ok(());
    }
    match act {
        Activation::Silu => blocks::map(inputs, outputs, |x| gate_by(silu, x)),
        Activation::GeluTanh => blocks::map(inputs, outputs, |x| gate_by(gelu_tanh, x)),
    }
    Ok(())
}

#[inline(always)]
fn gate_by(act: impl Fn(f32) -> (f32, f32), [gate, up]: [f32; 2]) -> [f32; 1] {
    [act(gate).0 * up]
}

pub(super) fn backward(
    act: Activation,
    gate: &mut CpuBuffer,
    up: &mut CpuBuffer,
    d_out: &mut CpuBuffer,
) -> Result<()> {
    let name = Op("gated_backward");
    let len = d_out.len();
    let outputs = [
        name.float_mut("d_out", d_out, len)?,
        name.float_mut("gate", gate, len)?,
        name.float_mut("up", up, len)?,
    ];
    #[cfg(amx)]
    if has_amx()
        && let [FloatMut::Bf16(d_out), FloatMut::Bf16(gate), FloatMut::Bf16(up)] = outputs
    {
        let gates = gate.chunks_mut(CHUNK).zip(up.chunks_mut(CHUNK));
        let tasks = d_out.chunks_mut(CHUNK).zip(gates);
        team::for_each(tasks, |(d_out, (gate, up))| amx::gate_gradients(act, d_out, gate, up));
        return Ok(());
    }
    let tasks = Operands { inputs: [], outputs }.tasks().collect();
    match act {
        Activation::Silu => blocks::update(tasks, |[], old| gradients(silu, old)),
        Activation::GeluTanh => blocks::update(tasks, |[], old| gradients(gelu_tanh, old)),
    }
    Ok(())
}

/// The output, and the gradients of the gate and of what it gates.
#[inline(always)]
fn gradients(act: impl Fn(f32) -> (f32, f32), [d_out, gate, up]: [f32; 3]) -> [f32; 3] {
    let (value, slope) = act(gate);
    [value * up, d_out * up * slope, d_out * value]
}
