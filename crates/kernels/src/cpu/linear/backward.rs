//! Gradients of linears of one input: that and the adapters; the weights are frozen.

use super::{
    Adapter, Checked, DroppedCopy, Scratch, down_projection, in_integers, left_of, together,
};
use crate::cpu::amx::{FactorGradients, Finish, Gradients, LinearGradients};
use crate::cpu::buffer::CpuBuffer;
use crate::cpu::check::Op;
use crate::cpu::fma::int16::MadeRows;
use crate::cpu::fma::{self, Left, Mat, Source, Term, gemm};
use crate::cpu::gated;
use crate::cpu::panel::Matrix;
use crate::cpu::simd::simd;
use crate::cpu::team;
use crate::cpu::tiles::{Tile, tiles};
use crate::cpu::view::{FloatMut, FloatRef, sized};
use crate::cpu::{Cpu, F32Scratch};
use crate::ops::{Activation, LinearBackward};
use crate::{Buffer, DType, Result};

/// Columns of A, and rows of B, whose gradient is one task.
const GRAD_COLS: usize = 96;
/// Rows of X and dY that a task of the adapter's gradients reads at a time.
const GRAD_ROWS: usize = 256;

/// What the linears read.
pub(in crate::cpu) enum Input<'a> {
    /// `x`, whose gradient may be wanted.
    Given { x: &'a CpuBuffer, dx: Option<&'a mut CpuBuffer> },
    /// `act(gate) * up`, which `out` receives; the others receive their gradients.
    Gated {
        act: Activation,
        gate: &'a mut CpuBuffer,
        up: &'a mut CpuBuffer,
        out: &'a mut CpuBuffer,
    },
}

/// One of the linears, checked.
struct Part<'a> {
    checked: Checked<'a>,
    dy: FloatRef<'a>,
    xa: Option<&'a [f32]>,
}

/// The gradients of the factors of one, if wanted.
struct Outs<'a> {
    da: Option<FloatMut<'a>>,
    db: Option<FloatMut<'a>>,
}

impl<'a> Part<'a> {
    fn new(
        name: Op,
        linear: &'a mut LinearBackward<'_, Cpu>,
        (m, k): (usize, usize),
    ) -> Result<(Self, Outs<'a>)> {
        let LinearBackward { op, xa, dy, da, db } = linear;
        name.one_input(op, (m, k))?;
        let checked = Checked::new(name, op)?;
        name.require(checked.lora.is_some() || (da.is_none() && db.is_none()), || {
            "there is no adapter whose gradients could be written to `da` and `db`".into()
        })?;
        let r = checked.rank();
        let outs = Outs {
            da: da.as_mut().map(|da| name.float_mut("da", da, r * k)).transpose()?,
            db: db.as_mut().map(|db| name.float_mut("db", db, op.n * r)).transpose()?,
        };
        let dy = name.float("dy", dy, m * op.n)?;
        let xa = xa.map(|xa| name.f32("xa", xa, m * r)).transpose()?;
        Ok((Self { checked, dy, xa }, outs))
    }

    fn gradients<'s>(&'s self, Outs { da, db }: Outs<'s>) -> LinearGradients<'s> {
        let &Checked { n, weight, ref lora, .. } = &self.checked;
        let factors = lora.as_ref().map(Adapter::factors);
        LinearGradients { n, weight, factors, xa: self.xa, dy: self.dy, da, db }
    }
}

/// The gradient of the input comes first: what is gated is made again from it.
pub(in crate::cpu) fn backward(
    cpu: &Cpu,
    mut input: Input<'_>,
    linears: &mut [LinearBackward<'_, Cpu>],
    accumulate_dx: bool,
) -> Result<()> {
    let name = input.name();
    let Some(first) = linears.first() else { return Ok(()) };
    let (m, k) = (first.op.m, first.op.k);
    let dtype = input.check(name, m * k)?;
    let parts = linears.iter_mut().map(|linear| Part::new(name, linear, (m, k)));
    let parts: Vec<_> = parts.collect::<Result<_>>()?;
    let (parts, outs): (Vec<Part<'_>>, Vec<Outs<'_>>) = parts.into_iter().unzip();
    let together = together(parts.iter().map(|part| &part.checked));

    let mut dx = input.gradient().map(|dx| name.float_mut("dx", dx, m * k)).transpose()?;
    let mut outs = outs.into_iter();
    let mut begun = Vec::new();
    for (i, parts) in parts.chunks(together).enumerate() {
        let linears = parts.iter().zip(&mut outs).map(|(part, outs)| part.gradients(outs));
        let group = Group { parts, linears: linears.collect() };
        let dx = dx.as_mut().map(FloatMut::reborrow);
        begun.push(group.input_gradient(cpu, dtype, dx, accumulate_dx || i > 0)?);
    }
    let x = name.float("x", input.finish()?, m * k)?;
    begun.into_iter().try_for_each(|group| group.factor_gradients(cpu, x))
}

impl<'a> Input<'a> {
    /// Of the operation.
    const fn name(&self) -> Op {
        Op(match self {
            Self::Given { .. } => "linear_backward",
            Self::Gated { .. } => "linear_of_gated_backward",
        })
    }

    /// The type of what the linears read.
    fn check(&self, name: Op, len: usize) -> Result<DType> {
        match self {
            Self::Given { x, .. } => name.float("x", x, len).map(|_| x.dtype()),
            Self::Gated { gate, up, out, .. } => {
                name.float("gate", gate, len)?;
                name.float("up", up, len)?;
                name.float("gated", out, len).map(|_| out.dtype())
            }
        }
    }

    /// Where its gradient goes, if that is wanted.
    fn gradient(&mut self) -> Option<&mut CpuBuffer> {
        match self {
            Self::Given { dx, .. } => dx.as_deref_mut(),
            Self::Gated { out, .. } => Some(out),
        }
    }

    /// What the linears read, once its gradient is computed.
    fn finish(self) -> Result<&'a CpuBuffer> {
        match self {
            Self::Given { x, .. } => Ok(x),
            Self::Gated { act, gate, up, out } => {
                gated::backward(act, gate, up, out)?;
                Ok(out)
            }
        }
    }
}

/// Linears that are [`together`].
struct Group<'a> {
    parts: &'a [Part<'a>],
    linears: Vec<LinearGradients<'a>>,
}

/// The gradients of the factors that are left to do.
struct Begun<'a> {
    parts: &'a [Part<'a>],
    /// Whether the gradient of each B is wanted.
    wants_db: Vec<bool>,
    on_tiles: Option<FactorGradients<'a>>,
    /// Of each linear what is not done on tiles, and `dY . B`.
    rest: Vec<(Outs<'a>, F32Scratch)>,
}

impl<'a> Group<'a> {
    fn input_gradient(
        self,
        cpu: &Cpu,
        dtype: DType,
        mut dx: Option<FloatMut<'_>>,
        accumulate: bool,
    ) -> Result<Begun<'a>> {
        let Self { parts, linears } = self;
        let &Checked { m, k, .. } = &parts[0].checked;
        let wants_db = linears.iter().map(|linear| linear.db.is_some()).collect();
        let mut gradients = Gradients { mask: parts[0].checked.mask(), m, k, linears };
        let mut on_tiles = None;
        if dtype == DType::Bf16 {
            let dx = dx.as_mut().map(FloatMut::reborrow);
            let add = |scratch: &mut Vec<f32>, out: &mut [f32], tile: &mut Tile<'_>| {
                store(true, scratch, out, tile);
            };
            let finish = if accumulate { Finish::With(&add) } else { Finish::Store };
            on_tiles = gradients.input(cpu, dx, finish)?;
        }
        let dx = dx.filter(|_| on_tiles.is_none());
        let mut rest = Vec::new();
        for (Part { checked, dy, .. }, linear) in parts.iter().zip(gradients.linears) {
            let LinearGradients { n, da, db, .. } = linear;
            let adapter = checked.lora.as_ref().filter(|_| dx.is_some() || da.is_some());
            let mut dyb = cpu.scratch(adapter.map_or(0, |adapter| m * adapter.r))?;
            if let Some(adapter) = adapter {
                up_projection(adapter, *dy, n, &mut dyb);
            }
            rest.push((Outs { da, db }, dyb));
        }
        if let Some(dx) = dx {
            let dyb = rest.iter().map(|(_, dyb)| &**dyb);
            input_gradient(cpu, parts, dyb, dx, accumulate)?;
        }
        Ok(Begun { parts, wants_db, on_tiles, rest })
    }
}

impl Begun<'_> {
    fn factor_gradients(self, cpu: &Cpu, x: FloatRef<'_>) -> Result<()> {
        let Self { parts, wants_db, on_tiles, rest } = self;
        let Checked { m, k, .. } = parts[0].checked;
        let copy = parts[0].checked.dropped(cpu, x)?;
        let dropped = DroppedCopy::or(copy.as_ref(), x);
        let mut own = Vec::new();
        for (part, wanted) in parts.iter().zip(wants_db) {
            let len = if part.xa.is_none() && wanted { m * part.checked.rank() } else { 0 };
            let mut xa = cpu.scratch(len)?;
            if let Some(adapter) = part.checked.lora.as_ref().filter(|_| len > 0) {
                down_projection(cpu, adapter, x, dropped, &mut xa)?;
            }
            own.push(xa);
        }
        let xas = parts.iter().zip(&own).map(|(part, own)| part.xa.unwrap_or(own));
        let xas: Vec<&[f32]> = xas.collect();
        if let (Some(on_tiles), FloatRef::Bf16(dropped)) = (on_tiles, dropped.x) {
            on_tiles.run(dropped, &xas);
        }
        for ((part, xa), (Outs { da, db }, dyb)) in parts.iter().zip(xas).zip(rest) {
            let Some(adapter) = &part.checked.lora else { continue };
            if let Some(db) = db {
                b_gradient(adapter, part.dy, xa, (m, part.checked.n), db);
            }
            if let Some(da) = da {
                a_gradient(adapter, &dyb, x, (m, k), da);
            }
        }
        Ok(())
    }
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
    let term = Term { x: Left::new(dy), right: Source::of(&b), low: None };
    fma::multiply(&[term], FloatMut::F32(dyb), r, |_, out, tile| tile.store(out));
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

/// `dX = [dX +]` the sum of `dY . W + scale * mask(dyb . A)`, rounded once.
fn input_gradient<'a>(
    cpu: &Cpu,
    parts: &'a [Part<'a>],
    dyb: impl Iterator<Item = &'a [f32]>,
    dx: FloatMut<'_>,
    accumulate: bool,
) -> Result<()> {
    let k = parts[0].checked.k;
    let mut made = Vec::new();
    for Part { checked, dy, .. } in parts {
        made.push((in_integers(cpu, *dy, checked.n)?, checked.stored()));
    }
    let terms = parts.iter().zip(&made).zip(dyb).map(|((part, (made, weight)), dyb)| {
        let Part { checked, dy, .. } = part;
        let low = checked.lora.as_ref().map(|adapter| fma::LowRank {
            mask: adapter.mask,
            ..adapter.low(dyb, Mat::new(&adapter.a, adapter.r, k))
        });
        let x = left_of(*dy, made.as_ref().map(MadeRows::rows), checked.weight, &dx);
        Term { x, right: Source { rows: weight, transposed: false, depth: checked.n }, low }
    });
    let terms: Vec<Term<'_>> = terms.collect();
    fma::multiply(&terms, dx, k, |scratch, out, tile| store(accumulate, scratch, out, tile));
    Ok(())
}

fn add_assign(out: &mut [f32], x: &[f32]) {
    simd!(for (out, x) in out.iter_mut().zip(x) {
        *out += x;
    });
}
