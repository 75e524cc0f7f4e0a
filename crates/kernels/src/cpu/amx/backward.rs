//! Gradients of linears of one input. What does not wait for one another is one loop over the threads: splitting the
//! factors; multiplying gradients by a factor, and splitting the results while they are at hand; the gradients of all
//! factors, those of the A in one pass over the input; the gradient of the input, one sum over all linears.

use std::cell::RefCell;

use half::bf16;

use super::adapter::{SHRINK_ROWS, shrink_rows};
use super::dense::{Dense, Straight};
use super::fill::Source;
use super::product::{Area, Operands, product_tasks, run, supports, weight_source};
use super::rows::Rows;
use super::split::{
    ONCE, PAIRS, Parts, RANKS, TURNS, Turned, TurnedRanks, in_cols, in_rows, split_rows, turn,
    width,
};
use super::tile::BLOCK;
use super::{Factors, Gradients, LinearGradients, Side};
use crate::Result;
use crate::cpu::Cpu;
use crate::cpu::simd::simd;
use crate::cpu::team::{self, Task};
use crate::cpu::tiles::{Tile, tiles};
use crate::cpu::view::{FloatMut, sized};

/// Columns of a task of a factor's gradient.
const GRADIENT_COLS: usize = 128;

thread_local! {
    static DYB: RefCell<Vec<f32>> = RefCell::default();
}

impl Gradients<'_> {
    /// `dx = finish(sum of dY . W + scale * mask(dY . B . A))`, and of each linear
    /// `dA += scale * keep * (dY . B)^T . dropped` and `dB += scale * dY^T . xa`, as far as they are wanted and can run
    /// on the tiles. What is left was not computed: all, unless the activations are bf16 and the weights are for
    /// [`weight_source`], and the gradient of a B unless its `n` is a multiple of 32.
    pub(in crate::cpu) fn run(
        &mut self,
        cpu: &Cpu,
        finish: impl Fn(&mut Vec<f32>, &mut [f32], &mut Tile<'_>) + Sync,
    ) -> Result<()> {
        let &mut Self { dropped, m, k, .. } = self;
        let Some((x, dys, sources)) = self.operands() else { return Ok(()) };
        let dy_rows =
            self.linears.iter().zip(&dys).map(|(linear, dy)| Rows::new(cpu, dy, m, linear.n));
        let dy_rows: Vec<Rows<'_>> = dy_rows.collect::<Result<_>>()?;
        let mut dx = self.dx.take();
        let mut adapters = self.adapters(cpu, dx.is_some())?;
        team::run_all(adapters.iter_mut().flatten().flat_map(|adapter| adapter.split(k)));

        let da_ranks = adapters.iter().flatten().filter(|adapter| adapter.da.is_some());
        let mut dyb = Turned::alloc(cpu, m, da_ranks.map(|adapter| adapter.factors.r).collect())?;
        let mut turned = dyb.each().into_iter();
        let mut tasks = Vec::new();
        for (adapter, dy) in adapters.iter_mut().zip(&dy_rows) {
            let Some(adapter) = adapter else { continue };
            let turned = adapter.da.as_ref().and_then(|_| turned.next());
            tasks.extend(adapter.shrink(dy, (m, dropped.keep()), turned));
        }
        team::run_all(tasks);

        let dyb = dyb.into_rows();
        let x = Straight(Dense::new(x, m, k));
        let mut das = Vec::new();
        let mut dbs = Vec::new();
        for (adapter, dy) in adapters.iter_mut().zip(&dys) {
            let Some(adapter) = adapter else { continue };
            let (r, n) = (adapter.factors.r, adapter.n);
            das.extend(adapter.da.take().map(|da| (r, da)));
            let xa = adapter.turned.take().map(Turned::into_rows);
            let db = adapter.db.take().zip(xa);
            dbs.extend(db.map(|(db, xa)| (xa, Straight(Dense::new(dy, m, n)), r, db)));
        }
        let base = Operands { rows: &dyb, source: &x };
        let mut tasks: Vec<Task<'_>> = gradient_tasks(base, k, das);
        for (rows, source, r, db) in &mut dbs {
            let base = Operands { rows, source };
            tasks.extend(turned_gradient_tasks(base, *r, db.reborrow()));
        }
        team::run_all(tasks);

        // In one loop with the gradients, all take 8 % longer.
        if let Some(dx) = &mut dx {
            let lows = adapters.iter().map(|x| x.as_ref().map_or(Ok(None), |x| x.low(cpu, (m, k))));
            let lows: Vec<Option<(Rows<'_>, Straight<'_>)>> = lows.collect::<Result<_>>()?;
            let mut terms = Vec::new();
            let mut masked = None;
            for ((rows, source), low) in dy_rows.iter().zip(&sources).zip(&lows) {
                terms.extend(source.as_deref().map(|source| Operands { rows, source }));
                let low = low.as_ref().map(|(rows, source)| Operands { rows, source });
                match dropped.mask {
                    Some(mask) => masked = low.map(|low| (low, mask)),
                    None => terms.extend(low),
                }
            }
            team::run_all(product_tasks(&terms, masked, dx.reborrow(), (m, k), &finish));
        }
        Ok(())
    }
}

/// The input, the gradients of the outputs, and what panels are filled from for the gradient of the input.
type OperandsOf<'a> = (&'a [bf16], Vec<&'a [bf16]>, Vec<Option<Box<dyn Source + 'a>>>);

impl<'a> Gradients<'a> {
    /// Nothing unless all can be multiplied on the tiles.
    fn operands(&self) -> Option<OperandsOf<'a>> {
        let Self { m, k, .. } = *self;
        let x = supports(self.dropped.x, k).filter(|_| m * k > 0)?;
        let (mut dys, mut sources) = (Vec::new(), Vec::new());
        for linear in &self.linears {
            dys.push(supports(linear.dy, 0).filter(|_| linear.n > 0)?);
            let weight = (linear.weight, Side::Straight);
            let source = |dx| weight_source(weight, (linear.n, k), dx);
            sources.push(match &self.dx {
                Some(dx) => Some(source(dx)?),
                None => None,
            });
        }
        Some((x, dys, sources))
    }

    /// The adapters' gradients on their way, with memory for it.
    fn adapters(&mut self, cpu: &Cpu, dx: bool) -> Result<Vec<Option<Adapter<'a>>>> {
        let Self { m, k, .. } = *self;
        let parts = |wanted: bool, len| wanted.then(|| Parts::alloc(cpu, len)).transpose();
        let adapter = |linear: &mut LinearGradients<'a>| {
            let (Some(factors), n) = (linear.factors, linear.n) else { return Ok(None) };
            let r = factors.r;
            let da = linear.da.take();
            let db = if n.is_multiple_of(BLOCK) { linear.db.take() } else { None };
            Ok(Some(Adapter {
                up: parts(dx || da.is_some(), n * width::<{ ONCE.len() }>(r))?,
                down: parts(dx, width::<{ PAIRS.len() }>(r) * k)?,
                left: parts(dx, m * width::<{ TURNS.len() }>(r))?,
                turned: db.as_ref().map(|_| Turned::alloc(cpu, m, vec![r])).transpose()?,
                xa: linear.xa,
                factors,
                n,
                da,
                db,
            }))
        };
        self.linears.iter_mut().map(adapter).collect()
    }
}

/// One adapter's gradients on their way, as far as they are wanted.
struct Adapter<'a> {
    factors: Factors<'a>,
    n: usize,
    xa: &'a [f32],
    da: Option<FloatMut<'a>>,
    db: Option<FloatMut<'a>>,
    /// B, for `dY . B`.
    up: Option<Parts>,
    /// A, for the gradient of the input.
    down: Option<Parts>,
    /// `dY . B`, for the gradient of the input.
    left: Option<Parts>,
    /// `xa`, for the gradient of B.
    turned: Option<Turned>,
}

impl Adapter<'_> {
    /// Tasks that split what is multiplied by.
    fn split(&mut self, k: usize) -> Vec<Task<'_>> {
        let Factors { a, b, r, scale } = self.factors;
        let xa = self.xa;
        let mut tasks: Vec<Task<'_>> = Vec::new();
        tasks.extend(self.up.iter_mut().flat_map(|up| in_rows(b, r, ONCE, up)));
        tasks.extend(self.down.iter_mut().flat_map(|down| in_cols(a, (r, k), PAIRS, down)));
        let turned = self.turned.iter_mut().flat_map(Turned::each);
        tasks.extend(turned.flat_map(|turned| turned.fill(xa, scale)));
        tasks
    }

    /// Tasks that make of `dY . B` what other products need of it.
    fn shrink<'s>(
        &'s mut self,
        dy: &'s Rows<'_>,
        (m, keep): (usize, f32),
        turned: Option<TurnedRanks<'s>>,
    ) -> Vec<Task<'s>> {
        let Factors { r, scale, .. } = self.factors;
        let Some(up) = &self.up else { return Vec::new() };
        let depth = width::<{ TURNS.len() }>(r);
        let factor = Straight(Dense::new(up.values(), self.n, width::<{ ONCE.len() }>(r)));
        let mut left = self.left.as_mut().map(|x| x.values_mut().chunks_mut(SHRINK_ROWS * depth));
        let mut turned = turned.map(|turned| turned.parts(SHRINK_ROWS).into_iter());
        let tasks = (0..m.div_ceil(SHRINK_ROWS)).map(|task| {
            let left = left.as_mut().and_then(Iterator::next);
            let turned = turned.as_mut().and_then(Iterator::next);
            Box::new(move || {
                let base = Operands { rows: dy, source: &factor };
                DYB.with_borrow_mut(|dyb| {
                    let dyb = sized(dyb, SHRINK_ROWS.min(m - task * SHRINK_ROWS) * r);
                    shrink_rows(base, task, r, 1.0, dyb);
                    if let Some(left) = left {
                        split_rows(dyb, r, scale, TURNS, left);
                    }
                    if let Some(turned) = turned {
                        turn(dyb, r, scale * keep, turned);
                    }
                });
            }) as Task<'s>
        });
        tasks.collect()
    }

    /// `scale * dY . B`, and A to multiply it by.
    fn low(&self, cpu: &Cpu, (m, k): (usize, usize)) -> Result<Option<(Rows<'_>, Straight<'_>)>> {
        let (Some(left), Some(down)) = (&self.left, &self.down) else { return Ok(None) };
        let depth = width::<{ TURNS.len() }>(self.factors.r);
        let rows = Rows::new(cpu, &left.values()[..m * depth], m, depth)?;
        Ok(Some((rows, Straight(Dense::new(down.values(), depth, k)))))
    }
}

/// Of each of `outs` `[r, cols]`, `out +=` its part of the product, whose rows are the high and low parts of the
/// ranks of all.
fn gradient_tasks<'a>(
    base: Operands<'a>,
    cols: usize,
    outs: Vec<(usize, FloatMut<'a>)>,
) -> Vec<Task<'a>> {
    let mut tasks: Vec<Vec<Tile<'_>>> = Vec::new();
    for (r, out) in outs {
        for (i, tile) in tiles(out, cols, 0..cols, r, GRADIENT_COLS).into_iter().enumerate() {
            if i == tasks.len() {
                tasks.push(Vec::new());
            }
            tasks[i].extend(tile.split(RANKS));
        }
    }
    let tasks = tasks.into_iter().map(|mut ranks| {
        Box::new(move || {
            let Tile { col, cols, .. } = ranks[0];
            let area = Area { first_block: 0, rows: ranks.len() * BLOCK, col, cols };
            let mut before = [0.0; RANKS * GRADIENT_COLS];
            run(&[base], area, |block, sums| {
                let before = &mut before[..ranks[block].rows * cols];
                ranks[block].load(before);
                simd!(add_halves(sums, before));
                ranks[block].store(before);
            });
        }) as Task<'a>
    });
    tasks.collect()
}

/// As [`gradient_tasks`], for one transpose `out [cols, r]`.
fn turned_gradient_tasks<'a>(
    base: Operands<'a>,
    r: usize,
    out: FloatMut<'a>,
) -> impl Iterator<Item = Task<'a>> {
    out.chunks(GRADIENT_COLS * r).into_iter().enumerate().map(move |(task, out)| {
        Box::new(move || {
            let cols = out.len() / r;
            let rows = r.div_ceil(RANKS) * BLOCK;
            let area = Area { first_block: 0, rows, col: task * GRADIENT_COLS, cols };
            out.update(&mut Vec::new(), |out| {
                let mut both = [0.0; RANKS * GRADIENT_COLS];
                run(&[base], area, |block, sums| {
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
