//! Gradients of linears of one input. What does not wait for one another is one loop over the threads: splitting the
//! factors; multiplying gradients by a factor, and splitting the results while they are at hand, and what the same rows
//! add to the gradient of each B; the gradient of the input, one sum over all linears; what rows of the input add to the
//! gradients of all A; sums of those.

use half::bf16;

use super::adapter::{SHRINK_ROWS, shrink_rows};
use super::dense::{Dense, Straight};
use super::fill::Source;
use super::product::{Operands, product_tasks, supports, weight_source};
use super::rows::Rows;
use super::split::{ONCE, Parts, RANKS, ROUNDED, in_cols, in_rows, split_rows, width};
use super::tile::BLOCK;
use super::token_sums::{self, Ranks, TokenSums};
use super::{Factors, Finish, Gradients, LinearGradients, Side};
use crate::Result;
use crate::cpu::four_bit::RUN;
use crate::cpu::team::{self, Task};
use crate::cpu::tiles::tiles;
use crate::cpu::view::FloatMut;
use crate::cpu::{Cpu, F32Scratch};

/// Columns of an A, and rows of a B, whose gradient is a task.
const GRADIENT_COLS: usize = 256;

/// The gradients of the factors that are left to do.
pub(in crate::cpu) struct FactorGradients<'a> {
    m: usize,
    k: usize,
    keep: f32,
    /// Of each linear.
    adapters: Vec<Option<Adapter<'a>>>,
    dys: Vec<&'a [bf16]>,
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
        finish: Finish<'_>,
    ) -> Result<Option<FactorGradients<'a>>> {
        let &mut Self { mask, m, k, .. } = self;
        let Some((dys, sources)) = self.operands(dx.as_ref()) else { return Ok(None) };
        let dy_rows =
            self.linears.iter().zip(&dys).map(|(linear, dy)| Rows::new(cpu, dy, m, linear.n));
        let dy_rows: Vec<Rows<'_>> = dy_rows.collect::<Result<_>>()?;
        let mut adapters = self.adapters(cpu, dx.is_some())?;
        team::run_all(adapters.iter_mut().flatten().flat_map(|adapter| adapter.split(k)));

        let adapters_of = adapters.iter_mut().zip(&dys).zip(&dy_rows);
        let tasks =
            adapters_of.filter_map(|((adapter, dy), rows)| Some((adapter.as_mut()?, dy, rows)));
        team::run_all(tasks.flat_map(|(adapter, dy, rows)| adapter.shrink(dy, rows, m)));

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
            let tasks = product_tasks(&terms, masked, dx, (m, k), finish);
            team::run_all(tasks.map(|(_, task)| task));
        }
        let keep = mask.map_or(1.0, |mask| mask.keep());
        Ok(Some(FactorGradients { m, k, keep, adapters, dys }))
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
            let gradient = |out: Option<FloatMut<'a>>, cols| {
                out.map(|out| Gradient::alloc(cpu, out, (m, r, cols))).transpose()
            };
            let projection = || Projection::alloc(cpu, (m, n, r));
            Ok(Some(Adapter {
                projection: (dx || da.is_some()).then(projection).transpose()?,
                down: parts(dx, width::<{ ONCE.len() }>(r) * k)?,
                left: parts(dx, m * width::<{ ROUNDED.len() }>(r))?,
                da: gradient(da, k)?,
                db: gradient(db, n)?,
                xa: linear.xa,
                factors,
                n,
            }))
        };
        self.linears.iter_mut().map(adapter).collect()
    }
}

impl FactorGradients<'_> {
    /// Of each adapter `dA += scale * keep * (dY . B)^T . dropped` and `dB += scale * dY^T . xa`. Of `xas`, one for each
    /// linear, those are read that were not at hand before and whose B is among them.
    pub(in crate::cpu) fn run(mut self, dropped: &[bf16], xas: &[&[f32]]) {
        let Self { m, k, keep, .. } = self;
        let group = token_sums::group(m);
        let mut of_x: Vec<Vec<Ranks<'_>>> = (0..m.div_ceil(group)).map(|_| Vec::new()).collect();
        let mut tasks: Vec<Task<'_>> = Vec::new();
        let adapters = self.adapters.iter_mut().zip(&self.dys).zip(xas);
        for ((adapter, dy), xa) in adapters {
            let Some(Adapter { factors, n, xa: early, projection, da, db, .. }) = adapter else {
                continue;
            };
            let (Factors { r, scale, .. }, n) = (*factors, *n);
            if let (Some(da), Some(projection)) = (da, projection) {
                let values = projection.dyb.chunks(group * r).zip(da.sums.groups());
                for (of_x, (values, sums)) in of_x.iter_mut().zip(values) {
                    of_x.push(Ranks { values, r, scale: scale * keep, sums });
                }
            }
            if let (Some(db), None) = (db, early) {
                let groups = dy.chunks(group * n).zip(xa.chunks(group * r)).zip(db.sums.groups());
                tasks.extend(groups.map(|((dy, values), sums)| {
                    let mut ranks = [Ranks { values, r, scale, sums }];
                    Box::new(move || token_sums::add(true, dy, n, &mut ranks)) as Task<'_>
                }));
            }
        }
        let of_x = dropped.chunks(group * k).zip(of_x).filter(|(_, ranks)| !ranks.is_empty());
        tasks.extend(of_x.map(|(rows, mut ranks)| {
            Box::new(move || token_sums::add(true, rows, k, &mut ranks)) as Task<'_>
        }));
        team::run_all(tasks);

        let adapters = self.adapters.iter_mut().flatten();
        team::run_all(adapters.flat_map(
            |Adapter { factors: Factors { r, .. }, da, db, .. }| {
                let r = *r;
                let da = da.iter_mut().flat_map(move |da| da.add_to_a(r, k));
                da.chain(db.iter_mut().flat_map(move |db| db.add_to_b(r)))
            },
        ));
    }
}

/// The gradient of a factor, summed by groups of tokens.
struct Gradient<'a> {
    out: FloatMut<'a>,
    sums: TokenSums,
}

impl<'a> Gradient<'a> {
    fn alloc(cpu: &Cpu, out: FloatMut<'a>, sizes: (usize, usize, usize)) -> Result<Self> {
        Ok(Self { out, sums: TokenSums::alloc(cpu, sizes)? })
    }

    /// Tasks that add the groups' sums to the gradient of an A `[r, k]`.
    fn add_to_a(&mut self, r: usize, k: usize) -> impl Iterator<Item = Task<'_>> {
        let Self { out, sums } = self;
        let sums = &*sums;
        tiles(out.reborrow(), k, 0..k, r, GRADIENT_COLS).into_iter().map(move |tile| {
            Box::new(move || {
                for mut tile in tile.split(RANKS) {
                    let mut before = [0.0; RANKS * GRADIENT_COLS];
                    let before = &mut before[..tile.rows * tile.cols];
                    tile.load(before);
                    sums.add_rows((tile.row, tile.col), tile.cols, before);
                    tile.store(before);
                }
            }) as Task<'_>
        })
    }

    /// The same of a B `[n, r]`.
    fn add_to_b(&mut self, r: usize) -> impl Iterator<Item = Task<'_>> {
        let Self { out, sums } = self;
        let sums = &*sums;
        out.reborrow().chunks(GRADIENT_COLS * r).into_iter().enumerate().map(move |(task, out)| {
            Box::new(move || {
                out.update(&mut Vec::new(), |out| sums.add_columns(task * GRADIENT_COLS, out));
            }) as Task<'_>
        })
    }
}

/// `dY . B`.
struct Projection {
    b: Parts,
    /// `[m, r]`
    dyb: F32Scratch,
}

impl Projection {
    fn alloc(cpu: &Cpu, (m, n, r): (usize, usize, usize)) -> Result<Self> {
        let b = Parts::alloc(cpu, n * width::<{ ONCE.len() }>(r))?;
        Ok(Self { b, dyb: cpu.scratch(m * r)? })
    }
}

/// One adapter's gradients on their way, as far as they are wanted.
struct Adapter<'a> {
    factors: Factors<'a>,
    n: usize,
    /// Where it was at hand from the start.
    xa: Option<&'a [f32]>,
    projection: Option<Projection>,
    da: Option<Gradient<'a>>,
    db: Option<Gradient<'a>>,
    /// A, for the gradient of the input.
    down: Option<Parts>,
    /// `scale * dY . B`, for the gradient of the input.
    left: Option<Parts>,
}

impl Adapter<'_> {
    /// Tasks that split what is multiplied by.
    fn split(&mut self, k: usize) -> impl Iterator<Item = Task<'_>> {
        let Factors { a, b, r, .. } = self.factors;
        let up = self.projection.iter_mut().flat_map(move |up| in_rows(b, r, ONCE, &mut up.b));
        up.chain(self.down.iter_mut().flat_map(move |down| in_cols(a, (r, k), ONCE, down)))
    }

    /// Tasks that multiply groups of rows of dY by B, and sum what they add to its gradient while they are at hand.
    fn shrink<'s>(&'s mut self, dy: &'s [bf16], rows: &'s Rows<'_>, m: usize) -> Vec<Task<'s>> {
        let Self { factors, n, xa, projection, db, left, .. } = self;
        let (Factors { r, scale, .. }, n, xa) = (*factors, *n, *xa);
        let (group, depth) = (token_sums::group(m), width::<{ ROUNDED.len() }>(r));
        let mut projection = projection.as_mut().map(|Projection { b, dyb }| {
            let b = Straight(Dense::new(b.values(), n, width::<{ ONCE.len() }>(r)));
            (b, dyb.chunks_mut(group * r))
        });
        let mut left = left.as_mut().map(|left| left.values_mut().chunks_mut(group * depth));
        let mut ranks =
            xa.zip(db.as_mut()).map(|(xa, db)| xa.chunks(group * r).zip(db.sums.groups()));
        let tasks = (0..m).step_by(group).map(|first| {
            let mut dyb = projection.as_mut().and_then(|(b, dyb)| Some((*b, dyb.next()?)));
            let mut left = left.as_mut().and_then(Iterator::next);
            let mut ranks = ranks.as_mut().and_then(Iterator::next);
            Box::new(move || {
                for start in (first..m.min(first + group)).step_by(SHRINK_ROWS) {
                    let tokens = start - first..SHRINK_ROWS.min(m - start) + start - first;
                    if let Some((b, dyb)) = &mut dyb {
                        let base = Operands { rows, source: b };
                        let dyb = &mut dyb[tokens.start * r..tokens.end * r];
                        shrink_rows(base, start / SHRINK_ROWS, r, 1.0, dyb);
                        if let Some(left) = &mut left {
                            let left = &mut left[tokens.start * depth..tokens.end * depth];
                            split_rows(dyb, r, scale, ROUNDED, left);
                        }
                    }
                    if let Some((xa, sums)) = &mut ranks {
                        let values = &xa[tokens.start * r..tokens.end * r];
                        let dy = &dy[start * n..(start + tokens.len()) * n];
                        let ranks = Ranks { values, r, scale, sums };
                        token_sums::add(start == first, dy, n, &mut [ranks]);
                    }
                }
            }) as Task<'s>
        });
        tasks.collect()
    }

    /// `scale * dY . B`, and A to multiply it by.
    fn low(&self, cpu: &Cpu, (m, k): (usize, usize)) -> Result<Option<(Rows<'_>, Straight<'_>)>> {
        let (Some(left), Some(down)) = (&self.left, &self.down) else { return Ok(None) };
        let depth = width::<{ ROUNDED.len() }>(self.factors.r);
        let rows = Rows::new(cpu, &left.values()[..m * depth], m, depth)?;
        Ok(Some((rows, Straight(Dense::new(down.values(), depth, k)))))
    }
}
