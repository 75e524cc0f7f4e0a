//! The adapter's own products: activations by factors of a small rank.

use super::matmul::{matmul, rows, size, transposed};
use super::params::{
    DTYPE_BF16, DTYPE_F32, DropoutMask, Factor, Kernel, LORA_GRADIENT_16, LORA_GRADIENT_32,
    LORA_GRADIENT_64, LORA_SHRINK_16, LORA_SHRINK_32, LORA_SHRINK_64, LoraParams, MASK_A, MASK_B,
    MASK_NONE, MatmulParams, Tensor,
};
use super::{Cuda, matvec};
use crate::Result;

const THREADS: u32 = 256;
/// Rows of a block of `lora_shrink`, columns of one of `lora_gradient`.
const ROWS: usize = 32;
const COLS: usize = 64;
/// Ranks of a block, by kernel.
const RANKS: [usize; 3] = [16, 32, 64];

/// Activations `[m, k]`, dropped out by the mask.
#[derive(Debug, Clone, Copy)]
pub(super) struct Activations {
    pub(super) x: Tensor,
    pub(super) mask: Option<DropoutMask>,
    pub(super) m: usize,
    pub(super) k: usize,
}

/// How a matrix of an adapter lies in memory.
#[derive(Debug, Clone, Copy)]
pub(super) enum Layout {
    /// `[rank, k]`, as `A`.
    RankByK,
    /// `[k, rank]`, as `B`.
    KByRank,
}

impl Layout {
    /// Elements from one rank, and from one k, to the next.
    fn steps(self, rank: usize, k: usize) -> (u64, u64) {
        match self {
            Self::RankByK => (k as u64, 1),
            Self::KByRank => (1, rank as u64),
        }
    }
}

impl Activations {
    /// The tensor-core kernels take bf16 whose rows begin at multiples of 16 bytes, and give f32.
    fn tiled(&self, out: Tensor) -> bool {
        let &Self { x, m, k, .. } = self;
        x.dtype == DTYPE_BF16 && out.dtype == DTYPE_F32 && k % 8 == 0 && m.max(k) < 1 << 31
    }

    /// Which factor is masked, with the mask.
    fn masked(&self, factor: u32) -> (u32, DropoutMask) {
        self.mask.map_or((MASK_NONE, DropoutMask::default()), |mask| (factor, mask))
    }

    /// Parameters of the tensor-core kernels.
    fn params(
        &self,
        factor: Tensor,
        out: Tensor,
        rank: usize,
        layout: Layout,
        alpha: f32,
    ) -> LoraParams {
        let (rank_step, k_step) = layout.steps(rank, self.k);
        let mask = self.mask.unwrap_or_default();
        LoraParams {
            factor,
            x: self.x.data,
            out: out.data,
            mask,
            rank_step,
            k_step,
            m: self.m as u32,
            k: self.k as u32,
            rank: rank as u32,
            masked: self.mask.is_some().into(),
            alpha: self.mask.map_or(alpha, |mask| alpha * mask.keep),
            ..LoraParams::default()
        }
    }

    /// `out = x . factor^T`, f32 `[m, rank]`.
    pub(super) fn shrink(
        &self,
        cuda: &Cuda,
        (factor, layout): (Tensor, Layout),
        rank: usize,
        out: Tensor,
    ) -> Result<()> {
        let &Self { x, m, k, .. } = self;
        let (col, row) = layout.steps(rank, k);
        let b = Factor { tensor: factor, row, col };
        let (masked, mask) = self.masked(MASK_A);
        let product = MatmulParams { a: rows(x, k), b, out, masked, mask, ..size(m, rank, k) };
        if matvec::run(cuda, &product)? {
            return Ok(());
        }
        if self.tiled(out) {
            let params = self.params(factor, out, rank, layout, 1.0);
            let kernels = [LORA_SHRINK_16, LORA_SHRINK_32, LORA_SHRINK_64];
            return launch(cuda, &kernels, &params, m.div_ceil(ROWS));
        }
        matmul(cuda, &product)
    }

    /// `out += alpha . small^T . x` for `small` `[m, rank]`.
    pub(super) fn gradient(
        &self,
        cuda: &Cuda,
        small: Tensor,
        rank: usize,
        (out, layout): (Tensor, Layout),
        alpha: f32,
    ) -> Result<()> {
        let &Self { x, m, k, .. } = self;
        if self.tiled(out) {
            let params = self.params(small, out, rank, layout, alpha);
            let kernels = [LORA_GRADIENT_16, LORA_GRADIENT_32, LORA_GRADIENT_64];
            return launch(cuda, &kernels, &params, k.div_ceil(COLS));
        }
        let (a, b, masked, size) = match layout {
            Layout::RankByK => (transposed(small, rank), rows(x, k), MASK_B, size(rank, k, m)),
            Layout::KByRank => (transposed(x, k), rows(small, rank), MASK_A, size(k, rank, m)),
        };
        let (masked, mask) = self.masked(masked);
        matmul(cuda, &MatmulParams { a, b, out, masked, mask, alpha, accumulate: 1, ..size })
    }
}

fn launch(
    cuda: &Cuda,
    kernels: &[Kernel<LoraParams>; 3],
    params: &LoraParams,
    blocks: usize,
) -> Result<()> {
    let rank = params.rank as usize;
    let wide = RANKS.iter().position(|&ranks| rank <= ranks).unwrap_or(RANKS.len() - 1);
    let grid = [blocks, rank.div_ceil(RANKS[wide]), 1];
    cuda.driver().launch(&kernels[wide], params, grid, THREADS, 0)
}
