//! The seven linears of a decoder layer.

use crate::ModelConfig;

/// A linear of a decoder layer; the order is that of the forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Projection {
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// Attention output.
    O,
    /// MLP gate.
    Gate,
    /// MLP up.
    Up,
    /// MLP down.
    Down,
}

impl Projection {
    /// All seven, in order.
    pub const ALL: [Self; 7] =
        [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// Name within its layer, as in Hugging Face's checkpoints.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q => "self_attn.q_proj",
            Self::K => "self_attn.k_proj",
            Self::V => "self_attn.v_proj",
            Self::O => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }

    /// Full module name in layer `layer`.
    pub fn module(self, layer: usize) -> String {
        format!("model.layers.{layer}.{}", self.name())
    }

    /// `[out_features, in_features]`.
    pub const fn shape(self, config: &ModelConfig) -> [usize; 2] {
        let (hidden, mlp) = (config.hidden_size, config.intermediate_size);
        let q = config.num_attention_heads * config.head_dim;
        let kv = config.num_key_value_heads * config.head_dim;
        match self {
            Self::Q => [q, hidden],
            Self::K | Self::V => [kv, hidden],
            Self::O => [hidden, q],
            Self::Gate | Self::Up => [mlp, hidden],
            Self::Down => [hidden, mlp],
        }
    }

    /// Whether it has a bias.
    pub const fn has_bias(self, config: &ModelConfig) -> bool {
        match self {
            Self::Q | Self::K | Self::V => config.qkv_bias,
            Self::O => config.o_bias,
            Self::Gate | Self::Up | Self::Down => config.mlp_bias,
        }
    }
}

/// Every linear of a decoder with its shape, in forward order; the output head is not among them.
pub(crate) fn all_linears(
    config: &ModelConfig,
) -> impl Iterator<Item = (usize, Projection, [usize; 2])> {
    (0..config.num_hidden_layers)
        .flat_map(|layer| Projection::ALL.map(|p| (layer, p, p.shape(config))))
}
