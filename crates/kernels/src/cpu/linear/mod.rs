//! Frozen linear with LoRA.
//!
//! Slabs of the weight are widened to f32 scratch of a bounded size, then tiles of the output are
//! computed from them in parallel. Slabs and tiles depend on the shapes alone and every output
//! element is summed within one task, so the number of threads changes no bit. Where the processor has
//! a matrix unit for bf16, it takes over the products of bf16 and 4 bits.

mod backward;
mod slab;

use std::borrow::Cow;

use half::bf16;

use self::slab::{Slab, slabs};
use super::amx::{self, LowRank, Side};
use super::buffer::CpuBuffer;
use super::check::Op;
use super::dropout::Mask;
use super::gemm::{Mat, gemm};
use super::panel::Matrix;
use super::simd::simd;
use super::team;
use super::tiles::{Tile, tiles};
use super::view::{FloatRef, sized};
use super::weight::{WeightRef, to_f32};
use super::{Cpu, F32Scratch};
use crate::Result;
use crate::ops::{Linear, Lora};

pub(super) use self::backward::backward;

/// Rows of a tile.
const TILE_ROWS: usize = 256;
/// Columns of a tile.
const TILE_COLS: usize = 192;
/// Rows of a task that multiplies by a LoRA matrix.
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
    delta: Vec<f32>,
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
    fn add_low(&self, xa: &[f32], out: &mut [f32], tile: &Tile<'_>) {
        let r = self.r;
        let xa = Mat::new(&xa[tile.row * r..], tile.rows, r);
        let b = Mat::new(&self.b[tile.col * r..], tile.cols, r);
        gemm(out, true, self.scale, xa, b.t());
    }

    /// `x` `[_, k]` where there is dropout and bf16 is multiplied on tiles.
    fn dropped(&self, cpu: &Cpu, x: FloatRef<'_>, k: usize) -> Result<Option<Dropped>> {
        let (FloatRef::Bf16(x), Some(mask)) = (x, self.mask) else {
            return Ok(None);
        };
        if !cpu.has_amx() || k == 0 {
            return Ok(None);
        }
        let mut copy = cpu.scratch(x.len().div_ceil(2))?;
        let out: &mut [bf16] = &mut bytemuck::cast_slice_mut(&mut copy)[..x.len()];
        let tasks = x.chunks(LORA_ROWS * k).zip(out.chunks_mut(LORA_ROWS * k)).enumerate();
        team::for_each(tasks, |(task, (x, out))| mask.select(task * LORA_ROWS * k, x, out));
        Ok(Some(Dropped { copy, len: x.len(), keep: mask.keep() }))
    }

    /// `scale * left . factor` as part of a product.
    const fn low_rank<'s>(&self, left: &'s [f32], factor: &'s [f32]) -> LowRank<'s> {
        LowRank { left, factor, r: self.r, scale: self.scale, mask: None }
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
    let lora = match (&checked.lora, xa) {
        (Some(adapter), Some(xa)) => {
            let xa = name.f32_mut("xa", xa, m * adapter.r)?;
            down_projection(cpu, adapter, x, k, xa)?;
            Some((adapter, &*xa))
        }
        _ => None,
    };
    let finish = |out: &mut [f32], tile: &mut Tile<'_>| {
        if let Some(bias) = &bias {
            add_to_rows(out, &bias[tile.col..tile.col + tile.cols]);
        }
        tile.store(out);
    };
    #[cfg(amx)]
    if amx::multiply_few(cpu, x, checked.weight, &mut y, (m, n, k), |out, tile| {
        if let Some((adapter, xa)) = lora {
            adapter.add_low(xa, out, tile);
        }
        finish(out, tile);
    }) {
        return Ok(());
    }
    let weight = (checked.weight, Side::Transposed);
    let low = lora.map(|(adapter, xa)| adapter.low_rank(xa, &adapter.b));
    if amx::multiply(cpu, x, weight, low, &mut y, (m, n, k), |_, out, tile| finish(out, tile))? {
        return Ok(());
    }
    let rows = Matrix { data: x, width: k };
    for cols in slabs(n, k) {
        let slab = Slab::of_rows(cpu, checked.weight, cols.clone(), k)?;
        let tiles = tiles(y.reborrow(), n, cols.clone(), TILE_ROWS, TILE_COLS);
        team::for_each_init(tiles, Scratch::default, |scratch, mut tile| {
            let x = rows.panel(tile.row..tile.row + tile.rows, 0..k, &mut scratch.operand);
            let w = Mat::new(&slab[(tile.col - cols.start) * k..], tile.cols, k);
            let out = sized(&mut scratch.tile, tile.rows * tile.cols);
            gemm(out, false, 1.0, x, w.t());
            if let Some((adapter, xa)) = lora {
                adapter.add_low(xa, out, &tile);
            }
            finish(out, &mut tile);
        });
    }
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
    k: usize,
    xa: &mut [f32],
) -> Result<()> {
    let r = adapter.r;
    let dropped = adapter.dropped(cpu, x, k)?;
    let (rows, scale) = dropped.as_ref().map_or((x, 1.0), |x| (x.values(), x.keep));
    let a = (&*adapter.a, Side::Transposed);
    if amx::shrink(cpu, rows, a, (k, r), scale, xa)? {
        return Ok(());
    }
    let a = Mat::new(&adapter.a, r, k);
    let x = Matrix { data: x, width: k };
    let tasks = xa.chunks_mut(LORA_ROWS * r).enumerate();
    team::for_each_init(tasks, Vec::new, |scratch, (task, xa)| {
        let (row, rows) = (task * LORA_ROWS, xa.len() / r);
        let x = x.masked_panel(row..row + rows, 0..k, adapter.mask, scratch);
        gemm(xa, false, 1.0, x, a.t());
    });
    Ok(())
}
