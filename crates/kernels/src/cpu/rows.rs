//! Moving elements: download, copy, gather.

use super::buffer::{CpuBuffer, Storage};
use super::check::Op;
use super::team;
use crate::{Buffer, Error, Result};

/// Rows of one task of a gather.
const ROWS: usize = 64;

pub(super) fn download(buffer: &CpuBuffer) -> Result<Vec<f32>> {
    if let Some(codes) = buffer.as_u8() {
        return Ok(codes.iter().map(|&code| code.into()).collect());
    }
    let x = Op("download").float("buffer", buffer, buffer.len())?;
    let mut out = vec![0.0; x.len()];
    x.widen_into(&mut out);
    Ok(out)
}

pub(super) fn copy(
    src: &CpuBuffer,
    src_start: usize,
    dst: &mut CpuBuffer,
    dst_start: usize,
    len: usize,
) -> Result<()> {
    let name = Op("copy");
    let from = src_start..range_end(name, "src", src, src_start, len)?;
    let to = dst_start..range_end(name, "dst", dst, dst_start, len)?;
    match (src.storage(), dst.storage_mut()) {
        (Storage::F32(src), Storage::F32(dst)) => dst[to].copy_from_slice(&src[from]),
        (Storage::Bf16(src), Storage::Bf16(dst)) => dst[to].copy_from_slice(&src[from]),
        (Storage::U32(src), Storage::U32(dst)) => dst[to].copy_from_slice(&src[from]),
        (Storage::U8(src), Storage::U8(dst)) => dst[to].copy_from_slice(&src[from]),
        (_, dst) => {
            return Err(Error::DType { op: name.0, operand: "dst", actual: dst.dtype() });
        }
    }
    Ok(())
}

fn range_end(
    name: Op,
    operand: &'static str,
    buffer: &CpuBuffer,
    start: usize,
    len: usize,
) -> Result<usize> {
    let end = start.saturating_add(len);
    if end <= buffer.len() {
        return Ok(end);
    }
    Err(Error::Length { op: name.0, operand, expected: end, actual: buffer.len() })
}

pub(super) fn gather(
    table: &CpuBuffer,
    ids: &CpuBuffer,
    cols: usize,
    out: &mut CpuBuffer,
) -> Result<()> {
    let name = Op("gather_rows");
    name.require(cols > 0, || "rows of no columns".into())?;
    let rows = table.len() / cols;
    let table = name.float("table", table, rows * cols)?;
    let ids = name.u32("ids", ids, ids.len())?;
    name.indices(ids, rows)?;
    let out = name.float_mut("out", out, ids.len() * cols)?;
    let tasks = out.chunks(ROWS * cols).into_iter().zip(ids.chunks(ROWS));
    team::for_each(tasks, |(mut out, ids)| {
        for (i, &id) in ids.iter().enumerate() {
            // The rows of a large table are far apart, which no processor foresees.
            if let Some(&next) = ids.get(i + 1) {
                table.chunk(next as usize, cols).prefetch();
            }
            table.chunk(id as usize, cols).convert_into(out.split_off_front(cols));
        }
    });
    Ok(())
}
