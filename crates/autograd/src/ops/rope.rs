//! Rotary position embedding.

use std::sync::Arc;

use kernels::Backend;
use kernels::ops::{Rope, RopeTable};

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
        let tokens = x.tensor.rows();
        let op = Rope { tokens, heads: x.tensor.cols() / head_dim, head_dim, inverse: false };
        let mut out = self.alloc(x.tensor.dtype(), x.tensor.len())?;
        self.backend().rope(op, table, positions, x.tensor.buffer(), &mut out)?;
        let out = Tensor::new(out, x.tensor.shape());
        let slot = Slot::of(x);
        let (table, positions) = (Arc::clone(table), Arc::clone(positions));
        Ok(self.push(out, x.requires_grad(), move |pass, grad| {
            let mut dx = pass.alloc(&slot)?;
            let op = Rope { inverse: true, ..op };
            pass.backend.rope(op, &table, &positions, &grad, &mut dx)?;
            pass.give(&slot, dx.into())
        }))
    }
}
