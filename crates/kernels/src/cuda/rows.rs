//! Operations on rows: moving them, norms, rotary embedding.

use super::params::{
    DTYPE_F32, GATHER_ROWS, GatherParams, Kernel, RMS_NORM, RMS_NORM_BACKWARD,
    RMS_NORM_BACKWARD_SHORT, RMS_NORM_SHORT, ROPE, RmsNormBackwardParams, RmsNormParams,
    RopeParams,
};
use super::{Cuda, CudaBuffer, elementwise};
use crate::check::Op;
use crate::ops::{RmsNorm, Rope, RopeTable};
use crate::{Backend, Buffer, DType, Error, HostSlice, MemoryKind, Result};

/// Threads that work on a row, and rows of a block where a warp works on each.
const THREADS: u32 = 256;
const SHORT_ROWS: usize = 8;
/// Elements of a row that one warp holds.
const SHORT: usize = 512;

pub(super) fn download(cuda: &Cuda, buffer: &CudaBuffer) -> Result<Vec<f32>> {
    if buffer.dtype() == DType::U8 {
        let mut codes = vec![0_u8; buffer.len()];
        cuda.driver().copy_out(buffer.address(), &mut codes)?;
        return Ok(codes.into_iter().map(f32::from).collect());
    }
    let tensor = Op("download").tensor("buffer", buffer, buffer.len())?;
    let mut out = vec![0.0; buffer.len()];
    if tensor.dtype == DTYPE_F32 {
        cuda.driver().copy_out(buffer.address(), &mut out)?;
        return Ok(out);
    }
    let mut narrow = vec![half::bf16::ZERO; buffer.len()];
    cuda.driver().copy_out(buffer.address(), &mut narrow)?;
    out.iter_mut().zip(narrow).for_each(|(out, x)| *out = x.to_f32());
    Ok(out)
}

pub(super) fn copy(
    cuda: &Cuda,
    src: &CudaBuffer,
    src_start: usize,
    dst: &mut CudaBuffer,
    dst_start: usize,
    len: usize,
) -> Result<()> {
    let name = Op("copy");
    for (operand, buffer, start) in [("src", src, src_start), ("dst", &*dst, dst_start)] {
        let end = start.saturating_add(len);
        if end > buffer.len() {
            return Err(Error::Length { op: name.0, operand, expected: end, actual: buffer.len() });
        }
    }
    if src.dtype() != dst.dtype() {
        return Err(name.dtype("dst", dst));
    }
    dst.forget_host();
    cuda.driver().copy(src.at(src_start), dst.at(dst_start), len * src.dtype().size())
}

pub(super) fn gather(
    cuda: &Cuda,
    table: &CudaBuffer,
    ids: &CudaBuffer,
    cols: usize,
    out: &mut CudaBuffer,
) -> Result<()> {
    let name = Op("gather_rows");
    name.require(cols > 0, || "rows of no columns".into())?;
    let rows = table.len() / cols;
    let params = GatherParams {
        table: name.tensor("table", table, rows * cols)?,
        out: name.tensor("out", out, ids.len() * cols)?,
        ids: ids.address(),
        rows: rows as u64,
        cols: cols as u64,
    };
    name.indices(&name.words("ids", ids, ids.len())?, rows)?;
    cuda.driver().launch(&GATHER_ROWS, &params, [ids.len(), 1, 1], THREADS, 0)
}

pub(super) fn rms_norm(
    cuda: &Cuda,
    op: RmsNorm,
    x: &CudaBuffer,
    weight: &CudaBuffer,
    y: &mut CudaBuffer,
    inv_rms: &mut CudaBuffer,
) -> Result<()> {
    let params = norm(Op("rms_norm"), op, [x, weight], y, inv_rms)?;
    launch_norm(cuda, &params)
}

/// Of `[x, added, weight]`.
pub(super) fn add_rms_norm(
    cuda: &Cuda,
    op: RmsNorm,
    [x, added, weight]: [&CudaBuffer; 3],
    sum: &mut CudaBuffer,
    y: &mut CudaBuffer,
    inv_rms: &mut CudaBuffer,
) -> Result<()> {
    let (name, len) = (Op("add_rms_norm"), op.rows * op.cols);
    let params = RmsNormParams {
        added: name.tensor("added", added, len)?,
        sum: name.tensor("sum", sum, len)?,
        ..norm(name, op, [x, weight], y, inv_rms)?
    };
    launch_norm(cuda, &params)
}

/// Of `[x, weight]`.
fn norm(
    name: Op,
    op: RmsNorm,
    [x, weight]: [&CudaBuffer; 2],
    y: &CudaBuffer,
    inv_rms: &CudaBuffer,
) -> Result<RmsNormParams> {
    let RmsNorm { rows, cols, eps } = op;
    name.require(cols > 0, || "rows of no columns".into())?;
    Ok(RmsNormParams {
        x: name.tensor("x", x, rows * cols)?,
        weight: name.tensor("weight", weight, cols)?,
        y: name.tensor("y", y, rows * cols)?,
        inv_rms: name.single("inv_rms", inv_rms, rows)?,
        rows: rows as u32,
        cols: cols as u32,
        eps,
        ..RmsNormParams::default()
    })
}

fn launch_norm(cuda: &Cuda, params: &RmsNormParams) -> Result<()> {
    let (rows, cols) = (params.rows as usize, params.cols as usize);
    let (kernel, blocks) = by_length(cols, rows, [RMS_NORM_SHORT, RMS_NORM]);
    cuda.driver().launch(&kernel, params, [blocks, 1, 1], THREADS, 0)
}

/// Of `[x, weight, inv_rms, dy]`.
pub(super) fn rms_norm_backward(
    cuda: &Cuda,
    op: RmsNorm,
    [x, weight, inv_rms, dy]: [&CudaBuffer; 4],
    dx: &mut CudaBuffer,
    accumulate: bool,
) -> Result<()> {
    let name = Op("rms_norm_backward");
    let RmsNorm { rows, cols, .. } = op;
    name.require(cols > 0, || "rows of no columns".into())?;
    let params = RmsNormBackwardParams {
        x: name.tensor("x", x, rows * cols)?,
        weight: name.tensor("weight", weight, cols)?,
        inv_rms: name.single("inv_rms", inv_rms, rows)?,
        dy: name.tensor("dy", dy, rows * cols)?,
        dx: name.tensor("dx", dx, rows * cols)?,
        rows: rows as u32,
        cols: cols as u32,
        accumulate: accumulate.into(),
        reserved: 0,
    };
    let (kernel, blocks) = by_length(cols, rows, [RMS_NORM_BACKWARD_SHORT, RMS_NORM_BACKWARD]);
    cuda.driver().launch(&kernel, &params, [blocks, 1, 1], THREADS, 0)
}

/// The kernel for short or for long rows, and its blocks.
fn by_length<P>(cols: usize, rows: usize, [short, long]: [Kernel<P>; 2]) -> (Kernel<P>, usize) {
    if cols <= SHORT { (short, rows.div_ceil(SHORT_ROWS)) } else { (long, rows) }
}

pub(super) fn rope(
    cuda: &Cuda,
    op: Rope,
    table: &RopeTable<Cuda>,
    positions: &CudaBuffer,
    x: &mut CudaBuffer,
) -> Result<()> {
    let name = Op("rope");
    name.rope(op)?;
    let Rope { tokens, heads, head_dim, inverse } = op;
    let (half, width) = (head_dim / 2, heads * head_dim);
    let x = name.tensor("x", x, tokens * width)?;
    let params = RopeParams {
        x,
        out: x,
        cos: name.single("cos", &table.cos, table.positions * half)?,
        sin: name.single("sin", &table.sin, table.positions * half)?,
        positions: positions.address(),
        tokens: tokens as u64,
        heads: heads as u32,
        head_dim: head_dim as u32,
        sign: if inverse { -1.0 } else { 1.0 },
        reserved: 0,
    };
    name.indices(&name.words("positions", positions, tokens)?, table.positions)?;
    cuda.driver().launch(&ROPE, &params, elementwise::grid(tokens * heads * half), THREADS, 0)
}

/// A buffer of row numbers.
pub(super) fn upload_ids(cuda: &Cuda, rows: &[u32]) -> Result<CudaBuffer> {
    cuda.upload(HostSlice::U32(rows), MemoryKind::Workspace)
}
