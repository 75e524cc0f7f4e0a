//! Frozen linears of one input, with LoRA.
//!
//! Products are in f32 (`fma`), but where the processor has a matrix unit, it takes over those of bf16 and
//! 4 bits (`amx`), and on AVX2, and AVX-512 with VNNI, those whose rows and results are bf16 are in integers
//! (`fma::int16`).

mod backward;

use std::borrow::Cow;

use half::bf16;

use super::amx::{self, Dropped, Factors, LinearProduct, Products};
use super::buffer::CpuBuffer;
use super::check::Op;
use super::dropout::Mask;
use super::fma::int16::{self, MadeRows};
use super::fma::{self, Left, Mat, Source, Stored, Term};
use super::level::has_amx;
use super::simd::simd;
use super::team;
use super::tiles::Tile;
use super::view::{FloatMut, FloatRef};
use super::weight::{WeightRef, to_f32};
use super::{Cpu, F32Scratch};
use crate::Result;
use crate::ops::{Linear, LinearInto, Lora};

pub(super) use self::backward::{Input, backward};

/// Rows of a task that drops elements.
const LORA_ROWS: usize = 64;

/// Checked shape and weights.
struct Checked<'a> {
    m: usize,
    n: usize,
    k: usize,
    weight: WeightRef<'a>,
    lora: Option<Adapter<'a>>,
}

/// Checked adapter, widened.
struct Adapter<'a> {
    a: Cow<'a, [f32]>,
    b: Cow<'a, [f32]>,
    r: usize,
    scale: f32,
    mask: Option<Mask>,
}

/// Activations with zeros where they are dropped.
struct DroppedCopy {
    copy: F32Scratch,
    len: usize,
    mask: Mask,
}

impl DroppedCopy {
    /// `copy`, where there is one, or `x` itself.
    fn or<'s>(copy: Option<&'s Self>, x: FloatRef<'s>) -> Dropped<'s> {
        let Some(Self { copy, len, mask }) = copy else {
            return Dropped { x, mask: None };
        };
        let x = FloatRef::Bf16(&bytemuck::cast_slice(copy)[..*len]);
        Dropped { x, mask: Some(*mask) }
    }
}

/// What a task needs besides its output.
#[derive(Default)]
struct Scratch {
    operand: Vec<f32>,
    tile: Vec<f32>,
}

impl<'a> Checked<'a> {
    fn new(name: Op, op: &Linear<'a, Cpu>) -> Result<Self> {
        let &Linear { m, n, k, .. } = op;
        let adapter = |lora| Adapter::new(name, lora, n, k);
        Ok(Self {
            m,
            n,
            k,
            weight: WeightRef::new(name, op.weight, n, k)?,
            lora: op.lora.map(adapter).transpose()?,
        })
    }
}

impl Checked<'_> {
    /// Of the adapter, 0 without.
    fn rank(&self) -> usize {
        self.lora.as_ref().map_or(0, |adapter| adapter.r)
    }

    /// The weight, as panels are filled from it.
    fn stored(&self) -> Stored<'_> {
        Stored::new(self.weight, self.n, self.k)
    }

    fn mask(&self) -> Option<Mask> {
        self.lora.as_ref().and_then(|adapter| adapter.mask)
    }

    /// `x` `[m, k]` where there is dropout and bf16 is multiplied on tiles.
    fn dropped(&self, cpu: &Cpu, x: FloatRef<'_>) -> Result<Option<DroppedCopy>> {
        let (FloatRef::Bf16(x), Some(mask)) = (x, self.mask()) else {
            return Ok(None);
        };
        if !has_amx() || self.k == 0 {
            return Ok(None);
        }
        let rows = LORA_ROWS * self.k;
        let mut copy = cpu.scratch(x.len().div_ceil(2))?;
        let out: &mut [bf16] = &mut bytemuck::cast_slice_mut(&mut copy)[..x.len()];
        let tasks = x.chunks(rows).zip(out.chunks_mut(rows)).enumerate();
        team::for_each(tasks, |(task, (x, out))| mask.select(task * rows, x, out));
        Ok(Some(DroppedCopy { copy, len: x.len(), mask }))
    }
}

impl<'a> Adapter<'a> {
    fn new(name: Op, lora: Lora<'a, Cpu>, n: usize, k: usize) -> Result<Self> {
        let r = lora.r;
        name.require(r > 0, || "the rank of an adapter is at least 1".into())?;
        Ok(Self {
            a: to_f32(name.float("a", lora.a, r * k)?),
            b: to_f32(name.float("b", lora.b, n * r)?),
            r,
            scale: lora.scale,
            mask: lora.dropout.map(|d| Mask::new(name, d)).transpose()?,
        })
    }

    /// `out += scale * xa . B^T` for the rows and columns of a tile.
    fn add_low(&self, xa: &[f32], out: &mut [f32], tile: &Tile<'_>) {
        let r = self.r;
        let xa = Mat::new(&xa[tile.row * r..], tile.rows, r);
        let b = Mat::new(&self.b[tile.col * r..], tile.cols, r);
        fma::gemm(out, true, self.scale, xa, b.t());
    }

    /// `scale * left . factor`, not masked.
    const fn low<'s>(&self, left: &'s [f32], factor: Mat<'s>) -> fma::LowRank<'s> {
        fma::LowRank { left, factor, scale: self.scale, mask: None }
    }

    fn factors(&self) -> Factors<'_> {
        Factors { a: &self.a, b: &self.b, r: self.r, scale: self.scale }
    }
}

/// One of the linears, checked.
struct Part<'a> {
    checked: Checked<'a>,
    bias: Option<Cow<'a, [f32]>>,
    y: FloatMut<'a>,
    xa: Option<&'a mut [f32]>,
}

impl<'a> Part<'a> {
    fn new(
        name: Op,
        LinearInto { op, y, xa }: &'a mut LinearInto<'_, Cpu>,
        (m, k): (usize, usize),
    ) -> Result<Self> {
        name.one_input(op, (m, k))?;
        let checked = Checked::new(name, op)?;
        name.require(checked.lora.is_some() == xa.is_some(), || {
            "`xa` is needed with an adapter, and only then".into()
        })?;
        let bias = op.bias.map(|bias| name.float("bias", bias, op.n)).transpose()?;
        Ok(Self {
            bias: bias.map(to_f32),
            y: name.float_mut("y", y, m * op.n)?,
            xa: xa.as_mut().map(|xa| name.f32_mut("xa", xa, m * checked.rank())).transpose()?,
            checked,
        })
    }
}

pub(super) fn forward(cpu: &Cpu, x: &CpuBuffer, linears: &mut [LinearInto<'_, Cpu>]) -> Result<()> {
    let name = Op("linear");
    let Some(&LinearInto { op: Linear { m, k, .. }, .. }) = linears.first() else {
        return Ok(());
    };
    let x = name.float("x", x, m * k)?;
    let parts = linears.iter_mut().map(|linear| Part::new(name, linear, (m, k)));
    let mut parts: Vec<Part<'_>> = parts.collect::<Result<_>>()?;
    let together = together(parts.iter().map(|part| &part.checked));
    for parts in parts.chunks_mut(together) {
        let few = parts.iter().any(|part| m <= fma::few_rows(x, part.checked.weight));
        if few || !forward_on_tiles(cpu, x, parts)? {
            let made = if few { None } else { in_integers(cpu, x, k)? };
            let rows = made.as_ref().map(MadeRows::rows);
            parts.iter_mut().try_for_each(|part| forward_alone(cpu, x, rows, part))?;
        }
    }
    Ok(())
}

/// How many of linears of one input are tried on the tiles together: each mask makes another input, and weights in f32
/// are not for the tiles.
fn together<'a>(mut linears: impl ExactSizeIterator<Item = &'a Checked<'a>>) -> usize {
    let count = linears.len();
    let alone = |linear: &Checked<'_>| {
        linear.mask().is_some() || matches!(linear.weight, WeightRef::Dense(FloatRef::F32(_)))
    };
    if linears.any(alone) { 1 } else { count }
}

/// Linears that are [`together`]. False, and nothing done, where the tiles can't do all.
fn forward_on_tiles(cpu: &Cpu, x: FloatRef<'_>, parts: &mut [Part<'_>]) -> Result<bool> {
    let Checked { m, k, .. } = parts[0].checked;
    let copy = parts[0].checked.dropped(cpu, x)?;
    let dropped = DroppedCopy::or(copy.as_ref(), x);
    let mut biases = Vec::new();
    let linears = parts.iter_mut().map(|Part { checked, bias, y, xa }| {
        biases.push(bias.as_deref());
        let &mut Checked { n, weight, ref lora, .. } = checked;
        let factors = lora.as_ref().map(Adapter::factors);
        let finish = bias.is_some();
        LinearProduct { n, weight, factors, y: y.reborrow(), xa: xa.as_deref_mut(), finish }
    });
    let linears = linears.collect();
    let mut products = Products { x, dropped, m, k, linears };
    products.run(cpu, |i, out, tile| finish(biases[i], out, tile))
}

/// `integers` are the rows of `x`, where they are multiplied so.
fn forward_alone(
    cpu: &Cpu,
    x: FloatRef<'_>,
    integers: Option<int16::Rows<'_>>,
    part: &mut Part<'_>,
) -> Result<()> {
    let Part { checked, bias, y, xa } = part;
    let &mut Checked { n, k, weight, .. } = checked;
    let lora = match (&checked.lora, xa) {
        (Some(adapter), Some(xa)) => {
            let copy = checked.dropped(cpu, x)?;
            down_projection(cpu, adapter, x, DroppedCopy::or(copy.as_ref(), x), xa)?;
            Some((adapter, &**xa))
        }
        _ => None,
    };
    let bias = bias.as_deref();
    if fma::multiply_few(x, weight, y, (checked.m, n, k), |out, tile| {
        if let Some((adapter, xa)) = lora {
            adapter.add_low(xa, out, tile);
        }
        finish(bias, out, tile);
    }) {
        return Ok(());
    }
    let left = left_of(x, integers, weight, y);
    let weight = checked.stored();
    let right = Source { rows: &weight, transposed: true, depth: k };
    let low = lora.map(|(adapter, xa)| adapter.low(xa, Mat::new(&adapter.b, n, adapter.r).t()));
    fma::multiply(&[Term { x: left, right, low }], y.reborrow(), n, |_, out, tile| {
        finish(bias, out, tile);
    });
    Ok(())
}

/// Rows of bf16 in integers, where they are multiplied so.
fn in_integers(cpu: &Cpu, x: FloatRef<'_>, depth: usize) -> Result<Option<MadeRows>> {
    match x {
        FloatRef::Bf16(_) => MadeRows::new(cpu, x, depth),
        FloatRef::F32(_) => Ok(None),
    }
}

/// Rows as they meet a weight. Weights of f32, and results of f32, keep their precision.
const fn left_of<'a>(
    x: FloatRef<'a>,
    integers: Option<int16::Rows<'a>>,
    weight: WeightRef<'_>,
    out: &FloatMut<'_>,
) -> Left<'a> {
    match (integers, weight, out) {
        (_, WeightRef::Dense(FloatRef::F32(_)), _) => Left::new(x),
        (Some(rows), _, FloatMut::Bf16(_)) => Left::Int16(rows),
        _ => Left::new(x),
    }
}

/// Adds the bias and stores.
fn finish(bias: Option<&[f32]>, out: &mut [f32], tile: &mut Tile<'_>) {
    if let Some(bias) = bias {
        add_to_rows(out, &bias[tile.col..tile.col + tile.cols]);
    }
    tile.store(out);
}

fn add_to_rows(out: &mut [f32], bias: &[f32]) {
    for row in out.chunks_mut(bias.len()) {
        simd!(for (out, bias) in row.iter_mut().zip(bias) {
            *out += bias;
        });
    }
}

/// `xa = dropout(x) . A^T`.
fn down_projection(
    cpu: &Cpu,
    adapter: &Adapter<'_>,
    x: FloatRef<'_>,
    dropped: Dropped<'_>,
    xa: &mut [f32],
) -> Result<()> {
    let r = adapter.r;
    let k = adapter.a.len() / r;
    if amx::shrink(cpu, dropped.x, &adapter.a, (k, r), dropped.keep(), xa)? {
        return Ok(());
    }
    let a = Mat::new(&adapter.a, r, k).t();
    let x = Left::Floats { values: x, mask: adapter.mask };
    let term = Term { x, right: Source::of(&a), low: None };
    fma::multiply(&[term], FloatMut::F32(xa), r, |_, out, tile| tile.store(out));
    Ok(())
}
