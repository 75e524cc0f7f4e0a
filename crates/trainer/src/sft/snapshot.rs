//! A trainer's state, copied to the host and back.

use std::sync::Arc;

use anyhow::Result;
use kernels::Backend;

use super::SftTrainer;
use crate::checkpoint::{AdapterFiles, Checkpoint, RunState, Snapshot};

impl<K: Backend> SftTrainer<'_, K> {
    /// Copies everything to the host that a run needs to go on from `state`.
    pub(super) fn snapshot(
        &self,
        mut state: RunState,
        recipe: &Arc<str>,
        base_model: &str,
    ) -> Result<Snapshot> {
        // The adapter and two moments of each parameter, in the memory that a step left.
        let sizes = self.adapter.params().iter().map(|param| param.shape.iter().product::<usize>());
        let parameters: usize = sizes.sum();
        self.decoder.backend().give_back(3 * size_of::<f32>() * parameters);
        let optimizer = self.optimizer.state(self.decoder.backend())?;
        let names = self.adapter.params().iter().map(|param| param.name.clone());
        state.updates = optimizer.step;
        state.passes = self.passes;
        state.recent_losses = self.recent_losses().to_vec();
        Ok(Snapshot {
            adapter: Arc::new(AdapterFiles {
                config: self.adapter.config().clone(),
                base_model: base_model.to_owned(),
                weights: self.adapter.weights(self.decoder)?,
            }),
            moments: names.zip(optimizer.moments).collect(),
            state,
            recipe: Arc::clone(recipe),
        })
    }

    /// Goes on from a checkpoint, whose adapter this trainer was made with.
    pub(super) fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let params = self.adapter.params();
        let optimizer = checkpoint.optimizer(params)?;
        self.optimizer.restore(self.decoder.backend(), params, &optimizer)?;
        self.steps = checkpoint.state.step;
        self.passes = checkpoint.state.passes;
        self.set_recent_losses(checkpoint.state.recent_losses.clone());
        Ok(())
    }
}
