//! Rotary position embedding.

use std::sync::Arc;

use kernels::ops::{Rope, RopeTable};
use kernels::{Backend, MemoryKind};

use crate::tape::{Slot, unshare};
use crate::{Result, Tape, Tensor, Var};

impl<K: Backend> Tape<'_, K> {
    /// Rotates `[tokens, heads * head_dim]` by the angles of `positions` (u32 `[tokens]`), in place where nobody else
    /// holds it: neither this backward nor those of what it is made by read it.
    pub fn rope(
        &mut self,
        x: Var<K>,
        head_dim: usize,
        table: &Arc<RopeTable<K>>,
        positions: &Arc<K::Buffer>,
    ) -> Result<Var<K>> {
        let (tokens, shape) = (x.tensor.rows(), x.tensor.shape().to_vec());
        let op = Rope { tokens, heads: x.tensor.cols() / head_dim, head_dim, inverse: false };
        let (table, positions) = (Arc::clone(table), Arc::clone(positions));
        let rotate = move |backend: &K, inverse, x, kind| -> Result<K::Buffer> {
            let mut x = unshare(backend, x, kind)?;
            backend.rope(Rope { inverse, ..op }, &table, &positions, &mut x)?;
            Ok(x)
        };
        let (slot, needs_grad) = (Slot::of(&x), x.requires_grad());
        // An operand that is not going to be needed would hold it.
        let operand = self.remakes().then(|| self.operand(&x));
        let kind = MemoryKind::Activations;
        let out = rotate(self.backend(), false, x.tensor.into_buffer(), kind)?;
        let out = Tensor::new(out, &shape);
        let again = rotate.clone();
        let value = operand.and_then(|operand| {
            self.remake(1, move |backend| {
                let x = operand.get(backend)?.into_buffer();
                let out = again(backend, false, x, MemoryKind::Recomputed)?;
                Ok(vec![Tensor::new(out, &shape)])
            })
        });
        Ok(self.push(out, value, needs_grad, move |pass, grad| {
            let dx = rotate(&pass.backend, true, grad, MemoryKind::ActivationGradients)?;
            pass.give(&slot, dx.into())
        }))
    }
}
