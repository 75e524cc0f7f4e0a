//! Recompute (gradient checkpointing): keep a block's input, run the block again in the backward.
//!
//! Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".

use kernels::Backend;

use crate::tape::Slot;
use crate::{Result, Tape, Var};

impl<'m, K: Backend> Tape<'m, K> {
    /// Runs `block` on `x` and keeps nothing but `x`: the backward runs it again on a tape of its
    /// own. The block must not depend on anything that changes before the backward.
    pub fn checkpoint(
        &mut self,
        x: &Var<K>,
        block: impl Fn(&mut Tape<'m, K>, &Var<K>) -> Result<Var<K>> + 'm,
    ) -> Result<Var<K>> {
        let recording = self.pause();
        let output = block(self, x);
        self.resume(recording);
        let output = output?.tensor;

        let (slot, input, precision) = (Slot::of(x), x.tensor.clone(), self.precision());
        Ok(self.push(output, true, move |pass, grad| {
            let mut inner = Tape::training(&pass.backend, precision);
            let x = if slot.wanted() { inner.leaf(input) } else { Var::constant(input) };
            let output = block(&mut inner, &x)?;
            let (out, leaf) = (Slot::of(&output), x.node);
            if !out.wanted() {
                return Ok(());
            }
            drop((x, output));
            let mut grads = inner.run_backward(vec![(out, grad)], pass.params)?;
            match leaf.and_then(|leaf| grads[leaf.0].take()) {
                Some(dx) => pass.give(&slot, dx),
                None => Ok(()),
            }
        }))
    }
}
