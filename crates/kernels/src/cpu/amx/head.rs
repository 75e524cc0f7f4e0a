//! The output head, panel by panel within the tasks of the cross-entropy.

use half::bf16;

use super::dense::{Dense, Straight, Transposed};
use super::fill::Source;
use super::product::{self, Operands};
use super::rows::Rows;
use super::weight::RUN;
use crate::Result;
use crate::cpu::Cpu;
use crate::cpu::view::{FloatMut, FloatRef};
use crate::cpu::weight::WeightRef;

/// A bf16 head whose hidden states are bf16 too: all operands are exact, and the gradient of the
/// logits is taken as the sum of two bf16 values.
#[derive(Debug, Clone, Copy)]
pub(in crate::cpu) struct Head<'a> {
    values: &'a [bf16],
    hidden: usize,
}

/// Hidden states in the order of the tiles.
#[derive(Debug)]
pub(in crate::cpu) struct Hidden(Rows<'static>);

impl<'a> Head<'a> {
    /// Nothing unless the products can run on the matrix unit.
    pub(in crate::cpu) fn new(
        cpu: &Cpu,
        x: FloatRef<'_>,
        weight: WeightRef<'a>,
        hidden: usize,
    ) -> Option<Self> {
        match (x, weight) {
            (FloatRef::Bf16(_), WeightRef::Dense(FloatRef::Bf16(values)))
                if cpu.amx && hidden > 0 && hidden.is_multiple_of(RUN) =>
            {
                Some(Self { values, hidden })
            }
            _ => None,
        }
    }

    /// Prepares hidden states `[tokens, hidden]`, widened from bf16.
    pub(in crate::cpu) fn hidden(self, cpu: &Cpu, x: &[f32]) -> Result<Hidden> {
        Rows::split(cpu, x, (x.len() / self.hidden, self.hidden), 1).map(Hidden)
    }

    fn rows(self, first: usize, n: usize) -> Dense<'a> {
        let k = self.hidden;
        Dense::new(&self.values[first * k..], n, k)
    }

    /// `out = x . W^T` `[tokens, n]` for rows `first..first + n` of the head.
    pub(in crate::cpu) fn logits(self, x: &Hidden, (first, n): (usize, usize), out: &mut [f32]) {
        let source = Transposed(self.rows(first, n));
        product::sequential(Operands { rows: &x.0, source: &source }, FloatMut::F32(out), n, false);
    }

    /// `out [+]= d . W` `[tokens, hidden]` for `d` `[tokens, n]` and rows `first..first + n` of the head.
    pub(in crate::cpu) fn gradient(
        self,
        cpu: &Cpu,
        d: &[f32],
        (first, n): (usize, usize),
        out: &mut [f32],
        accumulate: bool,
    ) -> Result<()> {
        let rows = Rows::split(cpu, d, (d.len() / n, n), 2)?;
        let source = Straight { weight: self.rows(first, n), copies: 2 };
        debug_assert_eq!(source.depth(), 2 * n.next_multiple_of(super::tile::STEP));
        product::sequential(Operands { rows: &rows, source: &source }, FloatMut::F32(out), self.hidden, accumulate);
        Ok(())
    }
}
