//! [`ModelConfig`] from GGUF metadata.

use super::{GgufFile, ROPE_FREQS, dequant::dequantize};
use crate::{
    Architecture, Error, ModelConfig, Result, RopeConfig, RopeScaling,
    config::{MAX_HEAD_DIM, MAX_LAYERS, in_range},
};

/// Settings below `llama.` and the like that are read, or that repeat what the tensors say.
const KNOWN: &[&str] = &[
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "expert_count",
    "expert_used_count",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.attn_factor",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "vocab_size",
];

/// The wavelength bounds and training context of every Llama 3.1, 3.2 and 3.3; a GGUF file has only their result.
const LLAMA3_LOW_FREQ_FACTOR: f64 = 1.0;
const LLAMA3_HIGH_FREQ_FACTOR: f64 = 4.0;
const LLAMA3_CONTEXT: usize = 8192;

impl GgufFile {
    /// The model configuration that the metadata and the tensors describe.
    pub fn config(&self) -> Result<ModelConfig> {
        let hidden_size = self.required_size("embedding_length")?;
        let num_attention_heads = self.required_size("attention.head_count")?;
        let layers = self.required_size("block_count")?;
        let num_hidden_layers =
            in_range(self.path(), &self.key("block_count"), layers, MAX_LAYERS)?;
        let head_dim = self.head_dim(hidden_size, num_attention_heads)?;
        let max_position_embeddings = self.required_size("context_length")?;
        let vocab_size = self.vocab_size()?;
        self.refuse_experts()?;
        let config = ModelConfig {
            architecture: self.architecture,
            hidden_size,
            intermediate_size: self.required_size("feed_forward_length")?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads: self
                .size("attention.head_count_kv")?
                .unwrap_or(num_attention_heads),
            head_dim,
            vocab_size,
            max_position_embeddings,
            rms_norm_eps: self.required_number("attention.layer_norm_rms_epsilon")? as f32,
            rope: self.rope(head_dim, max_position_embeddings)?,
            tie_word_embeddings: !self.tensors.contains_key("lm_head.weight"),
            qkv_bias: self.has("self_attn.q_proj.bias"),
            o_bias: self.has("self_attn.o_proj.bias"),
            mlp_bias: self.has("mlp.gate_proj.bias"),
            qk_norm: self.has("self_attn.q_norm.weight"),
            sliding_window: vec![self.sliding_window()?; num_hidden_layers],
            bos_token_id: self.vocab_id("bos", vocab_size)?,
            eos_token_ids: self.eos_token_ids(vocab_size)?,
            pad_token_id: self.vocab_id("padding", vocab_size)?,
            dtype: Some(self.dtype),
            quantization: None,
            warnings: self.warnings()?,
        };
        config.validated(self.path())
    }

    /// Token ids that end a generation: end of sequence, of turn and of message.
    pub(crate) fn eos_token_ids(&self, vocab_size: usize) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for kind in ["eos", "eot", "eom"] {
            ids.extend(self.vocab_id(kind, vocab_size)?.filter(|id| !ids.contains(id)));
        }
        Ok(ids)
    }

    /// A special token's id, which must be in the vocabulary.
    pub(crate) fn vocab_id(&self, kind: &str, vocab_size: usize) -> Result<Option<u32>> {
        let key = format!("tokenizer.ggml.{kind}_token_id");
        match self.token_id(&key)? {
            Some(id) if id as usize >= vocab_size => {
                let message = format!("is {id}, but the vocabulary has {vocab_size} tokens");
                Err(Error::field(self.path(), key, message))
            }
            id => Ok(id),
        }
    }

    /// The longest sequence the model was made for.
    pub(crate) fn context_length(&self) -> Result<Option<usize>> {
        self.size("context_length")
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix())
    }

    /// `general.architecture`.
    fn prefix(&self) -> &'static str {
        match self.architecture {
            Architecture::Mistral => Architecture::Llama.model_type(),
            other => other.model_type(),
        }
    }

    fn size(&self, name: &str) -> Result<Option<usize>> {
        self.uint(&self.key(name))
    }

    fn required_size(&self, name: &str) -> Result<usize> {
        self.required(&self.key(name), self.size(name)?)
    }

    fn number(&self, name: &str) -> Result<Option<f64>> {
        self.float(&self.key(name))
    }

    fn required_number(&self, name: &str) -> Result<f64> {
        self.required(&self.key(name), self.number(name)?)
    }

    fn has(&self, parameter: &str) -> bool {
        self.tensors.contains_key(&format!("model.layers.0.{parameter}"))
    }

    fn unsupported<T>(&self, name: &str, message: String) -> Result<T> {
        Err(Error::field(self.path(), self.key(name), message))
    }

    fn head_dim(&self, hidden_size: usize, heads: usize) -> Result<usize> {
        let given = self.size("attention.key_length")?;
        let head_dim = given.or_else(|| hidden_size.checked_div(heads)).unwrap_or(0);
        let field =
            given.map_or_else(|| "head_dim".to_owned(), |_| self.key("attention.key_length"));
        in_range(self.path(), &field, head_dim, MAX_HEAD_DIM)?;
        for name in ["attention.value_length", "rope.dimension_count"] {
            match self.size(name)? {
                Some(width) if width != head_dim => {
                    return self.unsupported(
                        name,
                        format!("is {width}; only the head width {head_dim} is supported"),
                    );
                }
                _ => {}
            }
        }
        Ok(head_dim)
    }

    fn vocab_size(&self) -> Result<usize> {
        let name = "model.embed_tokens.weight";
        match self.tensors.get(name) {
            Some(&index) => Ok(self.header.tensors[index].shape[0]),
            None => Err(Error::tensor(self.path(), name, "not in the file")),
        }
    }

    fn refuse_experts(&self) -> Result<()> {
        match self.size("expert_count")? {
            None | Some(0) => Ok(()),
            Some(n) => self.unsupported(
                "expert_count",
                format!("is {n}; mixtures of experts are not supported"),
            ),
        }
    }

    fn sliding_window(&self) -> Result<Option<usize>> {
        let name = "attention.sliding_window";
        match self.size(name)?.filter(|&window| window > 0) {
            Some(window) if self.prefix() != "llama" => {
                let message = format!(
                    "is {window}; which layers it holds for is not known for {}",
                    self.prefix()
                );
                self.unsupported(name, message)
            }
            window => Ok(window),
        }
    }

    fn rope(&self, head_dim: usize, max_position_embeddings: usize) -> Result<RopeConfig> {
        let theta = self.number("rope.freq_base")?.unwrap_or(10_000.0);
        let scaling = match self.rope_factors()? {
            Some(factors) => frequency_scaling(theta, head_dim, factors),
            None => self.rope_scaling(max_position_embeddings)?,
        };
        Ok(RopeConfig { theta, scaling })
    }

    /// The contents of `rope_freqs.weight`.
    fn rope_factors(&self) -> Result<Option<Vec<f32>>> {
        let Some(tensor) = self.header.tensors.iter().find(|tensor| tensor.name == ROPE_FREQS)
        else {
            return Ok(None);
        };
        let Some(encoding) = tensor.ty.encoding else {
            return Err(Error::tensor(
                self.path(),
                ROPE_FREQS,
                format!("stored as {}", tensor.ty.name),
            ));
        };
        let kind = self.key("rope.scaling.type");
        if let Some(found) =
            self.string(&kind)?.filter(|found| !matches!(*found, "none" | "llama3"))
        {
            let message =
                format!("is `{found}`, and the file has {ROPE_FREQS} as well; only one can be");
            return Err(Error::field(self.path(), kind, message));
        }
        let mut factors = vec![0.0; tensor.shape.iter().product()];
        dequantize(encoding, &self.file[tensor.range.clone()], &mut factors);
        Ok(Some(factors))
    }

    fn rope_scaling(&self, max_position_embeddings: usize) -> Result<RopeScaling> {
        let kind = self.string(&self.key("rope.scaling.type"))?;
        let linear = self.number("rope.scale_linear")?.filter(|&factor| factor != 1.0);
        match (kind, linear) {
            (None | Some("none"), None) => Ok(RopeScaling::Default),
            (None, Some(factor)) => Ok(RopeScaling::Linear { factor }),
            (Some("linear"), _) => {
                Ok(RopeScaling::Linear { factor: self.required_number("rope.scaling.factor")? })
            }
            (Some("yarn"), _) => self.yarn(max_position_embeddings),
            (Some(other), _) => self.unsupported(
                "rope.scaling.type",
                format!("is `{other}`; supported are none, linear and yarn"),
            ),
        }
    }

    fn yarn(&self, max_position_embeddings: usize) -> Result<RopeScaling> {
        for name in ["rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor"] {
            match self.number(name)? {
                None | Some(1.0) => {}
                Some(found) => {
                    return self.unsupported(name, format!("is {found}; only 1 is supported"));
                }
            }
        }
        Ok(RopeScaling::Yarn {
            factor: self.required_number("rope.scaling.factor")?,
            original_max_position_embeddings: self
                .size("rope.scaling.original_context_length")?
                .unwrap_or(max_position_embeddings),
            attention_factor: None,
            beta_fast: self.number("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: self.number("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            mscale: None,
            mscale_all_dim: None,
            truncate: true,
        })
    }

    fn warnings(&self) -> Result<Vec<String>> {
        let prefix = format!("{}.", self.prefix());
        let settings = self.header.metadata.keys().filter_map(|key| key.strip_prefix(&prefix));
        let mut warnings: Vec<_> = settings
            .filter(|name| !KNOWN.contains(name))
            .map(|name| format!("metadata `{prefix}{name}` is not understood and has no effect"))
            .collect();
        let pre = "tokenizer.ggml.pre";
        if self.string(pre)? == Some("default") {
            warnings.push(format!(
                "metadata `{pre}` = \"default\" does not say how text is cut; GPT-2's rule is used, and token ids may \
                 differ from the original tokenizer's"
            ));
        }
        if self.architecture == Architecture::Mistral && self.sliding_window()?.is_none() {
            warnings.push(
                "the file names no sliding window; attention reaches over the whole sequence"
                    .to_owned(),
            );
        }
        Ok(warnings)
    }
}

/// Llama 3 scaling where its rule gives these divisors, so that `config.json` can express it; else the divisors.
fn frequency_scaling(theta: f64, head_dim: usize, factors: Vec<f32>) -> RopeScaling {
    let Some(&factor) = factors.last() else { return RopeScaling::FrequencyFactors(factors) };
    let llama3 = RopeScaling::Llama3 {
        factor: f64::from(factor),
        low_freq_factor: LLAMA3_LOW_FREQ_FACTOR,
        high_freq_factor: LLAMA3_HIGH_FREQ_FACTOR,
        original_max_position_embeddings: LLAMA3_CONTEXT,
    };
    let stored = RopeScaling::FrequencyFactors(factors);
    let frequencies = |scaling: &RopeScaling| {
        let rope = RopeConfig { theta, scaling: scaling.clone() };
        rope.tables(1, head_dim, LLAMA3_CONTEXT).0
    };
    let (by_rule, by_file) = (frequencies(&llama3), frequencies(&stored));
    let agree = by_rule.len() == by_file.len()
        && by_rule.iter().zip(&by_file).all(|(rule, file)| (rule - file).abs() <= 1e-5 * rule);
    if agree { llama3 } else { stored }
}
