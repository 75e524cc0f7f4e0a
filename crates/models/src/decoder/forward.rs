//! The forward pass, once for training, evaluation and generation.

use std::sync::Arc;

use autograd::{AdaptedLinear, Params, Tape, Tensor, TokenLosses, Var};
use kernels::ops::{Activation, Attention, Dropout};
use kernels::trace::span;
use kernels::{Backend, DType, MemoryKind};

use super::{Adapter, Decoder, Inputs, Keep, Layer, Projection, Stage};
use crate::Result;
use crate::generate::LayerCache;

/// Options of one training forward pass.
#[derive(Debug, Clone, Default)]
pub struct ForwardOptions {
    /// What the backward finds of each layer; everything for layers beyond.
    pub keep: Arc<[Keep]>,
    /// Key of the run's dropout; `None` trains without.
    pub dropout_key: Option<u64>,
    /// Number of this forward pass within the run, so that each draws other masks.
    pub pass: u64,
}

/// What every layer of one forward pass needs.
struct Pass<'m, K: Backend> {
    inputs: &'m Inputs<K>,
    adapter: Option<&'m Adapter<K>>,
    options: ForwardOptions,
}

impl<K: Backend> Decoder<K> {
    /// Runs all layers and the final norm: `[tokens, hidden_size]`.
    pub fn hidden<'m>(
        &'m self,
        tape: &mut Tape<'m, K>,
        inputs: &'m Inputs<K>,
        adapter: Option<&'m Adapter<K>>,
        options: ForwardOptions,
    ) -> Result<Var<K>> {
        self.stages(tape, inputs, adapter, options, |_, _| Ok(()))
    }

    /// [`hidden`](Self::hidden), and shows what comes out of each stage.
    pub(super) fn stages<'m>(
        &'m self,
        tape: &mut Tape<'m, K>,
        inputs: &'m Inputs<K>,
        adapter: Option<&'m Adapter<K>>,
        options: ForwardOptions,
        mut show: impl FnMut(Stage, &Var<K>) -> Result<()>,
    ) -> Result<Var<K>> {
        let pass = Pass { inputs, adapter, options };
        let mut x = self.embed(tape, inputs)?;
        for index in 0..self.layers.len() {
            let _layer = self.backend.layer(index);
            if !pass.keep(index).input {
                x = tape.put_away(x)?;
            }
            x = self.layer(tape, &x, index, &pass, None)?;
            show(Stage::Layer(index), &x)?;
        }
        let x = tape.rms_norm(&x, &self.final_norm, self.config.rms_norm_eps)?;
        show(Stage::FinalNorm, &x)?;
        Ok(x)
    }

    /// As [`hidden`](Self::hidden), with keys and values read from and appended to a cache.
    pub(crate) fn hidden_cached<'m>(
        &'m self,
        tape: &mut Tape<'m, K>,
        inputs: &'m Inputs<K>,
        adapter: Option<&'m Adapter<K>>,
        cache: &mut [LayerCache<K>],
    ) -> Result<Var<K>> {
        let pass = Pass { inputs, adapter, options: ForwardOptions::default() };
        let mut x = self.embed(tape, inputs)?;
        for (index, cache) in cache.iter_mut().enumerate() {
            x = self.layer(tape, &x, index, &pass, Some(cache))?;
        }
        Ok(tape.rms_norm(&x, &self.final_norm, self.config.rms_norm_eps)?)
    }

    /// Loss of each token against `labels` (`kernels::ops::IGNORE` skips). On a recording tape this
    /// starts the backward pass of `grad_scale * sum of losses`.
    pub fn losses<'m>(
        &'m self,
        tape: &mut Tape<'m, K>,
        hidden: &Var<K>,
        labels: &[u32],
        grad_scale: f32,
    ) -> Result<TokenLosses> {
        let labels = self.upload(labels)?;
        Ok(tape.linear_cross_entropy(hidden, &self.head, &labels, grad_scale)?)
    }

    /// Logits of the rows `rows` of `hidden`: f32 `[rows, vocab_size]` on the host.
    pub fn logits<'m>(
        &'m self,
        tape: &mut Tape<'m, K>,
        hidden: &Var<K>,
        rows: &[u32],
    ) -> Result<Vec<f32>> {
        let picked = tape.pick_rows(hidden, &self.upload(rows)?, rows.len())?;
        let logits = tape.linear_as(DType::F32, &picked, &self.head, None, None)?;
        Ok(self.backend.download(logits.tensor().buffer())?)
    }

    fn embed<'m>(&'m self, tape: &mut Tape<'m, K>, inputs: &Inputs<K>) -> Result<Var<K>> {
        let table = self.embedding.as_ref().unwrap_or_else(|| self.head_table());
        Ok(tape.embed(table, self.config.hidden_size, &inputs.ids)?)
    }

    fn head_table(&self) -> &K::Buffer {
        match &self.head.weight {
            autograd::FrozenWeight::Dense(table) => table,
            autograd::FrozenWeight::Quantized(_) => unreachable!("heads are loaded dense"),
        }
    }

    fn layer<'m>(
        &'m self,
        tape: &mut Tape<'m, K>,
        x: &Var<K>,
        index: usize,
        pass: &Pass<'m, K>,
        cache: Option<&mut LayerCache<K>>,
    ) -> autograd::Result<Var<K>> {
        let _span = span(|| format!("layer {index}"));
        let (layer, eps) = (&self.layers[index], self.config.rms_norm_eps);
        let adapted = |p| {
            let (adapter, dropout) = pass.adapter_of(index, p);
            AdaptedLinear { linear: layer.projection(p), adapter, dropout }
        };
        let keep = pass.keep(index);
        tape.keep(keep.norms);
        let h = tape.rms_norm(x, &layer.attention_norm, eps)?;
        tape.keep(keep.qkv);
        let qkv = [Projection::Q, Projection::K, Projection::V].map(adapted);
        let [q, k, v] = tape.linears(&h, qkv)?;
        drop(h);
        let (q, k) = self.position(tape, layer, q, k, pass.inputs)?;
        tape.keep(keep.attention);
        let op = self.attention_op(index);
        let o = match cache {
            None => tape.attention(op, &pass.inputs.sequences, &q, &k, &v)?,
            Some(cache) => self.attend_cached(op, pass.inputs, cache, [&q, &k, &v])?,
        };
        drop((q, k, v));
        tape.keep(keep.residual);
        let [o] = tape.linears(&o, [adapted(Projection::O)])?;
        let kept = [keep.residual, keep.norms];
        let (x, h) = tape.add_rms_norm(x, &o, &layer.mlp_norm, eps, kept)?;
        drop(o);

        tape.keep(keep.gate_up);
        let gate_up = [Projection::Gate, Projection::Up].map(adapted);
        let down = tape.mlp(Activation::Silu, &h, gate_up, adapted(Projection::Down))?;
        drop(h);
        // The next layer's input.
        tape.keep(true);
        tape.add(&x, &down)
    }

    /// Normalises queries and keys by head where the model does, and rotates them.
    fn position<'m>(
        &'m self,
        tape: &mut Tape<'m, K>,
        layer: &'m Layer<K>,
        mut q: Var<K>,
        mut k: Var<K>,
        inputs: &Inputs<K>,
    ) -> autograd::Result<(Var<K>, Var<K>)> {
        let head_dim = self.config.head_dim;
        if let Some([q_norm, k_norm]) = &layer.qk_norm {
            let mut by_head = |x: Var<K>, norm| -> autograd::Result<Var<K>> {
                let shape = x.tensor().shape().to_vec();
                let x = x.reshape(&[shape.iter().product::<usize>() / head_dim, head_dim]);
                Ok(tape.rms_norm(&x, norm, self.config.rms_norm_eps)?.reshape(&shape))
            };
            (q, k) = (by_head(q, q_norm)?, by_head(k, k_norm)?);
        }
        let mut rotate = |x| tape.rope(x, head_dim, &inputs.rope, &inputs.positions);
        Ok((rotate(q)?, rotate(k)?))
    }

    fn attention_op(&self, layer: usize) -> Attention {
        let config = &self.config;
        Attention {
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            scale: 1.0 / (config.head_dim as f32).sqrt(),
            window: config.sliding_window[layer],
            softcap: None,
        }
    }

    /// Appends keys and values to the cache and attends to all of it; off the tape.
    fn attend_cached(
        &self,
        op: Attention,
        inputs: &Inputs<K>,
        cache: &mut LayerCache<K>,
        [q, k, v]: [&Var<K>; 3],
    ) -> autograd::Result<Var<K>> {
        cache.append(&self.backend, k.tensor().buffer(), v.tensor().buffer())?;
        let (q, alloc) =
            (q.tensor(), |dtype, len| self.backend.alloc(dtype, len, MemoryKind::Activations));
        let mut o = alloc(q.dtype(), q.len())?;
        let mut lse = alloc(DType::F32, inputs.tokens * op.heads)?;
        let (k, v) = cache.buffers();
        self.backend.attention(op, &inputs.sequences, q.buffer(), k, v, &mut o, &mut lse)?;
        Ok(Var::constant(Tensor::new(o, q.shape())))
    }
}

impl<'m, K: Backend> Pass<'m, K> {
    /// What is kept of a layer.
    fn keep(&self, layer: usize) -> Keep {
        self.options.keep.get(layer).copied().unwrap_or_default()
    }

    /// The adapter of a linear and the dropout on its input.
    fn adapter_of(
        &self,
        layer: usize,
        p: Projection,
    ) -> (Option<(autograd::LoraLinear, &'m Params<K>)>, Option<Dropout>) {
        let Some((adapter, lora)) =
            self.adapter.and_then(|adapter| Some((adapter, adapter.get(layer, p)?)))
        else {
            return (None, None);
        };
        let linear = (layer * Projection::ALL.len() + p as usize) as u64;
        let p = adapter.config().lora_dropout as f32;
        let dropout = self.options.dropout_key.filter(|_| p > 0.0).map(|key| Dropout {
            p,
            key,
            stream: (self.options.pass << 24) | linear,
        });
        (Some((lora, adapter.params())), dropout)
    }
}
