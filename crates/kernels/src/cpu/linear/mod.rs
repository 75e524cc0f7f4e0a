//! Frozen linear with LoRA.
//!
//! Products are in f32 (`fma`), but where the processor has a matrix unit, it takes over those of bf16 and
//! 4 bits (`amx`).

mod backward;

use std::borrow::Cow;

use half::bf16;

use super::amx::{self, Adapted, Side};
use super::buffer::CpuBuffer;
use super::check::Op;
use super::dropout::Mask;
use super::fma::{self, Left, Mat, Source, Stored};
use super::level::has_amx;
use super::simd::simd;
use super::team;
use super::tiles::Tile;
use super::view::{FloatMut, FloatRef};
use super::weight::{WeightRef, to_f32};
use super::{Cpu, F32Scratch};
use crate::Result;
use crate::ops::{Linear, Lora};

pub(super) use self::backward::backward;

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

/// Activations with zeros where they are dropped; what is kept is `keep` times as much.
struct Dropped {
    copy: F32Scratch,
    len: usize,
    keep: f32,
}

impl Dropped {
    fn values(&self) -> FloatRef<'_> {
        FloatRef::Bf16(&bytemuck::cast_slice(&self.copy)[..self.len])
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
    #[cfg(amx)]
    fn add_low(&self, xa: &[f32], out: &mut [f32], tile: &Tile<'_>) {
        let r = self.r;
        let xa = Mat::new(&xa[tile.row * r..], tile.rows, r);
        let b = Mat::new(&self.b[tile.col * r..], tile.cols, r);
        fma::gemm(out, true, self.scale, xa, b.t());
    }

    /// `x` `[_, k]` where there is dropout and bf16 is multiplied on tiles.
    fn dropped(&self, cpu: &Cpu, x: FloatRef<'_>, k: usize) -> Result<Option<Dropped>> {
        let (FloatRef::Bf16(x), Some(mask)) = (x, self.mask) else {
            return Ok(None);
        };
        if !has_amx() || k == 0 {
            return Ok(None);
        }
        let mut copy = cpu.scratch(x.len().div_ceil(2))?;
        let out: &mut [bf16] = &mut bytemuck::cast_slice_mut(&mut copy)[..x.len()];
        let tasks = x.chunks(LORA_ROWS * k).zip(out.chunks_mut(LORA_ROWS * k)).enumerate();
        team::for_each(tasks, |(task, (x, out))| mask.select(task * LORA_ROWS * k, x, out));
        Ok(Some(Dropped { copy, len: x.len(), keep: mask.keep() }))
    }

    /// `scale * left . factor`, not masked.
    const fn low<'s>(&self, left: &'s [f32], factor: Mat<'s>) -> fma::LowRank<'s> {
        fma::LowRank { left, factor, scale: self.scale, mask: None }
    }

    /// The linear `of` it on the matrix unit.
    fn on_tiles<'s>(
        &'s self,
        of: &Checked<'s>,
        x: FloatRef<'s>,
        dropped: Option<&'s Dropped>,
    ) -> Adapted<'s> {
        let &Checked { m, n, k, weight, .. } = of;
        let (dropped, keep) = dropped.map_or((x, 1.0), |x| (x.values(), x.keep));
        let Self { a, b, r, scale, mask } = self;
        let (r, scale, mask) = (*r, *scale, *mask);
        Adapted { x, dropped, keep, mask, weight, a, b, r, scale, m, n, k }
    }
}

pub(super) fn forward(
    cpu: &Cpu,
    op: &Linear<'_, Cpu>,
    x: &CpuBuffer,
    y: &mut CpuBuffer,
    xa: Option<&mut CpuBuffer>,
) -> Result<()> {
    let name = Op("linear");
    let checked = Checked::new(name, op)?;
    let &Checked { m, n, k, .. } = &checked;
    let x = name.float("x", x, m * k)?;
    let mut y = name.float_mut("y", y, m * n)?;
    let bias = op.bias.map(|bias| name.float("bias", bias, n)).transpose()?;
    let bias = bias.map(to_f32);
    name.require(checked.lora.is_some() == xa.is_some(), || {
        "`xa` is needed with an adapter, and only then".into()
    })?;
    let finish = |out: &mut [f32], tile: &mut Tile<'_>| {
        if let Some(bias) = &bias {
            add_to_rows(out, &bias[tile.col..tile.col + tile.cols]);
        }
        tile.store(out);
    };
    let lora = match (&checked.lora, xa) {
        (Some(adapter), Some(xa)) => {
            let xa = name.f32_mut("xa", xa, m * adapter.r)?;
            let dropped = adapter.dropped(cpu, x, k)?;
            if m > amx::few_rows(x) {
                let adapted = adapter.on_tiles(&checked, x, dropped.as_ref());
                if adapted.forward(cpu, xa, &mut y, |_, out, tile| finish(out, tile))? {
                    return Ok(());
                }
            }
            down_projection(cpu, adapter, x, dropped.as_ref(), xa)?;
            Some((adapter, &*xa))
        }
        _ => None,
    };
    #[cfg(amx)]
    if amx::multiply_few(x, checked.weight, &mut y, (m, n, k), |out, tile| {
        if let Some((adapter, xa)) = lora {
            adapter.add_low(xa, out, tile);
        }
        finish(out, tile);
    }) {
        return Ok(());
    }
    if lora.is_none() {
        let weight = (checked.weight, Side::Transposed);
        if amx::multiply(cpu, x, weight, &mut y, (m, n, k), |_, out, tile| finish(out, tile))? {
            return Ok(());
        }
    }
    let weight = Stored::new(checked.weight, n, k);
    let right = Source { rows: &weight, transposed: true, depth: k };
    let low = lora.map(|(adapter, xa)| adapter.low(xa, Mat::new(&adapter.b, n, adapter.r).t()));
    fma::multiply(Left::new(x), right, low, y, n, |_, out, tile| finish(out, tile));
    Ok(())
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
    dropped: Option<&Dropped>,
    xa: &mut [f32],
) -> Result<()> {
    let r = adapter.r;
    let k = adapter.a.len() / r;
    let (rows, scale) = dropped.map_or((x, 1.0), |x| (x.values(), x.keep));
    if amx::shrink(cpu, rows, &adapter.a, (k, r), scale, xa)? {
        return Ok(());
    }
    let a = Mat::new(&adapter.a, r, k).t();
    let left = Left { values: x, mask: adapter.mask };
    fma::multiply(left, Source::of(&a), None, FloatMut::F32(xa), r, |_, out, tile| tile.store(out));
    Ok(())
}
