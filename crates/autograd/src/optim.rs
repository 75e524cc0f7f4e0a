//! `AdamW` with decoupled decay, and global-norm clipping.

use kernels::ops::{AdamW as Step, AdamWTensor};
use kernels::{Backend, Buffer, DType, MemoryKind};

use crate::{Error, ParamGrads, Params, Result};

/// Constants of [`AdamW`] (Loshchilov and Hutter 2019).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
}

/// Optimizer with f32 moments.
#[derive(Debug)]
pub struct AdamW<K: Backend> {
    config: AdamWConfig,
    moments: Vec<[K::Buffer; 2]>,
    step: u64,
}

impl<K: Backend> AdamW<K> {
    /// Zero moments for every parameter.
    pub fn new(backend: &K, params: &Params<K>, config: AdamWConfig) -> Result<Self> {
        let zeros = |len| backend.zeros(DType::F32, len, MemoryKind::Optimizer);
        let moments = params
            .iter()
            .map(|p| Ok([zeros(p.value.len())?, zeros(p.value.len())?]))
            .collect::<Result<_>>()?;
        Ok(Self { config, moments, step: 0 })
    }

    /// Updates the parameters with the learning rate of this step; gradients are multiplied by
    /// `grad_scale` (see [`clip_factor`]).
    pub fn step(
        &mut self,
        backend: &K,
        params: &mut Params<K>,
        grads: &ParamGrads<K>,
        lr: f32,
        grad_scale: f32,
    ) -> Result<()> {
        for (what, actual) in
            [("gradients", grads.buffers().len()), ("optimizer state", self.moments.len())]
        {
            if actual != params.len() {
                return Err(Error::ParamCount { what, actual, expected: params.len() });
            }
        }
        self.step += 1;
        let AdamWConfig { beta1, beta2, eps, weight_decay } = self.config;
        let op = Step { lr, beta1, beta2, eps, weight_decay, step: self.step, grad_scale };
        let mut tensors: Vec<AdamWTensor<'_, K>> = params
            .iter_mut()
            .zip(grads.buffers())
            .zip(&mut self.moments)
            .map(|((param, grad), [m, v])| AdamWTensor { param: &mut param.value, grad, m, v })
            .collect();
        Ok(backend.adamw(op, &mut tensors)?)
    }
}

/// What to multiply gradients of global norm `norm` by so that it is at most `max_norm`, as torch's
/// `clip_grad_norm_` does.
pub fn clip_factor(norm: f64, max_norm: Option<f64>) -> f32 {
    max_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0) as f32)
}
