//! Frozen linears and the adapters on them.

use kernels::Backend;
use kernels::ops::{Dropout, Lora, Weight};

use crate::{ParamId, Params};

/// A weight that never trains.
#[derive(Debug)]
pub enum FrozenWeight<K: Backend> {
    /// f32 or bf16, `[out, in]`.
    Dense(K::Buffer),
    /// 4-bit blocks, `[out, in]`.
    Quantized(K::QuantizedWeight),
}

impl<K: Backend> FrozenWeight<K> {
    /// As an operand.
    pub fn operand(&self) -> Weight<'_, K> {
        match self {
            Self::Dense(w) => Weight::Dense(w),
            Self::Quantized(w) => Weight::Quantized(w),
        }
    }
}

/// `y = x . W^T + bias`, frozen.
#[derive(Debug)]
pub struct FrozenLinear<K: Backend> {
    /// `[out_features, in_features]`.
    pub weight: FrozenWeight<K>,
    /// `[out_features]`.
    pub bias: Option<K::Buffer>,
    /// Columns of the input.
    pub in_features: usize,
    /// Columns of the output.
    pub out_features: usize,
}

/// The adapter of one linear: `scale * dropout(x) . A^T . B^T`.
#[derive(Debug, Clone, Copy)]
pub struct LoraLinear {
    /// `[r, in_features]`.
    pub a: ParamId,
    /// `[out_features, r]`.
    pub b: ParamId,
    /// Rank.
    pub r: usize,
    /// `lora_alpha / r`, or `lora_alpha / sqrt(r)` with rsLoRA.
    pub scale: f32,
}

/// A linear with its adapter and the dropout on what that reads.
#[derive(Debug)]
pub struct AdaptedLinear<'m, K: Backend> {
    /// The frozen part.
    pub linear: &'m FrozenLinear<K>,
    /// The adapter, and where its values are.
    pub adapter: Option<(LoraLinear, &'m Params<K>)>,
    /// Drawn on training tapes only.
    pub dropout: Option<Dropout>,
}

#[expect(clippy::expl_impl_clone_on_copy, reason = "a derive would ask for `K: Copy`")]
impl<K: Backend> Clone for AdaptedLinear<'_, K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K: Backend> Copy for AdaptedLinear<'_, K> {}

impl LoraLinear {
    /// As an operand, with the values in `params`.
    pub(crate) fn operand<'m, K: Backend>(
        &self,
        params: &'m Params<K>,
        dropout: Option<Dropout>,
    ) -> Lora<'m, K> {
        Lora {
            a: &params.get(self.a).value,
            b: &params.get(self.b).value,
            r: self.r,
            scale: self.scale,
            dropout,
        }
    }
}
