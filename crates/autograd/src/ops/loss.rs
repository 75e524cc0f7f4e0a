//! Output head and cross-entropy in one.

use kernels::ops::LinearCrossEntropy;
use kernels::{Backend, DType, MemoryKind};

use crate::{FrozenLinear, Result, Tape, Tensor, Var};

/// Negative log-probability of each token's label, 0 where ignored.
#[derive(Debug)]
pub struct TokenLosses {
    /// One for each token.
    pub values: Vec<f32>,
}

impl TokenLosses {
    /// Sum over all tokens, in order.
    pub fn sum(&self) -> f64 {
        self.values.iter().map(|&x| f64::from(x)).sum()
    }
}

impl<K: Backend> Tape<'_, K> {
    /// Cross-entropy of `hidden . head^T` against `labels` (u32, [`IGNORE`] skips). On a recording
    /// tape this starts the backward pass: the gradient of `grad_scale * sum of losses`.
    ///
    /// [`IGNORE`]: kernels::ops::IGNORE
    pub fn linear_cross_entropy(
        &mut self,
        hidden: &Var<K>,
        head: &FrozenLinear<K>,
        labels: &K::Buffer,
        grad_scale: f32,
    ) -> Result<TokenLosses> {
        let op = LinearCrossEntropy {
            tokens: hidden.tensor.rows(),
            hidden: hidden.tensor.cols(),
            vocab: head.out_features,
            weight: head.weight.operand(),
            grad_scale,
        };
        let mut losses = self.alloc(DType::F32, op.tokens)?;
        let wants_grad = self.is_recording() && hidden.requires_grad();
        let mut dx = wants_grad
            .then(|| {
                let (dtype, len) = (hidden.tensor.dtype(), hidden.tensor.len());
                self.backend().alloc(dtype, len, MemoryKind::ActivationGradients)
            })
            .transpose()?;
        let x = hidden.tensor.buffer();
        self.backend().linear_cross_entropy(&op, x, labels, &mut losses, dx.as_mut())?;
        if let Some(dx) = dx {
            self.seed(hidden, dx);
        }
        Ok(TokenLosses { values: self.backend().download(&losses)? })
    }

    /// Rows `ids` of a value, off the tape: the hidden states that text is generated from.
    pub fn pick_rows(&self, x: &Var<K>, ids: &K::Buffer, rows: usize) -> Result<Var<K>> {
        let cols = x.tensor.cols();
        let mut out = self.alloc(x.tensor.dtype(), rows * cols)?;
        self.backend().gather_rows(x.tensor.buffer(), ids, cols, &mut out)?;
        Ok(Var::constant(Tensor::new(out, &[rows, cols])))
    }
}
