//! Linears of one input. What does not wait for one another is one loop over the threads: splitting the factors of
//! adapters; multiplying the input by those of all, and splitting the results while they are at hand; the products with
//! the weights.

use half::bf16;

use super::adapter::{SHRINK_ROWS, shrink_rows};
use super::dense::{Dense, Transposed};
use super::fill::Source;
use super::product::{Operands, product_tasks, supports, weight_source};
use super::rows::Rows;
use super::split::{ONCE, PAIRS, Parts, TURNS, in_cols, in_rows, split_rows, width};
use super::{Factors, Finish, Products, Side};
use crate::Result;
use crate::cpu::Cpu;
use crate::cpu::team::{self, Task};
use crate::cpu::tiles::Tile;

/// What is multiplied.
struct Operand<'a> {
    x: &'a [bf16],
    dropped: &'a [bf16],
    /// Of each linear.
    sources: Vec<Box<dyn Source + 'a>>,
}

impl<'a> Products<'a> {
    /// Of each linear, `xa = keep * dropped . A^T` and `y = finish(x . W^T + scale * xa . B^T)`, where `finish` of those
    /// that are to be finished is given the index of the linear, f32 sums and the tile to store them to. False, and
    /// nothing done, unless the activations are bf16, `k` is a multiple of 64 and the weights are for [`weight_source`].
    pub(in crate::cpu) fn run(
        &mut self,
        cpu: &Cpu,
        finish: impl Fn(usize, &mut [f32], &mut Tile<'_>) + Sync,
    ) -> Result<bool> {
        let Self { m, k, .. } = *self;
        let Some(Operand { x, dropped, sources }) = self.operand() else { return Ok(false) };
        let adapter = |factors: Option<Factors<'a>>, n| {
            factors.map(|factors| Adapter::alloc(cpu, factors, (m, n, k))).transpose()
        };
        let adapters = self.linears.iter().map(|linear| adapter(linear.factors, linear.n));
        let mut adapters: Vec<Option<Adapter<'_>>> = adapters.collect::<Result<_>>()?;
        team::run_all(adapters.iter_mut().flatten().flat_map(|adapter| adapter.split(k)));

        let rows = Rows::new(cpu, dropped, m, k)?;
        let keep = self.dropped.keep();
        let xas = self.linears.iter_mut().zip(&mut adapters);
        let xas =
            xas.filter_map(|(linear, adapter)| linear.xa.as_deref_mut().zip(adapter.as_mut()));
        let mut tasks: Vec<Vec<_>> = Vec::new();
        for (xa, adapter) in xas {
            for (i, part) in adapter.shrink(&rows, keep, xa).enumerate() {
                if i == tasks.len() {
                    tasks.push(Vec::new());
                }
                tasks[i].push(part);
            }
        }
        // All adapters read some rows one after the other, while they are in the cache.
        team::for_each(tasks, |tasks| tasks.into_iter().for_each(|task| task()));

        // A copy that rows may have been put in order in serves all products.
        let own = self.dropped.mask.map(|_| Rows::new(cpu, x, m, k)).transpose()?;
        let rows = own.as_ref().unwrap_or(&rows);
        let lows = adapters.iter().zip(&self.linears);
        let lows = lows.map(|(adapter, linear)| {
            adapter.as_ref().map(|adapter| adapter.low(cpu, (m, linear.n))).transpose()
        });
        let lows: Vec<Option<(Rows<'_>, Transposed<'_>)>> = lows.collect::<Result<_>>()?;
        let terms: Vec<Vec<Operands<'_>>> = sources
            .iter()
            .zip(&lows)
            .map(|(source, low)| {
                let low = low.as_ref().map(|(rows, source)| Operands { rows, source });
                [Operands { rows, source: &**source }].into_iter().chain(low).collect()
            })
            .collect();
        let finish = &finish;
        let finishes: Vec<_> = (0..terms.len())
            .map(|i| {
                move |_: &mut Vec<f32>, out: &mut [f32], tile: &mut Tile<'_>| finish(i, out, tile)
            })
            .collect();
        let products = self.linears.iter_mut().zip(&terms).zip(&finishes);
        let tasks = products.flat_map(|((linear, terms), finish)| {
            let finish = if linear.finish { Finish::With(finish) } else { Finish::Store };
            product_tasks(terms, None, linear.y.reborrow(), (m, linear.n), finish)
        });
        // Some rows of all linears one after the other: they stay in the cache of a thread.
        let mut tasks: Vec<(usize, Task<'_>)> = tasks.collect();
        tasks.sort_by_key(|(row, _)| *row);
        team::run_all(tasks.into_iter().map(|(_, task)| task));
        Ok(true)
    }

    fn operand(&self) -> Option<Operand<'a>> {
        let Self { m, k, .. } = *self;
        let (x, dropped) = supports(self.x, k).zip(supports(self.dropped.x, k))?;
        let sources = self.linears.iter().map(|linear| {
            let source = weight_source((linear.weight, Side::Transposed), (linear.n, k), &linear.y);
            source.filter(|_| m * linear.n * k > 0)
        });
        Some(Operand { x, dropped, sources: sources.collect::<Option<_>>()? })
    }
}

/// An adapter, in parts that the tiles multiply.
struct Adapter<'a> {
    factors: Factors<'a>,
    /// A, for `xa`.
    down: Parts,
    /// B, for the product with `xa`.
    up: Parts,
    /// `scale * xa`.
    left: Parts,
}

impl<'a> Adapter<'a> {
    fn alloc(cpu: &Cpu, factors: Factors<'a>, (m, n, k): (usize, usize, usize)) -> Result<Self> {
        let r = factors.r;
        Ok(Self {
            factors,
            down: Parts::alloc(cpu, width::<{ ONCE.len() }>(r) * k)?,
            up: Parts::alloc(cpu, n * width::<{ PAIRS.len() }>(r))?,
            left: Parts::alloc(cpu, m * width::<{ TURNS.len() }>(r))?,
        })
    }

    /// Tasks that split the factors.
    fn split(&mut self, k: usize) -> impl Iterator<Item = Task<'_>> {
        let Factors { a, b, r, .. } = self.factors;
        in_cols(a, (r, k), ONCE, &mut self.down).chain(in_rows(b, r, PAIRS, &mut self.up))
    }

    /// Tasks that multiply all rows in turn.
    fn shrink<'s>(
        &'s mut self,
        rows: &'s Rows<'_>,
        keep: f32,
        xa: &'s mut [f32],
    ) -> impl Iterator<Item = Task<'s>> {
        let Factors { r, scale, .. } = self.factors;
        let down = self.down.values();
        let factor = Transposed(Dense::new(down, width::<{ ONCE.len() }>(r), rows.depth()));
        let parts = self.left.values_mut().chunks_mut(SHRINK_ROWS * width::<{ TURNS.len() }>(r));
        xa.chunks_mut(SHRINK_ROWS * r).zip(parts).enumerate().map(move |(task, (xa, parts))| {
            Box::new(move || {
                shrink_rows(Operands { rows, source: &factor }, task, r, keep, xa);
                split_rows(xa, r, scale, TURNS, parts);
            }) as Task<'s>
        })
    }

    /// `scale * xa`, and B to multiply it by.
    fn low(&self, cpu: &Cpu, (m, n): (usize, usize)) -> Result<(Rows<'_>, Transposed<'_>)> {
        let depth = width::<{ TURNS.len() }>(self.factors.r);
        let rows = Rows::new(cpu, &self.left.values()[..m * depth], m, depth)?;
        Ok((rows, Transposed(Dense::new(self.up.values(), n, depth))))
    }
}
