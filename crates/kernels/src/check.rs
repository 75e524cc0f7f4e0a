//! Checks of parameters and operands that every backend makes.

use std::ops::Range;

use crate::ops::{AdamW, AdamWFactors, Attention, Dropout, Linear, Rope};
use crate::{Backend, Buffer, Error, Result};

/// Name of an operation, to check its operands under.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Op(pub(crate) &'static str);

/// Rows of q, and rows of k and v, of one sequence.
#[derive(Debug, Clone)]
pub(crate) struct Sequence {
    pub(crate) q: Range<usize>,
    pub(crate) k: Range<usize>,
}

/// Numbers of queries and keys of each sequence.
pub(crate) fn lengths(sequences: &[Sequence]) -> impl Iterator<Item = (usize, usize)> {
    sequences.iter().map(|sequence| (sequence.q.len(), sequence.k.len()))
}

/// Bounds of the sequences as an operation has them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds<'a> {
    pub(crate) q_start: &'a [u32],
    pub(crate) k_start: &'a [u32],
    pub(crate) k_len: &'a [u32],
    pub(crate) q_tokens: usize,
    pub(crate) k_tokens: usize,
}

impl Op {
    pub(crate) fn len(self, operand: &'static str, actual: usize, expected: usize) -> Result<()> {
        if actual == expected {
            return Ok(());
        }
        Err(Error::Length { op: self.0, operand, expected, actual })
    }

    /// Every index is a row of a table of `len` rows.
    pub(crate) fn indices(self, indices: &[u32], len: usize) -> Result<()> {
        match indices.iter().position(|&i| i as usize >= len) {
            None => Ok(()),
            Some(position) => {
                Err(Error::Index { op: self.0, index: indices[position] as usize, position, len })
            }
        }
    }

    pub(crate) fn require(self, condition: bool, what: impl FnOnce() -> String) -> Result<()> {
        if condition {
            return Ok(());
        }
        Err(Error::Parameter { op: self.0, what: what() })
    }

    /// A linear reads an input `[m, k]`, as others do.
    pub(crate) fn one_input<K: Backend>(
        self,
        op: &Linear<'_, K>,
        (m, k): (usize, usize),
    ) -> Result<()> {
        self.require((op.m, op.k) == (m, k), || {
            format!("a linear of {} x {} beside others of {m} x {k}", op.m, op.k)
        })
    }

    pub(crate) fn dtype(self, operand: &'static str, buffer: &impl Buffer) -> Error {
        Error::DType { op: self.0, operand, actual: buffer.dtype() }
    }

    pub(crate) fn rope(self, op: Rope) -> Result<()> {
        let Rope { heads, head_dim, .. } = op;
        self.require(head_dim > 0 && head_dim.is_multiple_of(2), || {
            format!("head_dim {head_dim} is not a positive even number")
        })?;
        self.require(heads > 0, || "no heads".into())
    }

    pub(crate) fn dropout(self, dropout: Dropout) -> Result<()> {
        let p = dropout.p;
        self.require((0.0..1.0).contains(&p), || {
            format!("dropout probability {p} is outside [0, 1)")
        })
    }

    pub(crate) fn attention(self, op: Attention) -> Result<()> {
        let Attention { heads, kv_heads, head_dim, .. } = op;
        self.require(kv_heads > 0 && heads > 0 && heads.is_multiple_of(kv_heads), || {
            format!("{heads} query heads cannot share {kv_heads} key heads")
        })?;
        self.require(head_dim > 0, || "head_dim is 0".into())?;
        self.require(op.window != Some(0), || "a window of 0 keys hides every key".into())?;
        self.require(op.softcap.is_none_or(|cap| cap > 0.0), || "softcap is not positive".into())
    }

    /// The step's factors, once its number is known to make sense.
    pub(crate) fn adamw(self, op: AdamW) -> Result<AdamWFactors> {
        self.require(op.step > 0, || "steps are counted from 1".into())?;
        Ok(op.factors())
    }

    /// The sequences, once their bounds are known to make sense.
    pub(crate) fn sequences(self, bounds: Bounds<'_>) -> Result<Vec<Sequence>> {
        let Bounds { q_start, k_start, k_len, q_tokens, k_tokens } = bounds;
        let count = k_len.len();
        self.require(q_start[0] == 0 && q_start[count] as usize == q_tokens, || {
            format!("the sequences' queries do not cover the {q_tokens} rows of q")
        })?;
        let sequence = |i: usize| {
            let q = q_start[i] as usize..q_start[i + 1] as usize;
            let start = k_start[i] as usize;
            let k = start..start + k_len[i] as usize;
            self.require(q.start <= q.end && q.end <= q_tokens && k.end <= k_tokens, || {
                format!("sequence {i} has queries {q:?} of {q_tokens} and keys {k:?} of {k_tokens}")
            })?;
            self.require(q.len() <= k.len(), || {
                format!("sequence {i} has {} queries but {} keys", q.len(), k.len())
            })?;
            Ok(Sequence { q, k })
        };
        (0..count).map(sequence).collect()
    }
}
