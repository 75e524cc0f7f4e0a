//! `AdamW` and the norm that clipping needs.

use super::memory::Region;
use super::params::{
    ADAMW, ADAMW_TENSORS, AdamWEntry, AdamWParams, SQUARED_NORM, SquaredNormParams,
};
use super::{Cuda, CudaBuffer};
use crate::check::Op;
use crate::ops::{AdamW, AdamWTensor};
use crate::{Buffer, MemoryKind, Result};

const THREADS: u32 = 256;
/// Elements of a partial sum, and most partial sums of a buffer.
const PART: usize = 1 << 14;
const PARTS: usize = 256;
/// Elements of a block of `AdamW`, and most blocks of a tensor.
const BLOCK: usize = 1 << 12;
const BLOCKS: usize = 512;

/// Blocks, by the length alone, so that sums do not depend on the device.
fn parts(len: usize) -> usize {
    len.div_ceil(PART).min(PARTS)
}

pub(super) fn squared_norm(cuda: &Cuda, buffers: &[&CudaBuffer]) -> Result<f64> {
    let name = Op("squared_norm");
    let count: usize = buffers.iter().map(|buffer| parts(buffer.len())).sum();
    let bytes = count * size_of::<f64>();
    let partial = Region::new(&cuda.memory, bytes, MemoryKind::Scratch)?;
    let mut first = partial.address;
    for buffer in buffers {
        let blocks = parts(buffer.len());
        let params = SquaredNormParams {
            x: name.tensor("buffers", buffer, buffer.len())?,
            len: buffer.len() as u64,
            partial: first,
        };
        cuda.driver().launch(&SQUARED_NORM, &params, [blocks, 1, 1], THREADS, 0)?;
        first += (blocks * size_of::<f64>()) as u64;
    }
    let mut sums = vec![0.0_f64; count];
    cuda.driver().copy_out(partial.address, &mut sums)?;
    Ok(sums.iter().sum())
}

pub(super) fn adamw(cuda: &Cuda, op: AdamW, tensors: &mut [AdamWTensor<'_, Cuda>]) -> Result<()> {
    let name = Op("adamw");
    name.require(op.step > 0, || "steps are counted from 1".into())?;
    let correction = |beta: f32| 1.0 - f64::from(beta).powf(op.step as f64);
    let common = AdamWParams {
        beta1: op.beta1,
        beta2: op.beta2,
        eps: op.eps,
        grad_scale: op.grad_scale,
        decay: (1.0 - f64::from(op.lr) * f64::from(op.weight_decay)) as f32,
        step_size: (f64::from(op.lr) / correction(op.beta1)) as f32,
        v_root_correction: correction(op.beta2).sqrt() as f32,
        ..AdamWParams::default()
    };
    let entry = |tensor: &AdamWTensor<'_, Cuda>| {
        let len = tensor.param.len();
        Ok(AdamWEntry {
            param: name.single("param", tensor.param, len)?,
            grad: name.single("grad", tensor.grad, len)?,
            m: name.single("m", tensor.m, len)?,
            v: name.single("v", tensor.v, len)?,
            len: len as u64,
        })
    };
    let entries = tensors.iter().map(entry).collect::<Result<Vec<_>>>()?;
    for chunk in entries.chunks(ADAMW_TENSORS as usize) {
        let mut params = common;
        params.tensors[..chunk.len()].copy_from_slice(chunk);
        let longest = chunk.iter().map(|entry| entry.len as usize).max().unwrap_or(0);
        let blocks = longest.div_ceil(BLOCK).min(BLOCKS);
        cuda.driver().launch(&ADAMW, &params, [blocks, chunk.len(), 1], THREADS, 0)?;
    }
    Ok(())
}
