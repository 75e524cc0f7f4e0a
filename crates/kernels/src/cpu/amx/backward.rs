//! Gradients of linears of one input. What does not wait for one another is one loop over the threads: splitting the
//! factors; multiplying gradients by a factor, and splitting the results while they are at hand, and what the same rows
//! add to the gradient of each B; the gradient of the input, one sum over all linears; the gradients of all factors,
//! those of the A in one pass over the input.

use std::cell::RefCell;
use std::slice;

use half::bf16;

use super::adapter::{SHRINK_ROWS, shrink_rows};
use super::dense::{Dense, Straight};
use super::fill::Source;
use super::product::{Area, Operands, product_tasks, run, supports, weight_source};
use super::rows::{PIECE, Rows};
use super::split::{
    ONCE, PAIRS, Parts, RANKS, TURNS, Turned, TurnedRanks, in_cols, in_rows, split_rows, turn,
    width,
};
use super::tile::{BLOCK, STEP};
use super::{Factors, Gradients, LinearGradients, Side};
use crate::Result;
use crate::cpu::four_bit::RUN;
use crate::cpu::lines::Lines;
use crate::cpu::simd::simd;
use crate::cpu::team::{self, Task};
use crate::cpu::tiles::{Tile, tiles};
use crate::cpu::view::{FloatMut, sized};
use crate::cpu::{Cpu, F32Scratch};

/// Columns of a task of a factor's gradient.
const GRADIENT_COLS: usize = 128;
/// Rows of a B that are multiplied, or added up, at a time.
const B_COLS: usize = 256;
/// Most groups of tokens whose shares of a B's gradient are summed apart.
const GROUPS: usize = 8;

/// The gradients of the factors that are left to do.
pub(in crate::cpu) struct FactorGradients<'a> {
    m: usize,
    k: usize,
    /// Of each linear.
    adapters: Vec<Option<Adapter<'a>>>,
    dys: Vec<&'a [bf16]>,
    dyb: Turned,
}

thread_local! {
    static DYB: RefCell<Vec<f32>> = RefCell::default();
    /// Ranks of the tokens that are multiplied.
    static PIECES: RefCell<Lines> = RefCell::default();
}

/// The gradients of the outputs, and what panels are filled from for that of the input.
type OperandsOf<'a> = (Vec<&'a [bf16]>, Vec<Option<Box<dyn Source + 'a>>>);

impl<'a> Gradients<'a> {
    /// `dx = finish(sum of dY . W + scale * mask(dY . B . A))`, if it is wanted. The gradients of the factors are left to
    /// do, as far as they are wanted and can run on the tiles: those that stay in the linears are not among them, a B's
    /// unless its `n` is a multiple of 32. `None`, and nothing done, unless the activations are bf16, `k` is a multiple
    /// of 64 and the weights are for [`weight_source`].
    pub(in crate::cpu) fn input(
        &mut self,
        cpu: &Cpu,
        dx: Option<FloatMut<'_>>,
        finish: impl Fn(&mut Vec<f32>, &mut [f32], &mut Tile<'_>) + Sync,
    ) -> Result<Option<FactorGradients<'a>>> {
        let &mut Self { mask, m, k, .. } = self;
        let Some((dys, sources)) = self.operands(dx.as_ref()) else { return Ok(None) };
        let dy_rows =
            self.linears.iter().zip(&dys).map(|(linear, dy)| Rows::new(cpu, dy, m, linear.n));
        let dy_rows: Vec<Rows<'_>> = dy_rows.collect::<Result<_>>()?;
        let mut adapters = self.adapters(cpu, dx.is_some())?;
        team::run_all(adapters.iter_mut().flatten().flat_map(|adapter| adapter.split(k)));

        let da_ranks = adapters.iter().flatten().filter(|adapter| adapter.da.is_some());
        let mut dyb = Turned::alloc(cpu, m, da_ranks.map(|adapter| adapter.factors.r).collect())?;
        let mut turned = dyb.each().into_iter();
        let keep = mask.map_or(1.0, |mask| mask.keep());
        let mut tasks = Vec::new();
        for ((adapter, dy), rows) in adapters.iter_mut().zip(&dys).zip(&dy_rows) {
            let Some(adapter) = adapter else { continue };
            let turned = adapter.da.as_ref().and_then(|_| turned.next());
            tasks.extend(adapter.shrink((dy, rows), (m, keep), turned));
        }
        team::run_all(tasks);

        if let Some(dx) = dx {
            let lows = adapters.iter().map(|x| x.as_ref().map_or(Ok(None), |x| x.low(cpu, (m, k))));
            let lows: Vec<Option<(Rows<'_>, Straight<'_>)>> = lows.collect::<Result<_>>()?;
            let mut terms = Vec::new();
            let mut masked = None;
            for ((rows, source), low) in dy_rows.iter().zip(&sources).zip(&lows) {
                terms.extend(source.as_deref().map(|source| Operands { rows, source }));
                let low = low.as_ref().map(|(rows, source)| Operands { rows, source });
                match mask {
                    Some(mask) => masked = low.map(|low| (low, mask)),
                    None => terms.extend(low),
                }
            }
            let tasks = product_tasks(&terms, masked, dx, (m, k), &finish);
            team::run_all(tasks.map(|(_, task)| task));
        }
        Ok(Some(FactorGradients { m, k, adapters, dys, dyb }))
    }

    /// The gradients of the outputs, and what panels are filled from for `dx`: nothing unless all can be multiplied on
    /// the tiles.
    fn operands(&self, dx: Option<&FloatMut<'_>>) -> Option<OperandsOf<'a>> {
        let Self { m, k, .. } = *self;
        let (mut dys, mut sources) = (Vec::new(), Vec::new());
        for linear in &self.linears {
            let runs = m * k > 0 && k.is_multiple_of(RUN) && linear.n > 0;
            dys.push(supports(linear.dy, 0).filter(|_| runs)?);
            let weight = (linear.weight, Side::Straight);
            let source = |dx| weight_source(weight, (linear.n, k), dx);
            sources.push(match dx {
                Some(dx) => Some(source(dx)?),
                None => None,
            });
        }
        Some((dys, sources))
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
                db: db.map(|db| FactorB::alloc(cpu, db, factors, (m, n))).transpose()?,
                xa: linear.xa,
                factors,
                n,
                da,
            }))
        };
        self.linears.iter_mut().map(adapter).collect()
    }
}

impl FactorGradients<'_> {
    /// Of each adapter `dA += scale * keep * (dY . B)^T . dropped` and `dB += scale * dY^T . xa`. Of `xas`, one for each
    /// linear, those are read that were not at hand before and whose B is among them.
    pub(in crate::cpu) fn run(self, dropped: &[bf16], xas: &[&[f32]]) {
        let Self { m, k, mut adapters, dys, dyb } = self;
        let late = adapters.iter_mut().zip(dys).zip(xas).flat_map(|((adapter, dy), xa)| {
            let adapter = adapter.as_mut().filter(|adapter| adapter.xa.is_none());
            let db = adapter.and_then(|adapter| adapter.db.as_mut());
            db.into_iter().flat_map(move |db| db.tasks(dy, xa))
        });
        team::run_all(late);

        let (dyb, x) = (dyb.into_rows(), Straight(Dense::new(dropped, m, k)));
        let adapters = adapters.iter_mut().flatten();
        let (das, dbs): (Vec<_>, Vec<_>) = adapters
            .map(|adapter| {
                (adapter.da.take().map(|da| (adapter.factors.r, da)), adapter.db.as_mut())
            })
            .unzip();
        let das = das.into_iter().flatten().collect();
        let tasks = gradient_tasks(Operands { rows: &dyb, source: &x }, k, das).into_iter();
        team::run_all(tasks.chain(dbs.into_iter().flatten().flat_map(FactorB::sum)));
    }
}

/// The gradient of a B, summed by groups of tokens, so that a group's rows of dY are read for it while they are in the
/// cache.
struct FactorB<'a> {
    out: FloatMut<'a>,
    factors: Factors<'a>,
    m: usize,
    n: usize,
    /// Of each group, by 256 columns of dY: `[16 for each 16 ranks, columns]`.
    sums: F32Scratch,
}

impl<'a> FactorB<'a> {
    fn alloc(
        cpu: &Cpu,
        out: FloatMut<'a>,
        factors: Factors<'a>,
        (m, n): (usize, usize),
    ) -> Result<Self> {
        let groups = m.div_ceil(group_rows(m));
        let sums = cpu.scratch(groups * n * factors.r.next_multiple_of(RANKS))?;
        Ok(Self { out, factors, m, n, sums })
    }

    /// Those of each group.
    fn groups(&mut self) -> slice::ChunksMut<'_, f32> {
        let len = self.n * self.factors.r.next_multiple_of(RANKS);
        self.sums.chunks_mut(len)
    }

    /// Tasks that multiply all groups.
    fn tasks<'s>(&'s mut self, dy: &'s [bf16], xa: &'s [f32]) -> impl Iterator<Item = Task<'s>> {
        let (rows, n, factors) = (group_rows(self.m), self.n, self.factors);
        let groups = dy.chunks(rows * n).zip(xa.chunks(rows * factors.r)).zip(self.groups());
        groups.map(move |((dy, xa), sums)| {
            Box::new(move || {
                let parts = dy.chunks(SHRINK_ROWS * n).zip(xa.chunks(SHRINK_ROWS * factors.r));
                for (i, (dy, xa)) in parts.enumerate() {
                    add_group(i == 0, (dy, n), (xa, factors), sums);
                }
            }) as Task<'s>
        })
    }

    /// Tasks that add the groups up.
    fn sum(&mut self) -> impl Iterator<Item = Task<'_>> {
        let (n, r) = (self.n, self.factors.r);
        let ranks = r.next_multiple_of(RANKS);
        let (sums, out) = (&*self.sums, self.out.reborrow());
        out.chunks(B_COLS * r).into_iter().enumerate().map(move |(task, out)| {
            Box::new(move || {
                let cols = out.len() / r;
                let first = task * B_COLS * ranks;
                let groups = sums.chunks(n * ranks).map(|sums| &sums[first..first + cols * ranks]);
                out.update(&mut Vec::new(), |out| {
                    let mut all = [0.0; RANKS * B_COLS];
                    for block in 0..ranks / RANKS {
                        let all = &mut all[..RANKS * cols];
                        all.fill(0.0);
                        for group in groups.clone() {
                            let group = &group[block * all.len()..][..all.len()];
                            simd!(for (all, x) in all.iter_mut().zip(group) {
                                *all += x;
                            });
                        }
                        for (i, out) in out.chunks_mut(r).enumerate() {
                            let out = out[block * RANKS..].iter_mut();
                            out.zip(all[i..].iter().step_by(cols)).for_each(|(out, x)| *out += x);
                        }
                    }
                });
            }) as Task<'_>
        })
    }
}

/// Rows of a group: whole tasks of [`shrink_rows`].
fn group_rows(m: usize) -> usize {
    SHRINK_ROWS * m.div_ceil(SHRINK_ROWS * GROUPS)
}

/// Adds `scale * dY^T . xa` of some tokens to the sums of their group, or begins those with it.
fn add_group(
    first: bool,
    (dy, n): (&[bf16], usize),
    (xa, Factors { r, scale, .. }): (&[f32], Factors<'_>),
    sums: &mut [f32],
) {
    let (tokens, blocks) = (xa.len() / r, r.div_ceil(RANKS));
    let steps = tokens.div_ceil(STEP);
    let source = Straight(Dense::new(dy, tokens, n));
    PIECES.with_borrow_mut(|pieces| {
        let pieces = pieces.bf16(blocks * steps * PIECE);
        turn(xa, r, scale, pieces.as_chunks_mut().0.iter_mut().collect());
        let rows = Rows::lent(pieces, steps);
        let base = Operands { rows: &rows, source: &source };
        for (i, sums) in sums.chunks_mut(blocks * RANKS * B_COLS).enumerate() {
            let col = i * B_COLS;
            let cols = B_COLS.min(n - col);
            let area = Area { first_block: 0, rows: blocks * BLOCK, col, cols };
            run(&[base], area, |block, products| {
                let sums = &mut sums[block * RANKS * cols..][..RANKS * cols];
                if first {
                    sums.fill(0.0);
                }
                simd!(add_halves(products, sums));
            });
        }
    });
}

/// One adapter's gradients on their way, as far as they are wanted.
struct Adapter<'a> {
    factors: Factors<'a>,
    n: usize,
    /// Where it was at hand from the start.
    xa: Option<&'a [f32]>,
    da: Option<FloatMut<'a>>,
    db: Option<FactorB<'a>>,
    /// B, for `dY . B`.
    up: Option<Parts>,
    /// A, for the gradient of the input.
    down: Option<Parts>,
    /// `dY . B`, for the gradient of the input.
    left: Option<Parts>,
}

impl Adapter<'_> {
    /// Tasks that split what is multiplied by.
    fn split(&mut self, k: usize) -> impl Iterator<Item = Task<'_>> {
        let Factors { a, b, r, .. } = self.factors;
        let up = self.up.iter_mut().flat_map(move |up| in_rows(b, r, ONCE, up));
        up.chain(self.down.iter_mut().flat_map(move |down| in_cols(a, (r, k), PAIRS, down)))
    }

    /// Tasks that make of `dY . B` what other products need of it, and the gradient of B meanwhile.
    fn shrink<'s>(
        &'s mut self,
        (dy, rows): (&'s [bf16], &'s Rows<'_>),
        (m, keep): (usize, f32),
        turned: Option<TurnedRanks<'s>>,
    ) -> Vec<Task<'s>> {
        let (n, factors) = (self.n, self.factors);
        let Factors { r, scale, .. } = factors;
        let depth = width::<{ TURNS.len() }>(r);
        let factor = self
            .up
            .as_ref()
            .map(|up| Straight(Dense::new(up.values(), n, width::<{ ONCE.len() }>(r))));
        let mut left = self.left.as_mut().map(|x| x.values_mut().chunks_mut(SHRINK_ROWS * depth));
        let mut turned = turned.map(|turned| turned.parts(SHRINK_ROWS).into_iter());
        let mut sums = self.db.as_mut().filter(|_| self.xa.is_some()).map(FactorB::groups);
        let xa = self.xa.unwrap_or(&[]);
        let mut parts = (0..m.div_ceil(SHRINK_ROWS)).map(|part| {
            let left = left.as_mut().and_then(Iterator::next);
            (part, left, turned.as_mut().and_then(Iterator::next))
        });
        let tasks = (0..m.div_ceil(group_rows(m))).map(|_| {
            let parts: Vec<_> = parts.by_ref().take(group_rows(m) / SHRINK_ROWS).collect();
            let mut sums = sums.as_mut().and_then(Iterator::next);
            Box::new(move || {
                for (i, (part, left, turned)) in parts.into_iter().enumerate() {
                    let tokens = part * SHRINK_ROWS..m.min((part + 1) * SHRINK_ROWS);
                    if let Some(factor) = &factor {
                        let base = Operands { rows, source: factor };
                        DYB.with_borrow_mut(|dyb| {
                            let dyb = sized(dyb, tokens.len() * r);
                            shrink_rows(base, part, r, 1.0, dyb);
                            if let Some(left) = left {
                                split_rows(dyb, r, scale, TURNS, left);
                            }
                            if let Some(turned) = turned {
                                turn(dyb, r, scale * keep, turned);
                            }
                        });
                    }
                    if let Some(sums) = &mut sums {
                        let dy = &dy[tokens.start * n..tokens.end * n];
                        let xa = &xa[tokens.start * r..tokens.end * r];
                        add_group(i == 0, (dy, n), (xa, factors), sums);
                    }
                }
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

/// Adds the high and the low rows of `sums` `[2 * 16, cols]` to as many rows as `out` has.
#[expect(clippy::inline_always, reason = "compiled for the caller's instruction set")]
#[inline(always)]
fn add_halves(sums: &[f32], out: &mut [f32]) {
    let (high, low) = sums.split_at(sums.len() / 2);
    for ((out, high), low) in out.iter_mut().zip(high).zip(low) {
        *out += high + low;
    }
}
