//! The parameters a configuration implies, under their Hugging Face names.

use super::ModelConfig;

/// One linear layer of the decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearShape {
    /// Module name, `model.layers.0.self_attn.q_proj`.
    pub module: String,
    /// Rows of the weight.
    pub out_features: usize,
    /// Columns of the weight.
    pub in_features: usize,
    /// Whether it has a bias.
    pub bias: bool,
}

impl ModelConfig {
    /// The seven linear layers of every decoder layer, in the order they are used; the output head is not one of them.
    pub fn linears(&self) -> Vec<LinearShape> {
        let (hidden, mlp) = (self.hidden_size, self.intermediate_size);
        let (query, key_value) = (self.query_size(), self.key_value_size());
        let kinds = [
            ("self_attn.q_proj", query, hidden, self.qkv_bias),
            ("self_attn.k_proj", key_value, hidden, self.qkv_bias),
            ("self_attn.v_proj", key_value, hidden, self.qkv_bias),
            ("self_attn.o_proj", hidden, query, self.o_bias),
            ("mlp.gate_proj", mlp, hidden, self.mlp_bias),
            ("mlp.up_proj", mlp, hidden, self.mlp_bias),
            ("mlp.down_proj", hidden, mlp, self.mlp_bias),
        ];
        (0..self.num_hidden_layers)
            .flat_map(|layer| {
                kinds.map(|(name, out_features, in_features, bias)| LinearShape {
                    module: format!("model.layers.{layer}.{name}"),
                    out_features,
                    in_features,
                    bias,
                })
            })
            .collect()
    }

    /// Name and shape of every parameter of a checkpoint; `lm_head.weight` only when the head is not tied.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let hidden = self.hidden_size;
        let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, hidden])];
        for linear in self.linears() {
            all.push((
                format!("{}.weight", linear.module),
                vec![linear.out_features, linear.in_features],
            ));
            if linear.bias {
                all.push((format!("{}.bias", linear.module), vec![linear.out_features]));
            }
        }
        for layer in 0..self.num_hidden_layers {
            let prefix = format!("model.layers.{layer}");
            all.push((format!("{prefix}.input_layernorm.weight"), vec![hidden]));
            all.push((format!("{prefix}.post_attention_layernorm.weight"), vec![hidden]));
            if self.qk_norm {
                all.push((format!("{prefix}.self_attn.q_norm.weight"), vec![self.head_dim]));
                all.push((format!("{prefix}.self_attn.k_norm.weight"), vec![self.head_dim]));
            }
        }
        all.push(("model.norm.weight".to_owned(), vec![hidden]));
        if !self.tie_word_embeddings {
            all.push(("lm_head.weight".to_owned(), vec![self.vocab_size, hidden]));
        }
        all
    }
}
