//! Sums and scaling, element by element.

use rayon::prelude::*;

use super::buffer::CpuBuffer;
use super::check::Op;
use super::simd::simd;
use crate::{Buffer, Result};

/// Elements of one task.
pub(super) const CHUNK: usize = 1 << 13;

pub(super) fn add(x: &CpuBuffer, y: &CpuBuffer, out: &mut CpuBuffer) -> Result<()> {
    let name = Op("add");
    let len = out.len();
    let x = name.float("x", x, len)?;
    let y = name.float("y", y, len)?;
    let tasks = name.float_mut("out", out, len)?.chunks(CHUNK).into_par_iter();
    tasks.enumerate().for_each_init(Scratch::default, |scratch, (task, out)| {
        let x = x.chunk(task, CHUNK).widen(&mut scratch.0);
        let y = y.chunk(task, CHUNK).widen(&mut scratch.1);
        out.write(&mut scratch.2, |out| {
            simd!(for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
                *out = x + y;
            });
        });
    });
    Ok(())
}

#[derive(Default)]
struct Scratch(Vec<f32>, Vec<f32>, Vec<f32>);

pub(super) fn add_assign(acc: &mut CpuBuffer, x: &CpuBuffer) -> Result<()> {
    let name = Op("add_assign");
    let len = acc.len();
    let x = name.float("x", x, len)?;
    let tasks = name.float_mut("acc", acc, len)?.chunks(CHUNK).into_par_iter();
    tasks.enumerate().for_each_init(Scratch::default, |scratch, (task, acc)| {
        let x = x.chunk(task, CHUNK).widen(&mut scratch.0);
        acc.update(&mut scratch.1, |acc| {
            simd!(for (acc, x) in acc.iter_mut().zip(x) {
                *acc += x;
            });
        });
    });
    Ok(())
}

pub(super) fn scale(x: &mut CpuBuffer, factor: f32) -> Result<()> {
    let len = x.len();
    let tasks = Op("scale").float_mut("x", x, len)?.chunks(CHUNK).into_par_iter();
    tasks.for_each_init(Vec::new, |scratch, x| {
        x.update(scratch, |x| {
            simd!(for x in x {
                *x *= factor;
            });
        });
    });
    Ok(())
}
