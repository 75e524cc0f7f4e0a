//! Gradients of the linear: input and adapter; the weight is frozen.

use super::{Adapter, Checked, Scratch, down_projection};
use crate::Result;
use crate::cpu::Cpu;
use crate::cpu::amx::{self, Gradients, Side};
use crate::cpu::buffer::CpuBuffer;
use crate::cpu::check::Op;
use crate::cpu::fma::{self, Left, Mat, Source, Stored, gemm};
use crate::cpu::panel::Matrix;
use crate::cpu::simd::simd;
use crate::cpu::team;
use crate::cpu::tiles::{Tile, tiles};
use crate::cpu::view::{FloatMut, FloatRef, sized};
use crate::ops::{Linear, LinearGrads};

/// Columns of A, and rows of B, whose gradient is one task.
const GRAD_COLS: usize = 96;
/// Rows of X and dY that a task of the adapter's gradients reads at a time.
const GRAD_ROWS: usize = 256;

pub(in crate::cpu) fn backward(
    cpu: &Cpu,
    op: &Linear<'_, Cpu>,
    x: &CpuBuffer,
    xa: Option<&CpuBuffer>,
    dy: &CpuBuffer,
    grads: LinearGrads<'_, Cpu>,
) -> Result<()> {
    let name = Op("linear_backward");
    let checked = Checked::new(name, op)?;
    let &Checked { m, n, k, .. } = &checked;
    let x = name.float("x", x, m * k)?;
    let dy = name.float("dy", dy, m * n)?;
    let dx = grads.dx.map(|dx| name.float_mut("dx", dx, m * k)).transpose()?;
    let add_before = |scratch: &mut Vec<f32>, out: &mut [f32], tile: &mut Tile<'_>| {
        if grads.accumulate_dx {
            let before = sized(scratch, out.len());
            tile.load(before);
            add_assign(out, before);
        }
        tile.store(out);
    };
    let Some(adapter) = &checked.lora else {
        name.require(grads.da.is_none() && grads.db.is_none(), || {
            "there is no adapter whose gradients could be written to `da` and `db`".into()
        })?;
        if let Some(mut dx) = dx {
            let weight = (checked.weight, Side::Straight);
            if !amx::multiply(cpu, dy, weight, &mut dx, (m, n, k), add_before)? {
                input_gradient(&checked, dy, None, dx, add_before);
            }
        }
        return Ok(());
    };
    let r = adapter.r;
    let da = grads.da.map(|da| name.float_mut("da", da, r * k)).transpose()?;
    let db = grads.db.map(|db| name.float_mut("db", db, n * r)).transpose()?;
    let xa = xa.map(|xa| name.f32("xa", xa, m * r)).transpose()?;
    let dropped = adapter.dropped(cpu, x, k)?;
    let mut own = cpu.scratch(if xa.is_none() && db.is_some() { m * r } else { 0 })?;
    let xa = if let Some(xa) = xa {
        xa
    } else {
        if db.is_some() {
            down_projection(cpu, adapter, x, dropped.as_ref(), &mut own)?;
        }
        &own
    };
    let mut grads = Gradients { dx, da, db };
    let adapted = adapter.on_tiles(&checked, x, dropped.as_ref());
    adapted.backward(cpu, dy, xa, &mut grads, add_before)?;
    let Gradients { dx, da, db } = grads;
    if let Some(db) = db {
        b_gradient(adapter, dy, xa, (m, n), db);
    }
    if dx.is_none() && da.is_none() {
        return Ok(());
    }
    let mut dyb = cpu.scratch(m * r)?;
    up_projection(adapter, dy, n, &mut dyb);
    if let Some(da) = da {
        a_gradient(adapter, &dyb, x, (m, k), da);
    }
    if let Some(dx) = dx {
        input_gradient(&checked, dy, Some((adapter, &dyb)), dx, add_before);
    }
    Ok(())
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
