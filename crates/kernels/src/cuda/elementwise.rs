//! Operations on each element by itself.

use super::params::{
    ACTIVATION_GELU_TANH, ACTIVATION_SILU, ADD, AddParams, GATED, GATED_BACKWARD,
    GatedBackwardParams, GatedParams, SCALE, ScaleParams, Tensor,
};
use super::{Cuda, CudaBuffer};
use crate::check::Op;
use crate::ops::Activation;
use crate::{Buffer, Result};

const THREADS: u32 = 256;
/// Elements that a thread does at a time.
const VECTOR: usize = 8;
/// Blocks of a grid whose threads loop: enough for the largest card, few enough to start quickly.
const BLOCKS: usize = 4096;

/// Blocks for `len` elements.
pub(super) fn grid(len: usize) -> [usize; 3] {
    [len.div_ceil(THREADS as usize * VECTOR).min(BLOCKS), 1, 1]
}

pub(super) fn add(cuda: &Cuda, x: &CudaBuffer, y: &CudaBuffer, out: &mut CudaBuffer) -> Result<()> {
    let (name, len) = (Op("add"), out.len());
    let params = AddParams {
        x: name.tensor("x", x, len)?,
        y: name.tensor("y", y, len)?,
        out: name.tensor("out", out, len)?,
        len: len as u64,
    };
    cuda.driver().launch(&ADD, &params, grid(len), THREADS, 0)
}

pub(super) fn convert(cuda: &Cuda, x: &CudaBuffer, out: &mut CudaBuffer) -> Result<()> {
    let (name, len) = (Op("convert"), out.len());
    let (x, out) = (name.tensor("x", x, len)?, name.tensor("out", out, len)?);
    let params = AddParams { x, y: Tensor::default(), out, len: len as u64 };
    cuda.driver().launch(&ADD, &params, grid(len), THREADS, 0)
}

pub(super) fn add_assign(cuda: &Cuda, acc: &mut CudaBuffer, x: &CudaBuffer) -> Result<()> {
    let (name, len) = (Op("add_assign"), acc.len());
    let acc = name.tensor("acc", acc, len)?;
    let params = AddParams { x: acc, y: name.tensor("x", x, len)?, out: acc, len: len as u64 };
    cuda.driver().launch(&ADD, &params, grid(len), THREADS, 0)
}

pub(super) fn scale(cuda: &Cuda, x: &mut CudaBuffer, factor: f32) -> Result<()> {
    let len = x.len();
    let x = Op("scale").tensor("x", x, len)?;
    let params = ScaleParams { x, len: len as u64, factor, reserved: 0 };
    cuda.driver().launch(&SCALE, &params, grid(len), THREADS, 0)
}

const fn activation(act: Activation) -> u32 {
    match act {
        Activation::Silu => ACTIVATION_SILU,
        Activation::GeluTanh => ACTIVATION_GELU_TANH,
    }
}

pub(super) fn gated(
    cuda: &Cuda,
    act: Activation,
    gate: &CudaBuffer,
    up: &CudaBuffer,
    out: &mut CudaBuffer,
) -> Result<()> {
    let (name, len) = (Op("gated"), out.len());
    let params = GatedParams {
        gate: name.tensor("gate", gate, len)?,
        up: name.tensor("up", up, len)?,
        out: name.tensor("out", out, len)?,
        len: len as u64,
        activation: activation(act),
        reserved: 0,
    };
    cuda.driver().launch(&GATED, &params, grid(len), THREADS, 0)
}

pub(super) fn gated_backward(
    cuda: &Cuda,
    act: Activation,
    gate: &mut CudaBuffer,
    up: &mut CudaBuffer,
    d_out: &mut CudaBuffer,
) -> Result<()> {
    let (name, len) = (Op("gated_backward"), d_out.len());
    let params = GatedBackwardParams {
        gate: name.tensor("gate", gate, len)?,
        up: name.tensor("up", up, len)?,
        d_out: name.tensor("d_out", d_out, len)?,
        len: len as u64,
        activation: activation(act),
        reserved: 0,
    };
    cuda.driver().launch(&GATED_BACKWARD, &params, grid(len), THREADS, 0)
}
