//! `AdamW` and the norm that clipping needs.

use nf4::moment8;

use super::memory::Region;
use super::params::{
    self, ADAMW, ADAMW_8BIT, ADAMW_TENSORS, AdamW8bitEntry, AdamW8bitParams, AdamWEntry,
    AdamWParams, SQUARED_NORM, SquaredNormParams,
};
use super::{Cuda, CudaBuffer};
use crate::check::Op;
use crate::ops::{AdamW, AdamW8bitTensor, AdamWFactors, AdamWTensor, Moment8};
use crate::{Buffer, DType, MemoryKind, Result};

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
    let partial = Region::new(&cuda.memory, bytes, MemoryKind::Workspace)?;
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

fn factors(op: AdamW, factors: AdamWFactors) -> params::AdamWFactors {
    params::AdamWFactors {
        beta1: op.beta1,
        beta2: op.beta2,
        eps: op.eps,
        grad_scale: op.grad_scale,
        decay: factors.decay,
        step_size: factors.step_size,
        v_root_correction: factors.v_root_correction,
        reserved: 0,
    }
}

/// Blocks and tensors, for the longest.
fn grid(lens: impl ExactSizeIterator<Item = u64>) -> [usize; 3] {
    let tensors = lens.len();
    let longest = lens.max().unwrap_or(0) as usize;
    [longest.div_ceil(BLOCK).min(BLOCKS), tensors, 1]
}

pub(super) fn adamw(cuda: &Cuda, op: AdamW, tensors: &mut [AdamWTensor<'_, Cuda>]) -> Result<()> {
    let name = Op("adamw");
    let factors = factors(op, name.adamw(op)?);
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
        let mut params = AdamWParams { factors, ..AdamWParams::default() };
        params.tensors[..chunk.len()].copy_from_slice(chunk);
        let grid = grid(chunk.iter().map(|entry| entry.len));
        cuda.driver().launch(&ADAMW, &params, grid, THREADS, 0)?;
    }
    Ok(())
}

/// Codes and absmax, and how they are called.
fn moment(
    name: Op,
    [codes, absmax]: [&'static str; 2],
    moment: &Moment8<'_, Cuda>,
    len: usize,
) -> Result<params::Moment8> {
    Ok(params::Moment8 {
        codes: name.address(DType::U8, codes, moment.codes, len)?,
        absmax: name.single(absmax, moment.absmax, len.div_ceil(moment8::BLOCK))?,
    })
}

pub(super) fn adamw_8bit(
    cuda: &Cuda,
    op: AdamW,
    tensors: &mut [AdamW8bitTensor<'_, Cuda>],
) -> Result<()> {
    let name = Op("adamw_8bit");
    let factors = factors(op, name.adamw(op)?);
    let entry = |tensor: &AdamW8bitTensor<'_, Cuda>| {
        let len = tensor.param.len();
        Ok(AdamW8bitEntry {
            param: name.single("param", tensor.param, len)?,
            grad: name.single("grad", tensor.grad, len)?,
            m: moment(name, ["m.codes", "m.absmax"], &tensor.m, len)?,
            v: moment(name, ["v.codes", "v.absmax"], &tensor.v, len)?,
            len: len as u64,
        })
    };
    let entries = tensors.iter().map(entry).collect::<Result<Vec<_>>>()?;
    let maps = [moment8::first(), moment8::second()].map(|map| [*map.values(), *map.tree()]);
    let maps = Region::upload(&cuda.memory, &maps, MemoryKind::Workspace)?;
    for chunk in entries.chunks(ADAMW_TENSORS as usize) {
        let mut params =
            AdamW8bitParams { factors, maps: maps.address, ..AdamW8bitParams::default() };
        params.tensors[..chunk.len()].copy_from_slice(chunk);
        let grid = grid(chunk.iter().map(|entry| entry.len));
        cuda.driver().launch(&ADAMW_8BIT, &params, grid, THREADS, 0)?;
    }
    Ok(())
}
