//! Gradients of linears of one input: that and the adapters; the weights are frozen.

use super::{Adapter, Checked, DroppedCopy, Scratch, down_projection, together};
use crate::Result;
use crate::cpu::Cpu;
use crate::cpu::amx::{Gradients, LinearGradients};
use crate::cpu::buffer::CpuBuffer;
use crate::cpu::check::Op;
use crate::cpu::fma::{self, Left, Mat, Source, Stored, gemm};
use crate::cpu::panel::Matrix;
use crate::cpu::simd::simd;
use crate::cpu::team;
use crate::cpu::tiles::{Tile, tiles};
use crate::cpu::view::{FloatMut, FloatRef, sized};
use crate::ops::LinearBackward;

/// Columns of A, and rows of B, whose gradient is one task.
const GRAD_COLS: usize = 96;
/// Rows of X and dY that a task of the adapter's gradients reads at a time.
const GRAD_ROWS: usize = 256;

/// One of the linears, checked.
struct Part<'a> {
    checked: Checked<'a>,
    dy: FloatRef<'a>,
    xa: Option<&'a [f32]>,
    da: Option<FloatMut<'a>>,
    db: Option<FloatMut<'a>>,
}

impl<'a> Part<'a> {
    fn new(
        name: Op,
        linear: &'a mut LinearBackward<'_, Cpu>,
        (m, k): (usize, usize),
    ) -> Result<Self> {
        let LinearBackward { op, xa, dy, da, db } = linear;
        name.one_input(op, (m, k))?;
        let checked = Checked::new(name, op)?;
        name.require(checked.lora.is_some() || (da.is_none() && db.is_none()), || {
            "there is no adapter whose gradients could be written to `da` and `db`".into()
        })?;
        let r = checked.rank();
        Ok(Self {
            dy: name.float("dy", dy, m * op.n)?,
            xa: xa.map(|xa| name.f32("xa", xa, m * r)).transpose()?,
            da: da.as_mut().map(|da| name.float_mut("da", da, r * k)).transpose()?,
            db: db.as_mut().map(|db| name.float_mut("db", db, op.n * r)).transpose()?,
            checked,
        })
    }
}

pub(in crate::cpu) fn backward(
    cpu: &Cpu,
    x: &CpuBuffer,
    linears: &mut [LinearBackward<'_, Cpu>],
    dx: Option<&mut CpuBuffer>,
    accumulate_dx: bool,
) -> Result<()> {
    let name = Op("linear_backward");
    let Some(first) = linears.first() else { return Ok(()) };
    let (m, k) = (first.op.m, first.op.k);
    let x = name.float("x", x, m * k)?;
    let mut dx = dx.map(|dx| name.float_mut("dx", dx, m * k)).transpose()?;
    let parts = linears.iter_mut().map(|linear| Part::new(name, linear, (m, k)));
    let mut parts: Vec<Part<'_>> = parts.collect::<Result<_>>()?;
    let together = together(parts.iter().map(|part| &part.checked));
    for (i, parts) in parts.chunks_mut(together).enumerate() {
        let dx = dx.as_mut().map(FloatMut::reborrow);
        backward_together(cpu, x, parts, dx, accumulate_dx || i > 0)?;
    }
    Ok(())
}

/// Of linears that are [`together`]. What is to be written is taken out of `parts`.
fn backward_together<'a>(
    cpu: &Cpu,
    x: FloatRef<'a>,
    parts: &mut [Part<'a>],
    dx: Option<FloatMut<'_>>,
    mut accumulate_dx: bool,
) -> Result<()> {
    let outs: Vec<_> = parts.iter_mut().map(|part| (part.da.take(), part.db.take())).collect();
    let Checked { m, k, .. } = parts[0].checked;
    let copy = parts[0].checked.dropped(cpu, x)?;
    let dropped = DroppedCopy::or(copy.as_ref(), x);
    let mut own = Vec::new();
    for (part, (_, db)) in parts.iter().zip(&outs) {
        let len = if part.xa.is_none() && db.is_some() { m * part.checked.rank() } else { 0 };
        let mut xa = cpu.scratch(len)?;
        if let Some(adapter) = part.checked.lora.as_ref().filter(|_| len > 0) {
            down_projection(cpu, adapter, x, dropped, &mut xa)?;
        }
        own.push(xa);
    }

    let linears = parts.iter().zip(&own).zip(outs).map(|((part, own), (da, db))| {
        let &Checked { n, weight, ref lora, .. } = &part.checked;
        let factors = lora.as_ref().map(Adapter::factors);
        LinearGradients { n, weight, factors, xa: part.xa.unwrap_or(own), dy: part.dy, da, db }
    });
    let mut gradients = Gradients { dropped, m, k, linears: linears.collect(), dx };
    gradients.run(cpu, |scratch, out, tile| store(accumulate_dx, scratch, out, tile))?;

    let Gradients { linears, mut dx, .. } = gradients;
    for (Part { checked, dy, .. }, linear) in parts.iter().zip(linears) {
        let LinearGradients { n, xa, da, db, .. } = linear;
        let adapter = checked.lora.as_ref();
        if let Some((adapter, db)) = adapter.zip(db) {
            b_gradient(adapter, *dy, xa, (m, n), db);
        }
        let adapter = adapter.filter(|_| dx.is_some() || da.is_some());
        let mut dyb = cpu.scratch(adapter.map_or(0, |adapter| m * adapter.r))?;
        if let Some(adapter) = adapter {
            up_projection(adapter, *dy, n, &mut dyb);
        }
        if let Some((adapter, da)) = adapter.zip(da) {
            a_gradient(adapter, &dyb, x, (m, k), da);
        }
        if let Some(dx) = &mut dx {
            let low = adapter.map(|adapter| (adapter, &*dyb));
            input_gradient(checked, *dy, low, dx.reborrow(), |scratch, out, tile| {
                store(accumulate_dx, scratch, out, tile);
            });
            accumulate_dx = true;
        }
    }
    Ok(())
}

/// Stores sums to a tile, with what is there if it is to be added to.
fn store(accumulate: bool, scratch: &mut Vec<f32>, out: &mut [f32], tile: &mut Tile<'_>) {
    if accumulate {
        let before = sized(scratch, out.len());
        tile.load(before);
        add_assign(out, before);
    }
    tile.store(out);
}

/// `dyb = dY . B`.
fn up_projection(adapter: &Adapter<'_>, dy: FloatRef<'_>, n: usize, dyb: &mut [f32]) {
    let r = adapter.r;
    let b = Mat::new(&adapter.b, n, r);
    let out = FloatMut::F32(dyb);
    fma::multiply(Left::new(dy), Source::of(&b), None, out, r, |_, out, tile| tile.store(out));
}

/// `dB += scale * dY^T . xa`.
fn b_gradient(
    adapter: &Adapter<'_>,
    dy: FloatRef<'_>,
    xa: &[f32],
    (m, n): (usize, usize),
    db: FloatMut<'_>,
) {
    let r = adapter.r;
    let dy = Matrix { data: dy, width: n };
    let tasks = db.chunks(GRAD_COLS * r).into_iter().enumerate();
    team::for_each_init(tasks, Scratch::default, |scratch, (task, db)| {
        let cols = db.len() / r;
        db.update(&mut scratch.tile, |db| {
            for row in (0..m).step_by(GRAD_ROWS) {
                let rows = GRAD_ROWS.min(m - row);
                let xa = Mat::new(&xa[row * r..], rows, r);
                let col = task * GRAD_COLS;
                let operand = &mut scratch.operand;
                let dy = dy.panel(row..row + rows, col..col + cols, operand);
                gemm(db, true, adapter.scale, dy.t(), xa);
            }
        });
    });
}

/// `dA += scale * dyb^T . dropout(X)`.
fn a_gradient(
    adapter: &Adapter<'_>,
    dyb: &[f32],
    x: FloatRef<'_>,
    (m, k): (usize, usize),
    da: FloatMut<'_>,
) {
    let r = adapter.r;
    let x = Matrix { data: x, width: k };
    let tiles = tiles(da, k, 0..k, r, GRAD_COLS);
    team::for_each_init(tiles, Scratch::default, |scratch, mut tile| {
        let out = sized(&mut scratch.tile, r * tile.cols);
        tile.load(out);
        for row in (0..m).step_by(GRAD_ROWS) {
            let rows = GRAD_ROWS.min(m - row);
            let dyb = Mat::new(&dyb[row * r..], rows, r);
            let cols = tile.col..tile.col + tile.cols;
            let operand = &mut scratch.operand;
            let x = x.masked_panel(row..row + rows, cols, adapter.mask, operand);
            gemm(out, true, adapter.scale, dyb.t(), x);
        }
        tile.store(out);
    });
}

/// `dX = finish(dY . W + scale * mask(dyb . A))`.
fn input_gradient(
    checked: &Checked<'_>,
    dy: FloatRef<'_>,
    lora: Option<(&Adapter<'_>, &[f32])>,
    dx: FloatMut<'_>,
    finish: impl Fn(&mut Vec<f32>, &mut [f32], &mut Tile<'_>) + Sync,
) {
    let &Checked { n, k, .. } = checked;
    let weight = Stored::new(checked.weight, n, k);
    let right = Source { rows: &weight, transposed: false, depth: n };
    let low = lora.map(|(adapter, dyb)| fma::LowRank {
        mask: adapter.mask,
        ..adapter.low(dyb, Mat::new(&adapter.a, adapter.r, k))
    });
    fma::multiply(Left::new(dy), right, low, dx, k, finish);
}

fn add_assign(out: &mut [f32], x: &[f32]) {
    simd!(for (out, x) in out.iter_mut().zip(x) {
        *out += x;
    });
}
