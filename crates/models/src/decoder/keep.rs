//! What a training step keeps of each layer's forward.

use std::sync::Arc;

/// What of a decoder layer is kept for its backward; the rest is computed again there, from the input.
/// Gradients are the same bits whatever is kept.
///
/// Sizes are for each token, with bf16 activations and an f32 residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Keep {
    /// Both norms' outputs, `4 hidden` bytes: a pass over memory to make again.
    pub norms: bool,
    /// Rotated queries and keys, and values, `2 (q + 2 kv)` bytes: three products.
    pub qkv: bool,
    /// Attention's output, `2 q` bytes: attention.
    pub attention: bool,
    /// The residual stream after attention, `4 hidden` bytes: the output projection.
    pub residual: bool,
    /// The MLP's two projections, `4 intermediate` bytes: two products.
    pub gate_up: bool,
    /// The layer's input, `4 hidden` bytes, on the device; otherwise it is put away in the host's memory.
    pub input: bool,
}

/// One of the things that may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// [`Keep::norms`].
    Norms,
    /// [`Keep::qkv`].
    Qkv,
    /// [`Keep::attention`].
    Attention,
    /// [`Keep::residual`].
    Residual,
    /// [`Keep::gate_up`].
    GateUp,
    /// [`Keep::input`].
    Input,
}

impl Part {
    /// What can be computed again, in forward order.
    pub const COMPUTED: [Self; 5] =
        [Self::Norms, Self::Qkv, Self::Attention, Self::Residual, Self::GateUp];

    /// As its field is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Norms => "norms",
            Self::Qkv => "qkv",
            Self::Attention => "attention",
            Self::Residual => "residual",
            Self::GateUp => "gate_up",
            Self::Input => "input",
        }
    }
}

impl Keep {
    /// Everything.
    pub const ALL: Self = Self {
        norms: true,
        qkv: true,
        attention: true,
        residual: true,
        gate_up: true,
        input: true,
    };

    /// Nothing but the layer's input: gradient checkpointing.
    pub const NOTHING: Self = Self {
        norms: false,
        qkv: false,
        attention: false,
        residual: false,
        gate_up: false,
        input: true,
    };

    /// Nothing at all: inputs are put away in the host's memory.
    pub const LEAST: Self = Self { input: false, ..Self::NOTHING };

    /// All but `part`.
    #[must_use]
    pub const fn without(mut self, part: Part) -> Self {
        match part {
            Part::Norms => self.norms = false,
            Part::Qkv => self.qkv = false,
            Part::Attention => self.attention = false,
            Part::Residual => self.residual = false,
            Part::GateUp => self.gate_up = false,
            Part::Input => self.input = false,
        }
        self
    }

    /// Whether `part` is kept.
    pub const fn has(self, part: Part) -> bool {
        match part {
            Part::Norms => self.norms,
            Part::Qkv => self.qkv,
            Part::Attention => self.attention,
            Part::Residual => self.residual,
            Part::GateUp => self.gate_up,
            Part::Input => self.input,
        }
    }

    /// Whether everything is kept of all layers.
    pub fn all_of(layers: &[Self]) -> bool {
        layers.iter().all(|keep| *keep == Self::ALL)
    }

    /// The same for each of `layers` layers.
    pub fn for_layers(self, layers: usize) -> Arc<[Self]> {
        std::iter::repeat_n(self, layers).collect()
    }
}

impl Default for Keep {
    fn default() -> Self {
        Self::ALL
    }
}
