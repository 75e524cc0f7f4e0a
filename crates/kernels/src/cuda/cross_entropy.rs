//! Output projection and cross-entropy over chunks of trained tokens.

use super::matmul::{frozen, rows, size, transposed};
use super::params::{
    CROSS_ENTROPY, CrossEntropyParams, DTYPE_BF16, DTYPE_F32, GATHER_ROWS, GRADIENT_BF16,
    GRADIENT_F32, GRADIENT_NONE, GatherParams, MatmulParams, SCATTER_ROWS, ScatterParams, Tensor,
};
use super::rows::upload_ids;
use super::{Cuda, CudaBuffer};
use crate::check::Op;
use crate::ops::{IGNORE, LinearCrossEntropy};
use crate::{Backend, Buffer, DType, Error, MemoryKind, Result};

/// Logits held at a time (256 MiB): with a vocabulary of 128 Ki, a chunk of 512 tokens. Its product
/// with the head, the deepest of all, has a tile for most multiprocessors.
const LOGITS: usize = 64 << 20;
/// Most tokens of a chunk.
const MAX_TOKENS: usize = 1024;
/// Rows of a tile: chunks are whole ones.
const TILE: usize = 128;
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
    cuda.count_flops(name.0, op.flops(trained.len(), dx.is_some()));
    cuda.driver().zero(checked.token_loss, token_loss.size())?;
    if let Some(dx) = dx {
        cuda.driver().zero(dx.address(), dx.bytes())?;
    }
    let tokens = (LOGITS / vocab).clamp(TILE, MAX_TOKENS) / TILE * TILE;
    for ids in trained.chunks(tokens) {
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
    /// Type in which hidden states and logits' gradients meet the head: bf16 as the head's for the
    /// tensor cores, where the hidden states are bf16 too. Logits are f32.
    fn dtype(&self) -> DType {
        let narrow = [self.x, self.weight].iter().all(|x| x.dtype == DTYPE_BF16);
        if narrow { DType::Bf16 } else { DType::F32 }
    }

    fn chunk(&self, cuda: &Cuda, rows_of: &[u32]) -> Result<()> {
        let &LinearCrossEntropy { hidden, vocab, grad_scale, .. } = self.op;
        let (count, driver, dtype) = (rows_of.len(), cuda.driver(), self.dtype());
        let scratch = |dtype, len| cuda.alloc(dtype, len, MemoryKind::Workspace);
        let ids = upload_ids(cuda, rows_of)?;
        let picked = scratch(dtype, count * hidden)?;
        let stride = vocab.next_multiple_of(4);
        let logits = scratch(DType::F32, count * stride)?;
        let gather = GatherParams {
            table: self.x,
            out: picked.tensor(),
            ids: ids.address(),
            rows: count as u64,
            cols: hidden as u64,
        };
        driver.launch(&GATHER_ROWS, &gather, [count, 1, 1], THREADS, 0)?;
        let product = MatmulParams {
            a: rows(picked.tensor(), hidden),
            b: transposed(self.weight, hidden),
            scales: self.scales,
            out: logits.tensor(),
            out_stride: stride as u64,
            ..size(count, vocab, hidden)
        };
        frozen(cuda, &[product])?;
        let gradient = match (self.dx, dtype) {
            (None, _) => GRADIENT_NONE,
            (_, DType::Bf16) => GRADIENT_BF16,
            _ => GRADIENT_F32,
        };
        let params = CrossEntropyParams {
            logits: logits.address(),
            labels: self.labels,
            ids: ids.address(),
            token_loss: self.token_loss,
            rows: count as u32,
            vocab: vocab as u32,
            stride: stride as u32,
            gradient,
            grad_scale,
            reserved: 0,
        };
        driver.launch(&CROSS_ENTROPY, &params, [count, 1, 1], THREADS, 0)?;
        let Some(dx) = self.dx else { return Ok(()) };
        // The gradient lies where the logits were.
        let a = match dtype {
            DType::Bf16 => rows(Tensor { dtype: DTYPE_BF16, ..logits.tensor() }, 2 * stride),
            _ => rows(Tensor { dtype: DTYPE_F32, ..logits.tensor() }, stride),
        };
        let product = MatmulParams {
            a,
            b: rows(self.weight, hidden),
            scales: self.scales,
            out: picked.tensor(),
            ..size(count, hidden, vocab)
        };
        frozen(cuda, &[product])?;
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
