//! Rotary position embedding: parameters and inverse frequencies.

use std::{f32::consts::PI, path::Path};

use serde::Serialize;

use crate::{Error, Result};

/// Rotary position embedding parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the geometric frequency series.
    pub theta: f64,
    /// How the frequencies are stretched for long contexts.
    pub scaling: RopeScaling,
}

/// Context-extension rules, under the names of `rope_scaling.rope_type` in `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
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
        #[serde(skip_serializing_if = "Option::is_none")]
        attention_factor: Option<f64>,
        /// Rotations above which a frequency is kept.
        beta_fast: f64,
        /// Rotations below which a frequency is divided by `factor`.
        beta_slow: f64,
        /// Numerator coefficient of the derived attention factor.
        #[serde(skip_serializing_if = "Option::is_none")]
        mscale: Option<f64>,
        /// Denominator coefficient of the derived attention factor.
        #[serde(skip_serializing_if = "Option::is_none")]
        mscale_all_dim: Option<f64>,
        /// Whether the ramp's ends are rounded to whole dimensions.
        truncate: bool,
    },
    /// One divisor per frequency, `head_dim / 2` of them, as GGUF files carry in `rope_freqs.weight`.
    /// Has no counterpart in `config.json`.
    #[serde(skip)]
    FrequencyFactors(Vec<f32>),
}

impl RopeConfig {
    /// Inverse frequencies (`head_dim / 2` of them) and the scale on cos and sin, for sequences of up to `seq_len`
    /// tokens. Only dynamic scaling depends on `seq_len`.
    ///
    /// Follows transformers' `modeling_rope_utils.py`, in f32 where it uses f32 tensors.
    pub fn tables(
        &self,
        seq_len: usize,
        head_dim: usize,
        max_position_embeddings: usize,
    ) -> (Vec<f32>, f32) {
        let plain = inverse_frequencies(self.theta, head_dim);
        match &self.scaling {
            RopeScaling::Default => (plain, 1.0),
            RopeScaling::Linear { factor } => {
                (plain.iter().map(|f| f / *factor as f32).collect(), 1.0)
            }
            RopeScaling::Dynamic { factor } => {
                let theta =
                    dynamic_theta(self.theta, *factor, seq_len, head_dim, max_position_embeddings);
                (inverse_frequencies(theta, head_dim), 1.0)
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let ramp = Llama3Ramp {
                    factor: *factor as f32,
                    low: *low_freq_factor as f32,
                    high: *high_freq_factor as f32,
                    context: *original_max_position_embeddings as f32,
                };
                (plain.iter().map(|f| ramp.scale(*f)).collect(), 1.0)
            }
            RopeScaling::Yarn {
                factor,
                original_max_position_embeddings,
                attention_factor,
                beta_fast,
                beta_slow,
                mscale,
                mscale_all_dim,
                truncate,
            } => {
                let ramp = YarnRamp::new(
                    head_dim,
                    self.theta,
                    *original_max_position_embeddings,
                    (*beta_fast, *beta_slow),
                    *truncate,
                );
                let scaled = plain
                    .iter()
                    .enumerate()
                    .map(|(i, f)| ramp.blend(i, *f, *factor as f32))
                    .collect();
                let derived = || derived_attention_factor(*factor, *mscale, *mscale_all_dim);
                (scaled, attention_factor.unwrap_or_else(derived) as f32)
            }
            RopeScaling::FrequencyFactors(factors) => {
                (plain.iter().zip(factors).map(|(f, by)| f / by).collect(), 1.0)
            }
        }
    }

    /// Refuses parameters under which the frequencies are not finite and positive.
    pub(super) fn check(&self, head_dim: usize, path: &Path) -> Result<()> {
        let positive = |field: &str, value: f64| {
            if value.is_finite() && value > 0.0 {
                return Ok(());
            }
            Err(Error::field(
                path,
                format!("rope_scaling.{field}"),
                format!("is {value}; it must be positive"),
            ))
        };
        if !(self.theta.is_finite() && self.theta > 1.0) {
            return Err(Error::field(
                path,
                "rope_theta",
                format!("is {}; it must be above 1", self.theta),
            ));
        }
        match &self.scaling {
            RopeScaling::Default => Ok(()),
            RopeScaling::Dynamic { factor } if *factor < 1.0 => Err(Error::field(
                path,
                "rope_scaling.factor",
                format!("is {factor}; it must be at least 1"),
            )),
            RopeScaling::Dynamic { factor } if head_dim <= 2 => {
                let message = format!("is {factor}, but dynamic scaling needs a head_dim above 2");
                Err(Error::field(path, "rope_scaling.factor", message))
            }
            RopeScaling::Linear { factor } | RopeScaling::Dynamic { factor } => {
                positive("factor", *factor)
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                positive("factor", *factor)?;
                positive("low_freq_factor", *low_freq_factor)?;
                positive(
                    "high_freq_factor - low_freq_factor",
                    *high_freq_factor - *low_freq_factor,
                )?;
                positive(
                    "original_max_position_embeddings",
                    *original_max_position_embeddings as f64,
                )
            }
            RopeScaling::Yarn {
                factor,
                original_max_position_embeddings,
                beta_fast,
                beta_slow,
                ..
            } => {
                positive("factor", *factor)?;
                positive("beta_fast", *beta_fast)?;
                positive("beta_slow", *beta_slow)?;
                positive(
                    "original_max_position_embeddings",
                    *original_max_position_embeddings as f64,
                )
            }
            RopeScaling::FrequencyFactors(factors) if factors.len() != head_dim / 2 => {
                let message =
                    format!("has {} values, but head_dim / 2 is {}", factors.len(), head_dim / 2);
                Err(Error::field(path, "rope_freqs.weight", message))
            }
            RopeScaling::FrequencyFactors(factors) => {
                factors.iter().try_for_each(|f| positive("rope_freqs.weight", f64::from(*f)))
            }
        }
    }
}

fn inverse_frequencies(theta: f64, head_dim: usize) -> Vec<f32> {
    let exponent = |i: usize| 2.0 * i as f32 / head_dim as f32;
    (0..head_dim / 2).map(|i| 1.0 / (theta as f32).powf(exponent(i))).collect()
}

fn dynamic_theta(
    theta: f64,
    factor: f64,
    seq_len: usize,
    head_dim: usize,
    max_position_embeddings: usize,
) -> f64 {
    let max = max_position_embeddings as f64;
    let stretch = factor * (seq_len as f64).max(max) / max - (factor - 1.0);
    theta * stretch.powf(head_dim as f64 / (head_dim as f64 - 2.0))
}

struct Llama3Ramp {
    factor: f32,
    low: f32,
    high: f32,
    context: f32,
}

impl Llama3Ramp {
    fn scale(&self, frequency: f32) -> f32 {
        let wavelength = 2.0 * PI / frequency;
        if wavelength > self.context / self.low {
            frequency / self.factor
        } else if wavelength < self.context / self.high {
            frequency
        } else {
            let smooth = (self.context / wavelength - self.low) / (self.high - self.low);
            (1.0 - smooth) * frequency / self.factor + smooth * frequency
        }
    }
}

/// The dimensions between which YaRN goes from kept to divided frequencies.
struct YarnRamp {
    start: f32,
    end: f32,
}

impl YarnRamp {
    fn new(
        head_dim: usize,
        theta: f64,
        context: usize,
        (fast, slow): (f64, f64),
        truncate: bool,
    ) -> Self {
        let dim = head_dim as f64;
        // The dimension whose frequency makes this many rotations over the original context.
        let dimension = |rotations: f64| {
            dim * (context as f64 / (rotations * 2.0 * std::f64::consts::PI)).ln()
                / (2.0 * theta.ln())
        };
        let (mut start, mut end) = (dimension(fast), dimension(slow));
        if truncate {
            (start, end) = (start.floor(), end.ceil());
        }
        let (start, mut end) = (start.max(0.0), end.min(dim - 1.0));
        if start == end {
            end += 0.001;
        }
        Self { start: start as f32, end: end as f32 }
    }

    fn blend(&self, index: usize, frequency: f32, factor: f32) -> f32 {
        let ramp = ((index as f32 - self.start) / (self.end - self.start)).clamp(0.0, 1.0);
        let keep = 1.0 - ramp;
        frequency / factor * (1.0 - keep) + frequency * keep
    }
}

/// The scale on cos and sin when the file gives none.
fn derived_attention_factor(factor: f64, mscale: Option<f64>, mscale_all_dim: Option<f64>) -> f64 {
    let scale = |m: f64| {
        if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 }
    };
    match (mscale, mscale_all_dim) {
        (Some(a), Some(b)) if a != 0.0 && b != 0.0 => scale(a) / scale(b),
        _ => scale(1.0),
    }
}
