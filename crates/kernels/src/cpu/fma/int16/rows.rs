//! Rows of activations.

#![expect(
    clippy::inline_always,
    reason = "a loop is compiled for the instruction set of the function it is inlined into"
)]

use std::sync::atomic::{AtomicBool, Ordering};

use half::bf16;

use super::kernel::available;
use super::{ELEMENT, at_least, round};
use crate::Result;
use crate::cpu::four_bit::RUN;
use crate::cpu::lines::Lines;
use crate::cpu::simd::simd;
use crate::cpu::team;
use crate::cpu::view::FloatRef;
use crate::cpu::{Cpu, F32Scratch};

/// Rows of a task.
const ROWS: usize = 16;
/// Rows that lie a multiple of this many elements apart share a set of the L1 cache.
const COLLIDE: usize = 1024;

/// Rows `[m, depth]`, filled up with zeros to whole runs.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Rows<'a> {
    values: &'a [i16],
    units: &'a [f32],
    shape: Shape,
}

#[derive(Clone, Copy)]
struct Shape {
    m: usize,
    /// Of a row.
    runs: usize,
    /// Elements from row to row.
    stride: usize,
}

impl Shape {
    const fn new(m: usize, depth: usize) -> Self {
        let runs = depth.div_ceil(RUN);
        let collides = (runs * RUN).is_multiple_of(COLLIDE);
        Self { m, runs, stride: (runs + collides as usize) * RUN }
    }

    /// Of the values, in f32.
    const fn values_len(self) -> usize {
        self.m * self.stride / 2
    }

    /// Of the units.
    const fn units_len(self) -> usize {
        self.m * self.runs
    }
}

impl Rows<'_> {
    /// Elements from row to row, and the integers of rows from one on, each from a run on.
    pub(super) fn values(&self, row: usize, run: usize) -> (usize, &[i16]) {
        let stride = self.shape.stride;
        (stride, &self.values[row * stride + run * RUN..])
    }

    /// Units from row to row, and those of rows from one on, each from a run on.
    pub(super) fn units(&self, row: usize, run: usize) -> (usize, &[f32]) {
        let runs = self.shape.runs;
        (runs, &self.units[row * runs + run..])
    }

    /// Runs of each row.
    pub(super) const fn runs(&self) -> usize {
        self.shape.runs
    }
}

/// Rows that an operation has made.
pub(in crate::cpu) struct MadeRows {
    values: F32Scratch,
    units: F32Scratch,
    shape: Shape,
}

impl MadeRows {
    /// Nothing unless products in integers are available and all elements are finite.
    pub(in crate::cpu) fn new(cpu: &Cpu, x: FloatRef<'_>, depth: usize) -> Result<Option<Self>> {
        if !available() || depth == 0 {
            return Ok(None);
        }
        let shape = Shape::new(x.len() / depth, depth);
        let (mut values, mut units) =
            (cpu.scratch(shape.values_len())?, cpu.scratch(shape.units_len())?);
        let finite = AtomicBool::new(true);
        let Shape { m, runs, stride } = shape;
        let values_of_tasks = bytemuck::cast_slice_mut(&mut values).chunks_mut(ROWS * stride);
        let tasks = values_of_tasks.zip(units.chunks_mut(ROWS * runs)).enumerate();
        team::for_each(tasks, |(task, (values, units))| {
            let rows = task * ROWS..m.min((task + 1) * ROWS);
            let shape = Shape { m: rows.len(), ..shape };
            let all = match x.slice(rows.start * depth..rows.end * depth) {
                FloatRef::F32(x) => simd!(set_rows(values, units, shape, x)),
                FloatRef::Bf16(x) => simd!(set_rows(values, units, shape, x)),
            };
            if !all {
                finite.store(false, Ordering::Relaxed);
            }
        });
        Ok(finite.into_inner().then_some(Self { values, units, shape }))
    }

    pub(in crate::cpu) fn rows(&self) -> Rows<'_> {
        let Self { values, units, shape } = self;
        Rows { values: bytemuck::cast_slice(values), units, shape: *shape }
    }
}

/// Rows that a thread makes from task to task.
#[derive(Default)]
pub(in crate::cpu) struct OwnRows {
    values: Lines,
    units: Lines,
}

impl OwnRows {
    /// Rows `[m, depth]`. What depends on elements that are not finite is not a number.
    pub(in crate::cpu) fn set(&mut self, x: &[f32], depth: usize) -> Rows<'_> {
        let shape = Shape::new(x.len() / depth, depth);
        let values = bytemuck::cast_slice_mut(self.values.f32(shape.values_len()));
        let units = self.units.f32(shape.units_len());
        simd!(set_rows(values, units, shape, x));
        Rows { values, units, shape }
    }
}

pub(super) trait Widen: Copy {
    fn widen(self) -> f32;
}

impl Widen for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

impl Widen for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

/// Whether all are finite.
#[inline(always)]
fn set_rows<T: Widen>(values: &mut [i16], units: &mut [f32], shape: Shape, x: &[T]) -> bool {
    let Shape { m, runs, stride } = shape;
    let mut finite = true;
    let rows = values.chunks_mut(stride).zip(units.chunks_mut(runs));
    for ((values, units), x) in rows.zip(x.chunks(x.len() / m)) {
        let runs = values.as_chunks_mut::<RUN>().0.iter_mut().zip(units);
        for ((values, unit), x) in runs.zip(x.chunks(RUN)) {
            finite &= set_run(values, unit, x, ELEMENT);
        }
    }
    finite
}

/// The largest becomes `parts`. Whether all are finite.
#[inline(always)]
pub(super) fn set_run<T: Widen>(
    values: &mut [i16; RUN],
    unit: &mut f32,
    x: &[T],
    parts: f32,
) -> bool {
    let mut wide = [0.0; RUN];
    match x.as_array::<RUN>() {
        Some(x) => wide.iter_mut().zip(x).for_each(|(wide, x)| *wide = x.widen()),
        None => wide.iter_mut().zip(x).for_each(|(wide, x)| *wide = x.widen()),
    }
    // As integers they are in order, with what is not finite last.
    let mut most = 0;
    for wide in &wide {
        most = most.max(wide.abs().to_bits());
    }
    let finite = f32::from_bits(most).is_finite();
    let most = at_least(most);
    *unit = most / parts;
    let factor = parts / most;
    for (value, wide) in values.iter_mut().zip(wide) {
        *value = round(wide, factor);
    }
    finite
}
