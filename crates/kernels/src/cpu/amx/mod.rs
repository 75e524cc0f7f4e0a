//! Products of bf16 activations and frozen weights on the matrix unit of newer Xeons (AMX).
//!
//! A panel of the weight is expanded to bf16 tiles that stay in the L2 cache, 4-bit weights straight
//! from their packed codes, and the rows of the activations pass by it: `tdpbf16ps` adds products of
//! bf16 pairs to f32 sums, which leave the tiles only between parts of the depth and at the end.
//! Every output element is summed in the order of the depth, however the work is cut.
//!
//! Measured on two cores of a Xeon (2 MiB of L2 each, of which 1.3 are read at 64 bytes a tick of 2.6 GHz; 11 from L3)
//! that others share: steps of `SmolLM2-135M` with LoRA (4 x 256 tokens, all trained, bf16, NF4, rank 16) take 0.48 to
//! 0.58 s, by what else the machine does. Of 0.5 s that were profiled, linears take 0.30 with the gates' gradients, the
//! head 0.06, attention 0.06 and element-wise operations 0.05, at the memory's pace. The products alone run at 2.1 to
//! 2.6 TFLOP/s from warm caches. A step of a 32 x 32 block takes 52 ticks at best, 70 with all of it in L1, 90 within a
//! training step, and for the first pair of columns to meet 32 rows 210: these come from L2, and the matrix unit has
//! fallen asleep. Threads wait for each other for 8 %. What moved most: huge pages, threads that stay awake, the
//! adapter, attention and head on tiles, exponentials of base 2; then gates of fused products, larger blocks of tokens
//! for the head, softmax without masks; then linears of one input together and stores past the caches; then panels
//! filled faster, and rows read less often; then scores only where they are seen, and softmax by 16 rows; then
//! gradients of factors from rows as they lie and ranks of one part (5 % less of the linears' backward), and a unit
//! that is kept awake (2 to 4 % less of products that are 576 deep); then loads in another order (3 % of a step), rows
//! fetched ahead of deep products (7 to 9 % less of 4096 x 4096), and rows stored during the next ones (`overlap`).
//!
//! Rejected: storing each 32 x 32 block of sums as it is done (2 to 6 % more of a step), or some rows after each pair
//! of columns of the next block (1 % more); fetching the next rows of products of one pass, to L1 or L2, at once,
//! spread over the pairs or while sums are stored (none, or 1 % more); panels of 64 to 576 columns instead of 256,
//! tasks of half as many rows (no gain or worse); gradients of factors from rows as they lie with ranks of two parts
//! (as long as putting rows in order); keeping the unit awake while panels are filled (no gain) or in softmax (3 % more
//! of the head); reading rows that start within a cache line (7 % of a step); panels of the head's gradient in two bf16
//! parts (only the label's share needs more than one); gates and their gradients computed from the sums while those are
//! at hand (3 to 4 % more of a step: strips of rows come from memory more slowly than whole ones); finishing sums every
//! two or four pairs of columns (no gain); rows in the order of the tiles (6 % less of the products, and more to make
//! them); rows from the last to the first in every other task (no gain); factors split anew for each panel, without a
//! loop of its own (no gain); 1,024 tokens of the head at a time (1 to 3 % less of it, 9 MB more), or 256 (10 % more);
//! panels of 256 or 1,024 rows of the head (5 and 14 % more of it); attention's backward with one head in a block, or
//! with all of a group's tokens in turns (the same), and its next rows fetched ahead (no gain); the program's code on
//! huge pages (no gain).

#[cfg(amx)]
mod adapter;
#[cfg(amx)]
mod backward;
#[cfg(amx)]
mod dense;
#[cfg(amx)]
mod detect;
#[cfg(amx)]
mod dots;
#[cfg(amx)]
mod fill;
#[cfg(amx)]
mod forward;
#[cfg(amx)]
mod gated;
#[cfg(amx)]
mod head;
#[cfg(amx)]
mod integers;
#[cfg(amx)]
mod lanes;
#[cfg(amx)]
mod overlap;
#[cfg(amx)]
mod product;
#[cfg(amx)]
mod rate;
#[cfg(amx)]
mod rows;
#[cfg(amx)]
mod scores;
#[cfg(amx)]
mod small;
#[cfg(amx)]
mod softmax;
#[cfg(amx)]
mod softmax_gradient;
#[cfg(amx)]
mod split;
#[cfg(amx)]
mod store;
#[cfg(amx)]
mod tile;
#[cfg(amx)]
mod token_sums;
#[cfg(amx)]
mod turn;

#[cfg(amx)]
pub(super) use self::{
    adapter::shrink,
    backward::FactorGradients,
    detect::available,
    dots::row_dots,
    gated::{gate, gate_gradients},
    head::Head,
    integers::{IntegerRows, IntegerWeight},
    overlap::Place,
    rate::multiply_from_l1,
    scores::Scores,
    small::{Out, Panel, Values, gather_rows, product, product_of_parts, transpose},
    softmax::{Running, Strip, online_softmax, rescale},
    softmax_gradient::{KeyStrip, softmax_gradient},
    store::store,
    tile::{BLOCK, Tiles},
    turn::transpose_rounded,
};

use super::dropout::Mask;
use super::tiles::Tile;
use super::view::{FloatMut, FloatRef};
use super::weight::WeightRef;

/// How a weight `[n, k]` is multiplied by.
#[cfg(amx)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// `x [m, k] . W^T`
    Transposed,
    /// `x [m, n] . W`
    Straight,
}

/// What becomes of an output's sums.
#[derive(Clone, Copy)]
#[cfg_attr(not(amx), expect(dead_code, reason = "nothing is multiplied there"))]
pub(super) enum Finish<'a> {
    /// They are stored.
    Store,
    /// They are given to a function, some rows at a time, with scratch and the tile to store them to.
    With(&'a StoreRows<'a>),
}

#[cfg(amx)]
impl Finish<'_> {
    fn take(self, scratch: &mut Vec<f32>, sums: &mut [f32], tile: &mut Tile<'_>) {
        match self {
            Self::Store => tile.store(sums),
            Self::With(finish) => finish(scratch, sums, tile),
        }
    }
}

type StoreRows<'a> = dyn Fn(&mut Vec<f32>, &mut [f32], &mut Tile<'_>) + Sync + 'a;

/// Of an adapter, widened.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(amx), expect(dead_code, reason = "nothing is multiplied there"))]
pub(super) struct Factors<'a> {
    /// `[r, k]`
    pub(super) a: &'a [f32],
    /// `[n, r]`
    pub(super) b: &'a [f32],
    pub(super) r: usize,
    pub(super) scale: f32,
}

/// What adapters read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dropped<'a> {
    /// `[m, k]` with zeros where it is dropped; what is kept is [`keep`](Self::keep) times as much.
    pub(super) x: FloatRef<'a>,
    /// Of what is dropped.
    pub(super) mask: Option<Mask>,
}

impl Dropped<'_> {
    pub(super) fn keep(&self) -> f32 {
        self.mask.map_or(1.0, |mask| mask.keep())
    }
}

/// Linears of one input `[m, k]`.
#[derive(Debug)]
#[cfg_attr(not(amx), expect(dead_code, reason = "nothing is multiplied there"))]
pub(super) struct Products<'a> {
    pub(super) x: FloatRef<'a>,
    /// A mask is that of one linear alone.
    pub(super) dropped: Dropped<'a>,
    pub(super) m: usize,
    pub(super) k: usize,
    pub(super) linears: Vec<LinearProduct<'a>>,
}

/// Of one linear, of a weight `[n, k]`.
#[derive(Debug)]
#[cfg_attr(not(amx), expect(dead_code, reason = "nothing is multiplied there"))]
pub(super) struct LinearProduct<'a> {
    pub(super) n: usize,
    pub(super) weight: WeightRef<'a>,
    pub(super) factors: Option<Factors<'a>>,
    /// `[m, n]`
    pub(super) y: FloatMut<'a>,
    /// `[m, r]`, with an adapter.
    pub(super) xa: Option<&'a mut [f32]>,
    /// Whether sums are to be finished; otherwise they are stored.
    pub(super) finish: bool,
}

/// Gradients of linears of one input `[m, k]`.
#[derive(Debug)]
#[cfg_attr(not(amx), expect(dead_code, reason = "nothing is multiplied there"))]
pub(super) struct Gradients<'a> {
    /// That of one linear alone.
    pub(super) mask: Option<Mask>,
    pub(super) m: usize,
    pub(super) k: usize,
    pub(super) linears: Vec<LinearGradients<'a>>,
}

/// Of one linear, of a weight `[n, k]`.
#[derive(Debug)]
#[cfg_attr(not(amx), expect(dead_code, reason = "nothing is multiplied there"))]
pub(super) struct LinearGradients<'a> {
    pub(super) n: usize,
    pub(super) weight: WeightRef<'a>,
    pub(super) factors: Option<Factors<'a>>,
    /// `keep * dropped . A^T` `[m, r]`, where it is at hand.
    pub(super) xa: Option<&'a [f32]>,
    /// `[m, n]`
    pub(super) dy: FloatRef<'a>,
    /// `[r, k]`, if wanted.
    pub(super) da: Option<FloatMut<'a>>,
    /// `[n, r]`, if wanted.
    pub(super) db: Option<FloatMut<'a>>,
}

#[cfg(not(amx))]
pub(super) use self::missing::{FactorGradients, shrink};

#[cfg(not(amx))]
#[expect(clippy::unnecessary_wraps, reason = "the same signatures as where there is a matrix unit")]
mod missing {
    use std::convert::Infallible;
    use std::marker::PhantomData;

    use half::bf16;

    use super::{Finish, Gradients, Products};
    use crate::Result;
    use crate::cpu::Cpu;
    use crate::cpu::tiles::Tile;
    use crate::cpu::view::{FloatMut, FloatRef};

    pub(in crate::cpu) fn shrink(
        _: &Cpu,
        _: FloatRef<'_>,
        _: &[f32],
        _: (usize, usize),
        _: f32,
        _: &mut [f32],
    ) -> Result<bool> {
        Ok(false)
    }

    impl Products<'_> {
        pub(in crate::cpu) fn run(
            &mut self,
            _: &Cpu,
            _: impl Fn(usize, &mut [f32], &mut Tile<'_>) + Sync,
        ) -> Result<bool> {
            Ok(false)
        }
    }

    impl<'a> Gradients<'a> {
        pub(in crate::cpu) fn input(
            &mut self,
            _: &Cpu,
            _: Option<FloatMut<'_>>,
            _: Finish<'_>,
        ) -> Result<Option<FactorGradients<'a>>> {
            Ok(None)
        }
    }

    /// There are none.
    pub(in crate::cpu) struct FactorGradients<'a>(Infallible, PhantomData<&'a ()>);

    impl FactorGradients<'_> {
        pub(in crate::cpu) fn run(self, _: &[bf16], _: &[&[f32]]) {
            match self.0 {}
        }
    }
}
