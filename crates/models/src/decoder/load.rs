//! From a checkpoint to weights on a backend, one tensor at a time.

use std::sync::Mutex;

use autograd::{FrozenLinear, FrozenWeight};
use half::bf16;
use kernels::{Backend, HostSlice, MemoryKind};
use nf4::{Elements, QuantConfig};

use super::finite::first_not_finite;
use super::{Decoder, Layer, Projection};
use crate::{Error, HostData, HostTensor, ModelConfig, Result, TensorSource};

/// How the decoder layers' linears are held. Weights that come in 4 bit stay as they are.
#[derive(Debug, Clone, PartialEq)]
pub enum BaseFormat {
    /// 4-bit blocks, quantised while loading.
    Quantized(QuantConfig),
    /// As in the file: f32 or bf16 (f16 becomes f32).
    Dense,
}

/// Options of [`Decoder::load`].
pub struct LoadOptions<'a> {
    /// How linears are held.
    pub format: BaseFormat,
    /// Hold in bf16 what the checkpoint has in f32 or f16 and is not quantised - the head and the
    /// embeddings - where the backend multiplies bf16 fastest.
    pub narrow: bool,
    /// Called after each tensor with the number done and the number of all.
    pub progress: &'a dyn Fn(usize, usize),
}

impl<K: Backend> Decoder<K> {
    /// Reads every weight of `config` from `source`. Each tensor is converted and dropped before the
    /// next is read, so the 16-bit model is never in memory as a whole. [`Checkpoint::open`] has checked
    /// that all tensors of the model are there and no others.
    ///
    /// [`Checkpoint::open`]: crate::Checkpoint::open
    pub fn load(
        backend: &K,
        source: &dyn TensorSource,
        config: &ModelConfig,
        options: &LoadOptions<'_>,
    ) -> Result<Self> {
        let mut loader = Loader { backend, source, options, done: 0 };
        let decoder = Self {
            backend: backend.clone(),
            embedding: if config.tie_word_embeddings {
                None
            } else {
                Some(loader.table("model.embed_tokens.weight", config)?)
            },
            layers: (0..config.num_hidden_layers)
                .map(|index| loader.layer(index, config))
                .collect::<Result<_>>()?,
            final_norm: loader.vector("model.norm.weight", config.hidden_size)?,
            head: FrozenLinear {
                weight: FrozenWeight::Dense(loader.table(head_name(config), config)?),
                bias: None,
                in_features: config.hidden_size,
                out_features: config.vocab_size,
            },
            rope: Mutex::new(None),
            config: config.clone(),
        };
        source.release_all();
        Ok(decoder)
    }
}

fn head_name(config: &ModelConfig) -> &'static str {
    if config.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" }
}

struct Loader<'a, K> {
    backend: &'a K,
    source: &'a dyn TensorSource,
    options: &'a LoadOptions<'a>,
    done: usize,
}

impl<'a, K: Backend> Loader<'a, K> {
    fn layer(&mut self, index: usize, config: &ModelConfig) -> Result<Layer<K>> {
        let name = |part: &str| format!("model.layers.{index}.{part}.weight");
        let hidden = config.hidden_size;
        let mut projections = Vec::with_capacity(Projection::ALL.len());
        for p in Projection::ALL {
            projections.push(self.linear(&p.module(index), p, config)?);
        }
        Ok(Layer {
            attention_norm: self.vector(&name("input_layernorm"), hidden)?,
            mlp_norm: self.vector(&name("post_attention_layernorm"), hidden)?,
            qk_norm: if config.qk_norm {
                Some([
                    self.vector(&name("self_attn.q_norm"), config.head_dim)?,
                    self.vector(&name("self_attn.k_norm"), config.head_dim)?,
                ])
            } else {
                None
            },
            projections: projections.try_into().unwrap_or_else(|_| unreachable!("one for each")),
        })
    }

    fn linear(
        &mut self,
        module: &str,
        p: Projection,
        config: &ModelConfig,
    ) -> Result<FrozenLinear<K>> {
        let [out_features, in_features] = p.shape(config);
        let name = format!("{module}.weight");
        let tensor = self.read(&name, &[out_features, in_features])?;
        let weight = match (tensor.data, &self.options.format) {
            (HostData::Quantized(q), _) => {
                FrozenWeight::Quantized(self.backend.upload_quantized(q)?)
            }
            (data, BaseFormat::Dense) => {
                FrozenWeight::Dense(self.dense(&name, &data, MemoryKind::Weights)?)
            }
            (HostData::F32(x), BaseFormat::Quantized(c)) => {
                self.quantize(&name, Elements::F32(&x), &tensor.shape, c)?
            }
            (HostData::Bf16(x), BaseFormat::Quantized(c)) => {
                self.quantize(&name, Elements::Bf16(&x), &tensor.shape, c)?
            }
            (HostData::F16(x), BaseFormat::Quantized(c)) => {
                self.quantize(&name, Elements::F16(&x), &tensor.shape, c)?
            }
        };
        self.source.release(&name);
        let bias = p
            .has_bias(config)
            .then(|| self.vector(&format!("{module}.bias"), out_features))
            .transpose()?;
        Ok(FrozenLinear { weight, bias, in_features, out_features })
    }

    fn quantize(
        &self,
        name: &str,
        weight: Elements<'_>,
        shape: &[usize],
        config: &QuantConfig,
    ) -> Result<FrozenWeight<K>> {
        match self.backend.quantize(name, weight, shape, config) {
            Ok(weight) => Ok(FrozenWeight::Quantized(weight)),
            Err(kernels::Error::Quantize(nf4::Error::NonFinite { index, value, .. })) => {
                Err(self.not_finite(name, index, value))
            }
            Err(kernels::Error::Quantize(error)) => Err(self.error(name, error.to_string())),
            Err(error) => Err(error.into()),
        }
    }

    /// The embedding table or the output head, `[vocab_size, hidden_size]`.
    fn table(&mut self, name: &str, config: &ModelConfig) -> Result<K::Buffer> {
        let tensor = self.read(name, &[config.vocab_size, config.hidden_size])?;
        if let HostData::Quantized(_) = tensor.data {
            return Err(self.error(name, "embeddings and heads in 4 bit are not supported"));
        }
        let table = self.dense(name, &tensor.data, MemoryKind::Embeddings);
        drop(tensor);
        self.source.release(name);
        table
    }

    /// A norm weight or a bias, held in f32.
    fn vector(&mut self, name: &str, len: usize) -> Result<K::Buffer> {
        let tensor = self.read(name, &[len])?;
        if let HostData::Quantized(_) = tensor.data {
            return Err(self.error(name, "vectors in 4 bit are not supported"));
        }
        let values = tensor.to_f32();
        self.upload(name, HostSlice::F32(&values), MemoryKind::Weights)
    }

    fn dense(&self, name: &str, data: &HostData<'_>, kind: MemoryKind) -> Result<K::Buffer> {
        let slice = match data {
            HostData::F32(x) if self.options.narrow => {
                let narrow: Vec<bf16> = x.iter().map(|x| bf16::from_f32(*x)).collect();
                return self.upload(name, HostSlice::Bf16(&narrow), kind);
            }
            HostData::F16(x) if self.options.narrow => {
                let narrow: Vec<bf16> = x.iter().map(|x| bf16::from_f32(x.to_f32())).collect();
                return self.upload(name, HostSlice::Bf16(&narrow), kind);
            }
            HostData::F32(x) => HostSlice::F32(x),
            HostData::Bf16(x) => HostSlice::Bf16(x),
            HostData::F16(x) => {
                let wide: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
                return self.upload(name, HostSlice::F32(&wide), kind);
            }
            HostData::Quantized(_) => unreachable!("callers keep 4-bit weights packed"),
        };
        self.upload(name, slice, kind)
    }

    /// Refuses what is not finite; a dry run's zeros are not looked at, as that would touch them.
    fn upload(&self, name: &str, values: HostSlice<'_>, kind: MemoryKind) -> Result<K::Buffer> {
        if !self.backend.is_dry_run()
            && let Some((index, value)) = first_not_finite(values)
        {
            return Err(self.not_finite(name, index, value));
        }
        Ok(self.backend.upload(values, kind)?)
    }

    fn read(&mut self, name: &str, shape: &[usize]) -> Result<HostTensor<'a>> {
        let source: &'a dyn TensorSource = self.source;
        let tensor = source.read(name)?.expect_shape(source.path(), name, shape)?;
        self.done += 1;
        (self.options.progress)(self.done, source.names().len());
        Ok(tensor)
    }

    fn not_finite(&self, name: &str, index: usize, value: f32) -> Error {
        let path = self.source.file(name).to_owned();
        Error::NotFinite { path, name: name.to_owned(), index, value }
    }

    fn error(&self, name: &str, message: impl Into<String>) -> Error {
        Error::tensor(self.source.path(), name, message)
    }
}
