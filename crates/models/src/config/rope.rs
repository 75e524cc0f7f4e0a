//! Rotary position embedding: parameters and inverse frequencies.

/// Rotary position embedding parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the geometric frequency series.
    pub theta: f64,
    /// How the frequencies are stretched for long contexts.
    pub scaling: RopeScaling,
}

/// Context-extension rules, under the names of `rope_scaling.rope_type` in `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// No scaling.
    Default,
    /// Position interpolation: every frequency divided by `factor`.
    Linear {
        /// Stretch of the context.
        factor: f64,
    },
    /// Dynamic NTK: `theta` grows with sequences longer than `max_position_embeddings`.
    Dynamic {
        /// Stretch of the context.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// Stretch of the context.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are divided by `factor`.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context length of the pretraining.
        original_max_position_embeddings: usize,
    },
    /// `YaRN` (Peng et al. 2023): ramp by number of rotations, plus a scale on cos and sin.
    Yarn {
        /// Stretch of the context.
        factor: f64,
        /// Context length of the pretraining.
        original_max_position_embeddings: usize,
        /// Scale on cos and sin; derived from `factor` and the mscales when `None`.
        attention_factor: Option<f64>,
        /// Rotations above which a frequency is kept.
        beta_fast: f64,
        /// Rotations below which a frequency is divided by `factor`.
        beta_slow: f64,
        /// Numerator coefficient of the derived attention factor.
        mscale: Option<f64>,
        /// Denominator coefficient of the derived attention factor.
        mscale_all_dim: Option<f64>,
        /// Whether the ramp's ends are rounded to whole dimensions.
        truncate: bool,
    },
    /// One divisor per frequency, `head_dim / 2` of them, as GGUF files carry in `rope_freqs.weight`.
    FrequencyFactors(Vec<f32>),
}
