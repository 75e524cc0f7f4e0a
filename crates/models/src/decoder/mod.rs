//! The decoder: frozen weights on a backend, and the forward pass over them.

mod diagnose;
mod finite;
mod forward;
mod inputs;
mod keep;
mod load;
mod lora;
mod projection;

use std::sync::{Arc, Mutex};

use autograd::FrozenLinear;
use kernels::Backend;
use kernels::ops::RopeTable;

pub use diagnose::Stage;
pub use forward::ForwardOptions;
pub use inputs::Inputs;
pub(crate) use inputs::Span;
pub use keep::{Keep, Part};
pub use load::{BaseFormat, LoadOptions};
pub use lora::Adapter;
pub use projection::Projection;

use crate::ModelConfig;

/// A Llama-family decoder with frozen weights.
#[derive(Debug)]
pub struct Decoder<K: Backend> {
    backend: K,
    config: ModelConfig,
    /// `None` when the output head is the embedding table.
    embedding: Option<K::Buffer>,
    layers: Vec<Layer<K>>,
    final_norm: K::Buffer,
    head: FrozenLinear<K>,
    /// The rotary table that was used last.
    rope: Mutex<Option<CachedRope<K>>>,
}

#[derive(Debug)]
struct CachedRope<K: Backend> {
    table: Arc<RopeTable<K>>,
    /// The only sequence length that the frequencies are for; `None` when they are for any that the table reaches.
    only_for: Option<usize>,
}

/// One decoder layer.
#[derive(Debug)]
struct Layer<K: Backend> {
    attention_norm: K::Buffer,
    mlp_norm: K::Buffer,
    /// `[head_dim]` each, where queries and keys are normalised by head.
    qk_norm: Option<[K::Buffer; 2]>,
    projections: [FrozenLinear<K>; Projection::ALL.len()],
}

impl<K: Backend> Layer<K> {
    fn projection(&self, p: Projection) -> &FrozenLinear<K> {
        &self.projections[p as usize]
    }
}

impl<K: Backend> Decoder<K> {
    /// What the weights are shaped by.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where the weights live.
    pub fn backend(&self) -> &K {
        &self.backend
    }
}
