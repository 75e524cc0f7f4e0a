//! Linears with an adapter. What does not wait for one another is one loop over the threads: splitting the factors;
//! multiplying activations by a factor, and splitting the results while they are at hand; the gradients of both factors;
//! the product with the weight.

use super::Adapted;
use super::dense::{Dense, Straight, Transposed};
use super::product::{Area, COLS, Operands, product_tasks, run, supports, weight_source};
use super::rows::Rows;
use super::split::{
    ONCE, PAIRS, Parts, RANKS, TURNS, Turned, in_cols, in_rows, split_rows, turn, width,
};
use super::tile::BLOCK;
use super::{Gradients, Side};
use crate::Result;
use crate::cpu::Cpu;
use crate::cpu::simd::simd;
use crate::cpu::team::{self, Task};
use crate::cpu::tiles::{Tile, tiles};
use crate::cpu::view::{FloatMut, FloatRef, sized};

/// Rows of a task of [`shrink`].
const SHRINK_ROWS: usize = 256;
/// Columns of a task of [`gradient_tasks`].
const GRADIENT_COLS: usize = 128;

/// `out [m, r] = scale * x [m, k] . A^T` for a factor `[r, k]`. False, and nothing done, unless the activations are
/// bf16 and `k` is a multiple of 64.
pub(in crate::cpu) fn shrink(
    cpu: &Cpu,
    x: FloatRef<'_>,
    a: &[f32],
    (k, r): (usize, usize),
    scale: f32,
    out: &mut [f32],
) -> Result<bool> {
    let Some(x) = supports(x, k).filter(|_| k > 0 && !out.is_empty()) else {
        return Ok(false);
    };
    let width = width::<{ ONCE.len() }>(r);
    let mut parts = Parts::alloc(cpu, width * k)?;
    team::run_all(in_cols(a, (r, k), ONCE, &mut parts));
    let rows = &Rows::new(cpu, x, out.len() / r, k)?;
    let source = &Transposed(Dense::new(parts.values(), width, k));
    let base = Operands { rows, source };
    team::for_each(out.chunks_mut(SHRINK_ROWS * r).enumerate(), |(task, out)| {
        shrink_rows(base, task, r, scale, out);
    });
    Ok(true)
}

/// Rows of task `task`: products with high parts and with low ones, added.
fn shrink_rows(base: Operands<'_>, task: usize, r: usize, scale: f32, out: &mut [f32]) {
    let width = width::<{ ONCE.len() }>(r);
    for col in (0..width).step_by(COLS) {
        let cols = COLS.min(width - col);
        let first_block = task * SHRINK_ROWS / BLOCK;
        let area = Area { first_block, rows: out.len() / r, col, cols };
        run(base, None, area, |block, sums| {
            let out = out.chunks_mut(r).skip(block * BLOCK);
            simd!(for (sums, out) in sums.chunks(cols).zip(out) {
                let out = out[col / 2..].chunks_mut(RANKS);
                for (sums, out) in sums.as_chunks::<{ 2 * RANKS }>().0.iter().zip(out) {
                    let (high, low) = sums.split_at(RANKS);
                    for ((out, high), low) in out.iter_mut().zip(high).zip(low) {
                        *out = (high + low) * scale;
                    }
                }
            });
        });
    }
}

impl Adapted<'_> {
    /// `xa [m, r] = keep * dropped . A^T` and `y = finish(x . W^T + scale * xa . B^T)`. False, and nothing done,
    /// unless the products can run on the tiles.
    pub(in crate::cpu) fn forward(
        &self,
        cpu: &Cpu,
        xa: &mut [f32],
        y: &mut FloatMut<'_>,
        finish: impl Fn(&mut Vec<f32>, &mut [f32], &mut Tile<'_>) + Sync,
    ) -> Result<bool> {
        let &Self { a, b, r, m, n, k, .. } = self;
        let x = supports(self.x, k).zip(supports(self.dropped, k)).filter(|_| m * n * k > 0);
        let source = weight_source((self.weight, Side::Transposed), (n, k), y);
        let (Some((x, dropped)), Some(source)) = (x, source) else {
            return Ok(false);
        };
        let mut down = Parts::alloc(cpu, width::<{ ONCE.len() }>(r) * k)?;
        let mut up = Parts::alloc(cpu, n * width::<{ PAIRS.len() }>(r))?;
        team::run_all(in_cols(a, (r, k), ONCE, &mut down).chain(in_rows(b, r, PAIRS, &mut up)));

        let depth = width::<{ TURNS.len() }>(r);
        let mut left = Parts::alloc(cpu, m * depth)?;
        let rows = Rows::new(cpu, dropped, m, k)?;
        let factor = &Transposed(Dense::new(down.values(), width::<{ ONCE.len() }>(r), k));
        let base = Operands { rows: &rows, source: factor };
        let parts = left.values_mut().chunks_mut(SHRINK_ROWS * depth);
        let tasks = xa.chunks_mut(SHRINK_ROWS * r).zip(parts).enumerate();
        team::for_each(tasks, |(task, (xa, parts))| {
            shrink_rows(base, task, r, self.keep, xa);
            split_rows(xa, r, self.scale, TURNS, parts);
        });

        // A copy that rows may have been put in order in serves both products.
        let own = self.mask.map(|_| Rows::new(cpu, x, m, k)).transpose()?;
        let base = Operands { rows: own.as_ref().unwrap_or(&rows), source: &*source };
        let low_rows = &Rows::new(cpu, &left.values()[..m * depth], m, depth)?;
        let low_source = &Transposed(Dense::new(up.values(), n, depth));
        let low = Operands { rows: low_rows, source: low_source };
        // The mask is that of the input.
        let low = Some((low, None));
        team::run_all(product_tasks(base, low, y.reborrow(), (m, n), &finish));
        Ok(true)
    }

    /// `dx = finish(dY . W + scale * mask(dY . B . A))`, `dA += scale * keep * (dY . B)^T . dropped` and
    /// `dB += scale * dY^T . xa`, as far as they are wanted and can run on the tiles. What is left in `grads` was not
    /// computed: all, unless the activations are bf16, and the gradient of B unless `n` is a multiple of 32.
    pub(in crate::cpu) fn backward(
        &self,
        cpu: &Cpu,
        dy: FloatRef<'_>,
        xa: &[f32],
        grads: &mut Gradients<'_>,
        finish: impl Fn(&mut Vec<f32>, &mut [f32], &mut Tile<'_>) + Sync,
    ) -> Result<()> {
        let &Self { r, m, n, k, .. } = self;
        let operands = supports(self.dropped, k).zip(supports(dy, 0)).filter(|_| m * n * k > 0);
        let source = match &grads.dx {
            Some(dx) => weight_source((self.weight, Side::Straight), (n, k), dx),
            None => None,
        };
        let Some((dropped, dy)) = operands.filter(|_| grads.dx.is_some() == source.is_some())
        else {
            return Ok(());
        };
        let db = if n.is_multiple_of(BLOCK) { grads.db.take() } else { None };
        let grads = Gradients { dx: grads.dx.take(), da: grads.da.take(), db };
        let dy_rows = Rows::new(cpu, dy, m, n)?;
        let Operators { up, down, xa } = self.split(cpu, xa, &grads)?;
        let Shrunk { left, dyb } = self.shrink_gradient(cpu, &dy_rows, up.as_ref(), &grads)?;

        let depth = width::<{ TURNS.len() }>(r);
        let [xa, dyb] = [xa, dyb].map(|x| x.map(Turned::into_rows));
        let x_source = Straight(Dense::new(dropped, m, k));
        let dy_source = xa.as_ref().map(|_| Straight(Dense::new(dy, m, n)));
        let mut tasks: Vec<Task<'_>> = Vec::new();
        if let (Some(da), Some((rows, count))) = (grads.da, &dyb) {
            let base = Operands { rows, source: &x_source };
            tasks.extend(gradient_tasks(base, *count, (r, k), da));
        }
        if let (Some(db), Some((rows, count)), Some(source)) = (grads.db, &xa, &dy_source) {
            tasks.extend(turned_gradient_tasks(Operands { rows, source }, *count, r, db));
        }
        team::run_all(tasks);

        // In one loop with the gradients, all take 8 % longer.
        if let (Some(dx), Some(source), Some(left), Some(down)) = (grads.dx, &source, &left, &down)
        {
            let low_rows = &Rows::new(cpu, &left.values()[..m * depth], m, depth)?;
            let factor = &Straight(Dense::new(down.values(), depth, k));
            let base = Operands { rows: &dy_rows, source: &**source };
            let low = Some((Operands { rows: low_rows, source: factor }, self.mask));
            team::run_all(product_tasks(base, low, dx, (m, k), &finish));
        }
        Ok(())
    }

    fn split(&self, cpu: &Cpu, xa: &[f32], grads: &Gradients<'_>) -> Result<Operators> {
        let &Self { a, b, r, m, n, k, scale, .. } = self;
        let parts = |wanted: bool, len| wanted.then(|| Parts::alloc(cpu, len)).transpose();
        let with_dyb = grads.dx.is_some() || grads.da.is_some();
        let mut up = parts(with_dyb, n * width::<{ ONCE.len() }>(r))?;
        let mut down = parts(grads.dx.is_some(), width::<{ PAIRS.len() }>(r) * k)?;
        let mut turned = grads.db.as_ref().map(|_| Turned::alloc(cpu, (m, r))).transpose()?;
        let mut tasks: Vec<Task<'_>> = Vec::new();
        tasks.extend(up.iter_mut().flat_map(|up| in_rows(b, r, ONCE, up)));
        tasks.extend(down.iter_mut().flat_map(|down| in_cols(a, (r, k), PAIRS, down)));
        tasks.extend(turned.iter_mut().flat_map(|turned| turned.fill(xa, scale)));
        team::run_all(tasks);
        Ok(Operators { up, down, xa: turned })
    }

    /// What the other products need of `dY . B`.
    fn shrink_gradient(
        &self,
        cpu: &Cpu,
        dy: &Rows<'_>,
        up: Option<&Parts>,
        grads: &Gradients<'_>,
    ) -> Result<Shrunk> {
        let &Self { r, m, n, scale, keep, .. } = self;
        let depth = width::<{ TURNS.len() }>(r);
        let mut left = grads.dx.as_ref().map(|_| Parts::alloc(cpu, m * depth)).transpose()?;
        let mut dyb = grads.da.as_ref().map(|_| Turned::alloc(cpu, (m, r))).transpose()?;
        if let Some(up) = up {
            let factor = &Straight(Dense::new(up.values(), n, width::<{ ONCE.len() }>(r)));
            let base = Operands { rows: dy, source: factor };
            let mut parts = left.as_mut().map(|x| x.values_mut().chunks_mut(SHRINK_ROWS * depth));
            let mut pieces = dyb.as_mut().map(|x| x.parts(SHRINK_ROWS).into_iter());
            let tasks = (0..m.div_ceil(SHRINK_ROWS)).map(|task| {
                let parts = parts.as_mut().and_then(Iterator::next);
                (task, parts, pieces.as_mut().and_then(Iterator::next))
            });
            team::for_each_init(tasks, Vec::new, |scratch, (task, parts, pieces)| {
                let dyb = sized(scratch, SHRINK_ROWS.min(m - task * SHRINK_ROWS) * r);
                shrink_rows(base, task, r, 1.0, dyb);
                if let Some(parts) = parts {
                    split_rows(dyb, r, scale, TURNS, parts);
                }
                if let Some(pieces) = pieces {
                    turn(dyb, r, scale * keep, pieces);
                }
            });
        }
        Ok(Shrunk { left, dyb })
    }
}

/// What a backward multiplies by, as far as it is wanted.
struct Operators {
    /// B, for `dY . B`.
    up: Option<Parts>,
    /// A, for the gradient of the input.
    down: Option<Parts>,
    /// For the gradient of B.
    xa: Option<Turned>,
}

/// `dY . B`, as far as it is wanted.
struct Shrunk {
    /// For the gradient of the input.
    left: Option<Parts>,
    /// For the gradient of A.
    dyb: Option<Turned>,
}

/// `out [r, cols] += ` the product, whose rows are `rows` high and low parts.
fn gradient_tasks<'a>(
    base: Operands<'a>,
    rows: usize,
    (r, cols): (usize, usize),
    out: FloatMut<'a>,
) -> impl Iterator<Item = Task<'a>> {
    tiles(out, cols, 0..cols, r, GRADIENT_COLS).into_iter().map(move |tile| {
        Box::new(move || {
            let area = Area { first_block: 0, rows, col: tile.col, cols: tile.cols };
            let mut ranks = tile.split(RANKS);
            let mut before = [0.0; RANKS * GRADIENT_COLS];
            run(base, None, area, |block, sums| {
                let before = &mut before[..ranks[block].rows * area.cols];
                ranks[block].load(before);
                simd!(add_halves(sums, before));
                ranks[block].store(before);
            });
        }) as Task<'a>
    })
}

/// As [`gradient_tasks`], for the transpose `out [cols, r]`.
fn turned_gradient_tasks<'a>(
    base: Operands<'a>,
    rows: usize,
    r: usize,
    out: FloatMut<'a>,
) -> impl Iterator<Item = Task<'a>> {
    out.chunks(GRADIENT_COLS * r).into_iter().enumerate().map(move |(task, out)| {
        Box::new(move || {
            let cols = out.len() / r;
            let area = Area { first_block: 0, rows, col: task * GRADIENT_COLS, cols };
            out.update(&mut Vec::new(), |out| {
                let mut both = [0.0; RANKS * GRADIENT_COLS];
                run(base, None, area, |block, sums| {
                    let both = &mut both[..RANKS * cols];
                    both.fill(0.0);
                    simd!(add_halves(sums, both));
                    for (i, out) in out.chunks_mut(r).enumerate() {
                        let out = out[block * RANKS..].iter_mut();
                        out.zip(both[i..].iter().step_by(cols)).for_each(|(out, x)| *out += x);
                    }
                });
            });
        }) as Task<'a>
    })
}

/// Adds the high and the low rows of `sums` `[2 * 16, cols]` to as many rows as `out` has.
#[expect(clippy::inline_always, reason = "compiled for the caller's instruction set")]
#[inline(always)]
fn add_halves(sums: &[f32], out: &mut [f32]) {
    let (high, low) = sums.split_at(sums.len() / 2);
    for ((out, high), low) in out.iter_mut().zip(high).zip(low) {
        *out += high + low;
    }
}
