//! Rotary parameters in `config.json`: `rope_theta` + `rope_scaling` (transformers 4) or `rope_parameters` (5).

use serde_json::{Map, Value};

use super::{RopeConfig, RopeScaling, fields::Fields};
use crate::Result;

/// The default of every supported configuration class.
const DEFAULT_THETA: f64 = 10_000.0;
const SUPPORTED: &str = "default, linear, dynamic, llama3 and yarn";

pub(super) fn read(
    fields: &Fields,
    max_position_embeddings: usize,
    warnings: &mut Vec<String>,
) -> Result<RopeConfig> {
    let outer_theta = fields.f64("rope_theta")?;
    let outer_original = fields.usize("original_max_position_embeddings")?;
    // Transformers lets a non-empty `rope_scaling` win over `rope_parameters`.
    let old = fields.object("rope_scaling")?.filter(|map| !map.is_empty());
    let new = fields.object("rope_parameters")?.filter(|map| !map.is_empty());
    if let (Some(_), Some(unread)) = (old, new) {
        let unread = Value::Object(unread.clone());
        warnings.push(format!(
            "{}: field `rope_parameters` = {unread} is not read, because `rope_scaling` is there",
            fields.path().display()
        ));
    }
    let empty = Map::new();
    let nested = match (old, new) {
        (Some(map), _) => Fields::new(fields.path(), "rope_scaling.", map),
        (None, Some(map)) => Fields::new(fields.path(), "rope_parameters.", map),
        (None, None) => Fields::new(fields.path(), "", &empty),
    };
    refuse_per_layer(&nested)?;
    let theta = nested.f64("rope_theta")?.or(outer_theta).unwrap_or(DEFAULT_THETA);
    let original = nested.usize("original_max_position_embeddings")?;
    let context = Context {
        max_position_embeddings,
        original_max_position_embeddings: outer_original
            .or(original)
            .unwrap_or(max_position_embeddings),
    };
    let scaling = scaling(&nested, &context)?;
    warnings.extend(
        nested.rest().into_iter().map(|(field, value)| nested.not_understood(field, value)),
    );
    Ok(RopeConfig { theta, scaling })
}

struct Context {
    max_position_embeddings: usize,
    original_max_position_embeddings: usize,
}

/// Gemma-like files keep one set of parameters per layer type.
fn refuse_per_layer(nested: &Fields) -> Result<()> {
    for field in ["full_attention", "sliding_attention"] {
        if nested.value(field).is_some() {
            return Err(nested.error(field, "rotary parameters per layer type are not supported"));
        }
    }
    let partial = nested.value("partial_rotary_factor");
    match partial.filter(|v| v.as_f64() != Some(1.0)) {
        Some(v) => Err(nested.error(
            "partial_rotary_factor",
            format!("is {v}, which is not supported; supported: 1"),
        )),
        None => Ok(()),
    }
}

fn scaling(nested: &Fields, context: &Context) -> Result<RopeScaling> {
    let new = nested.str("rope_type")?;
    let old = nested.str("type")?;
    let factor = || nested.required("factor", nested.f64("factor"));
    let number = |field| nested.required(field, nested.f64(field));
    let original = context.original_max_position_embeddings;
    match new.or(old).unwrap_or("default") {
        "default" => Ok(RopeScaling::Default),
        "linear" => Ok(RopeScaling::Linear { factor: factor()? }),
        "dynamic" => Ok(RopeScaling::Dynamic { factor: factor()? }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: factor()?,
            low_freq_factor: number("low_freq_factor")?,
            high_freq_factor: number("high_freq_factor")?,
            original_max_position_embeddings: original,
        }),
        "yarn" => yarn(nested, context),
        other => {
            let field = if new.is_some() { "rope_type" } else { "type" };
            Err(nested.error(field, format!("is \"{other}\"; supported are {SUPPORTED}")))
        }
    }
}

fn yarn(nested: &Fields, context: &Context) -> Result<RopeScaling> {
    let original = context.original_max_position_embeddings;
    let stretch = context.max_position_embeddings as f64 / original as f64;
    Ok(RopeScaling::Yarn {
        factor: nested.f64("factor")?.unwrap_or(stretch),
        original_max_position_embeddings: original,
        attention_factor: nested.f64("attention_factor")?,
        // Zero counts as absent in transformers.
        beta_fast: nested.f64("beta_fast")?.filter(|b| *b != 0.0).unwrap_or(32.0),
        beta_slow: nested.f64("beta_slow")?.filter(|b| *b != 0.0).unwrap_or(1.0),
        mscale: nested.f64("mscale")?,
        mscale_all_dim: nested.f64("mscale_all_dim")?,
        truncate: nested.bool("truncate")?.unwrap_or(true),
    })
}
