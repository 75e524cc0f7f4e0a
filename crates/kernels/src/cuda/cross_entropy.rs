//! Output projection and cross-entropy over chunks of trained tokens.

use super::matmul::{matmul, rows, transposed};
use super::params::{
    CROSS_ENTROPY, CrossEntropyParams, GATHER_ROWS, GatherParams, MatmulParams, SCATTER_ROWS,
    ScatterParams, Tensor,
};
use super::rows::upload_ids;
use super::{Cuda, CudaBuffer};
use crate::check::Op;
use crate::ops::{IGNORE, LinearCrossEntropy};
use crate::{Buffer, Error, Result};

/// Logits held at a time (64 MiB).
const LOGITS: usize = 16 << 20;
/// Most tokens of a chunk.
const MAX_TOKENS: usize = 1024;
/// Fewest tokens of a chunk, however large the vocabulary.
const MIN_TOKENS: usize = 64;
const THREADS: u32 = 256;

/// Checked operands.
struct Checked<'a> {
    op: &'a LinearCrossEntropy<'a, Cuda>,
    weight: Tensor,
    scales: super::params::BlockScales,
    x: Tensor,
    labels: u64,
    token_loss: u64,
    dx: Option<Tensor>,
}

pub(super) fn run(
    cuda: &Cuda,
    op: &LinearCrossEntropy<'_, Cuda>,
    x: &CudaBuffer,
    labels: &CudaBuffer,
    token_loss: &mut CudaBuffer,
    dx: Option<&mut CudaBuffer>,
) -> Result<()> {
    let name = Op("linear_cross_entropy");
    let &LinearCrossEntropy { tokens, hidden, vocab, .. } = op;
    name.require(hidden > 0 && vocab > 0, || "the head is empty".into())?;
    let (weight, scales) = name.weight(op.weight, vocab, hidden)?;
    let checked = Checked {
        op,
        weight,
        scales,
        x: name.tensor("x", x, tokens * hidden)?,
        labels: labels.address(),
        token_loss: name.single("token_loss", token_loss, tokens)?,
        dx: dx.as_ref().map(|dx| name.tensor("dx", dx, tokens * hidden)).transpose()?,
    };
    let trained = trained(name, &name.words("labels", labels, tokens)?, vocab)?;
    cuda.driver().zero(checked.token_loss, token_loss.size())?;
    if let Some(dx) = dx {
        cuda.driver().zero(dx.address(), dx.bytes())?;
    }
    for ids in trained.chunks((LOGITS / vocab).clamp(MIN_TOKENS, MAX_TOKENS)) {
        checked.chunk(cuda, ids)?;
    }
    Ok(())
}

/// Rows whose label counts.
fn trained(name: Op, labels: &[u32], vocab: usize) -> Result<Vec<u32>> {
    let counted = labels.iter().enumerate().filter(|(_, label)| **label != IGNORE);
    let row = |(position, &label): (usize, &u32)| {
        if (label as usize) < vocab {
            return Ok(position as u32);
        }
        Err(Error::Index { op: name.0, index: label as usize, position, len: vocab })
    };
    counted.map(row).collect()
}

impl Checked<'_> {
    fn chunk(&self, cuda: &Cuda, rows_of: &[u32]) -> Result<()> {
        let &LinearCrossEntropy { hidden, vocab, grad_scale, .. } = self.op;
        let (count, driver) = (rows_of.len(), cuda.driver());
        let ids = upload_ids(cuda, rows_of)?;
        let picked = cuda.scratch(count * hidden)?;
        let logits = cuda.scratch(count * vocab)?;
        let gather = GatherParams {
            table: self.x,
            out: picked.tensor(),
            ids: ids.address(),
            rows: count as u64,
            cols: hidden as u64,
        };
        driver.launch(&GATHER_ROWS, &gather, [count, 1, 1], THREADS, 0)?;
        let product = MatmulParams {
            scales: self.scales,
            alpha: 1.0,
            m: count as u64,
            ..MatmulParams::default()
        };
        matmul(
            cuda,
            &MatmulParams {
                a: rows(picked.tensor(), hidden),
                b: transposed(self.weight, hidden),
                out: logits.tensor(),
                n: vocab as u64,
                k: hidden as u64,
                ..product
            },
        )?;
        let params = CrossEntropyParams {
            logits: logits.address(),
            labels: self.labels,
            ids: ids.address(),
            token_loss: self.token_loss,
            vocab: vocab as u64,
            rows: count as u32,
            gradient: self.dx.is_some().into(),
            grad_scale,
            reserved: 0,
        };
        driver.launch(&CROSS_ENTROPY, &params, [count, 1, 1], THREADS, 0)?;
        let Some(dx) = self.dx else { return Ok(()) };
        matmul(
            cuda,
            &MatmulParams {
                a: rows(logits.tensor(), vocab),
                b: rows(self.weight, hidden),
                out: picked.tensor(),
                n: hidden as u64,
                k: vocab as u64,
                ..product
            },
        )?;
        let scatter = ScatterParams {
            x: picked.tensor(),
            out: dx,
            ids: ids.address(),
            rows: count as u64,
            cols: hidden as u64,
        };
        driver.launch(&SCATTER_ROWS, &scatter, [count, 1, 1], THREADS, 0)
    }
}
