//! Rotary position embedding.

use std::sync::Arc;

use kernels::ops::{Rope, RopeTable};
use kernels::{Backend, Buffer, MemoryKind};

use crate::tape::Slot;
use crate::{Result, Tape, Tensor, Var};

impl<K: Backend> Tape<'_, K> {
    /// Rotates `[tokens, heads * head_dim]` by the angles of `positions` (u32 `[tokens]`).
    pub fn rope(
        &mut self,
        x: &Var<K>,
        head_dim: usize,
        table: &Arc<RopeTable<K>>,
        positions: &Arc<K::Buffer>,
    ) -> Result<Var<K>> {
        let (tokens, shape) = (x.tensor.rows(), x.tensor.shape().to_vec());
        let op = Rope { tokens, heads: x.tensor.cols() / head_dim, head_dim, inverse: false };
        let (table, positions) = (Arc::clone(table), Arc::clone(positions));
        let rotate = move |backend: &K, inverse, x: &K::Buffer, kind| -> Result<K::Buffer> {
            let mut out = backend.alloc(x.dtype(), x.len(), kind)?;
            backend.rope(Rope { inverse, ..op }, &table, &positions, x, &mut out)?;
            Ok(out)
        };
        let kind = MemoryKind::Activations;
        let out = rotate(self.backend(), false, x.tensor.buffer(), kind)?;
        let out = Tensor::new(out, &shape);
        let (operand, again) = (self.operand(x), rotate.clone());
        let value = self.remake(1, move |backend| {
            let x = operand.get(backend)?;
            let out = again(backend, false, x.buffer(), MemoryKind::Recomputed)?;
            Ok(vec![Tensor::new(out, &shape)])
        });
        let slot = Slot::of(x);
        Ok(self.push(out, value, x.requires_grad(), move |pass, grad| {
            let dx = rotate(&pass.backend, true, &grad, MemoryKind::ActivationGradients)?;
            pass.give(&slot, dx.into())
        }))
    }
}
