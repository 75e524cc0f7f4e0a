//! Sums and scaling, element by element.

use super::blocks::{self, Operands};
use super::buffer::CpuBuffer;
use super::check::Op;
use crate::{Buffer, Result};

pub(super) fn add(x: &CpuBuffer, y: &CpuBuffer, out: &mut CpuBuffer) -> Result<()> {
    let name = Op("add");
    let len = out.len();
    let inputs = [name.float("x", x, len)?, name.float("y", y, len)?];
    blocks::map(inputs, [name.float_mut("out", out, len)?], |[x, y]| [x + y]);
    Ok(())
}

pub(super) fn convert(x: &CpuBuffer, out: &mut CpuBuffer) -> Result<()> {
    let name = Op("convert");
    let len = out.len();
    blocks::map([name.float("x", x, len)?], [name.float_mut("out", out, len)?], |[x]| [x]);
    Ok(())
}

pub(super) fn add_assign(acc: &mut CpuBuffer, x: &CpuBuffer) -> Result<()> {
    let name = Op("add_assign");
    let len = acc.len();
    let inputs = [name.float("x", x, len)?];
    let operands = Operands { inputs, outputs: [name.float_mut("acc", acc, len)?] };
    blocks::update(operands.tasks().collect(), |[x], [acc]| [acc + x]);
    Ok(())
}

pub(super) fn scale(x: &mut CpuBuffer, factor: f32) -> Result<()> {
    let len = x.len();
    let operands = Operands { inputs: [], outputs: [Op("scale").float_mut("x", x, len)?] };
    blocks::update(operands.tasks().collect(), |[], [x]| [x * factor]);
    Ok(())
}
