//! Element-wise operations in one pass over memory: a block of every operand is widened, computed on
//! and narrowed while the next one is on its way.
//!
//! A block of 256 elements is a kilobyte in f32, so that those of all operands stay in the nearest cache.

#![expect(
    clippy::inline_always,
    reason = "a loop is compiled for the instruction set of the function it is inlined into"
)]

use super::simd::simd;
use super::team;
use super::view::{FloatMut, FloatRef};

/// Elements of one task.
pub(super) const CHUNK: usize = 1 << 13;
/// Elements computed on at a time.
pub(super) const BLOCK: usize = 256;

/// A block in f32.
pub(super) type Block = [f32; BLOCK];

/// Operands of an element-wise operation, all of one length.
#[derive(Debug)]
pub(super) struct Operands<'a, const I: usize, const O: usize> {
    pub(super) inputs: [FloatRef<'a>; I],
    pub(super) outputs: [FloatMut<'a>; O],
}

impl<const I: usize, const O: usize> Operands<'_, I, O> {
    /// The operands in pieces that are one task each.
    pub(super) fn tasks(self) -> impl Iterator<Item = Self> {
        let Self { inputs, mut outputs } = self;
        let len = outputs[0].len();
        (0..len.div_ceil(CHUNK)).map(move |task| Self {
            inputs: inputs.map(|x| x.chunk(task, CHUNK)),
            outputs: outputs.each_mut().map(|out| out.split_off_front(CHUNK.min(out.len()))),
        })
    }
}

/// Sets the elements of the outputs to `f` of those of the inputs.
pub(super) fn map<const I: usize, const O: usize>(
    inputs: [FloatRef<'_>; I],
    outputs: [FloatMut<'_>; O],
    f: impl Fn([f32; I]) -> [f32; O] + Sync,
) {
    let tasks = Operands { inputs, outputs }.tasks();
    team::for_each(tasks, |task| simd!(walk::<false, I, O>(task, |x, _| f(x))));
}

/// Sets the elements of the outputs to `f` of those of the inputs and of their own.
pub(super) fn update<const I: usize, const O: usize>(
    tasks: Vec<Operands<'_, I, O>>,
    f: impl Fn([f32; I], [f32; O]) -> [f32; O] + Sync,
) {
    team::for_each(tasks, |task| simd!(walk::<true, I, O>(task, &f)));
}

#[inline(always)]
fn walk<const UPDATE: bool, const I: usize, const O: usize>(
    operands: Operands<'_, I, O>,
    f: impl Fn([f32; I], [f32; O]) -> [f32; O],
) {
    let Operands { inputs, mut outputs } = operands;
    let (mut wide, mut old) = ([[0.0; BLOCK]; I], [[0.0; BLOCK]; O]);
    let mut new = [[0.0; BLOCK]; O];
    let len = outputs[0].len();
    for start in (0..len).step_by(BLOCK) {
        let block = start..(start + BLOCK).min(len);
        let next = block.end..(block.end + BLOCK).min(len);
        for x in inputs {
            x.slice(next.clone()).prefetch();
        }
        for out in &mut outputs {
            out.slice_mut(next.clone()).prefetch();
        }
        let mut blocks = [&[0.0; BLOCK]; I];
        for ((block_of, x), wide) in blocks.iter_mut().zip(inputs).zip(&mut wide) {
            *block_of = x.slice(block.clone()).block(wide);
        }
        let mut olds = [&[0.0; BLOCK]; O];
        if UPDATE {
            for ((block_of, out), old) in olds.iter_mut().zip(&outputs).zip(&mut old) {
                *block_of = out.as_ref().slice(block.clone()).block(old);
            }
        }
        for i in 0..BLOCK {
            let results = f(blocks.map(|x| x[i]), olds.map(|x| x[i]));
            for (new, result) in new.iter_mut().zip(results) {
                new[i] = result;
            }
        }
        for (out, new) in outputs.iter_mut().zip(&new) {
            out.slice_mut(block.clone()).put(&new[..block.len()]);
        }
    }
}
