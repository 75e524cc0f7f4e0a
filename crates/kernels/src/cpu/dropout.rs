//! The mask of LoRA dropout.

use super::check::Op;
use crate::ops::Dropout;
use crate::{Philox, Result};

/// Multiplies elements by 0 or by `1 / (1 - p)`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mask {
    philox: Philox,
    threshold: u32,
    keep: f32,
}

impl Mask {
    pub(super) fn new(op: Op, dropout: Dropout) -> Result<Self> {
        let p = dropout.p;
        op.require((0.0..1.0).contains(&p), || {
            format!("dropout probability {p} is outside [0, 1)")
        })?;
        Ok(Self {
            philox: Philox::new(dropout.key, dropout.stream),
            threshold: dropout.threshold(),
            keep: 1.0 / (1.0 - p),
        })
    }

    /// Masks elements `start..start + x.len()` of the whole tensor.
    pub(super) fn apply(&self, start: usize, x: &mut [f32]) {
        let head = (start.wrapping_neg() % 4).min(x.len());
        let (head, rest) = x.split_at_mut(head);
        let first = start + head.len();
        for (i, x) in head.iter_mut().enumerate() {
            *x *= self.factor(self.philox.word((start + i) as u64));
        }
        for (i, four) in rest.chunks_mut(4).enumerate() {
            let words = self.philox.block((first / 4 + i) as u64);
            for (x, word) in four.iter_mut().zip(words) {
                *x *= self.factor(word);
            }
        }
    }

    const fn factor(&self, word: u32) -> f32 {
        if word >= self.threshold { self.keep } else { 0.0 }
    }
}
