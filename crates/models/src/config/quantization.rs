//! `quantization_config` of bitsandbytes 4-bit checkpoints.

use nf4::{QuantType, SourceDtype};
use serde_json::{Value, json};

use super::{BnbConfig, fields::Fields, read::parse_dtype};
use crate::Result;

/// Fields that only matter for 8 bit, or that the weights themselves show.
const IRRELEVANT: &[&str] = &[
    "_load_in_4bit",
    "_load_in_8bit",
    "bnb_4bit_quant_storage",
    "llm_int8_enable_fp32_cpu_offload",
    "llm_int8_has_fp16_weight",
    "llm_int8_skip_modules",
    "llm_int8_threshold",
    "load_in_8bit",
];

pub(super) fn read(fields: &Fields, warnings: &mut Vec<String>) -> Result<Option<BnbConfig>> {
    let Some(map) = fields.object("quantization_config")? else {
        return Ok(None);
    };
    let nested = Fields::new(fields.path(), "quantization_config.", map);
    let method = nested.str("quant_method")?.unwrap_or("bitsandbytes");
    if method != "bitsandbytes" {
        let message = format!("is \"{method}\"; only \"bitsandbytes\" 4-bit weights are supported");
        return Err(nested.error("quant_method", message));
    }
    if !nested.bool("load_in_4bit")?.or(nested.bool("_load_in_4bit")?).unwrap_or(false) {
        return Err(nested
            .error("load_in_4bit", "is not true; only 4-bit bitsandbytes weights are supported"));
    }
    let quant_type = match nested.str("bnb_4bit_quant_type")? {
        Some("nf4") => QuantType::Nf4,
        // bitsandbytes' default.
        Some("fp4") | None => QuantType::Fp4,
        Some(other) => {
            let message = format!("is \"{other}\"; supported are \"nf4\" and \"fp4\"");
            return Err(nested.error("bnb_4bit_quant_type", message));
        }
    };
    let compute_dtype = match nested.value("bnb_4bit_compute_dtype") {
        Some(value) => parse_dtype(&nested, "bnb_4bit_compute_dtype", value)?,
        None => SourceDtype::F32,
    };
    let config = BnbConfig {
        bnb_4bit_quant_type: quant_type,
        bnb_4bit_use_double_quant: nested.bool("bnb_4bit_use_double_quant")?.unwrap_or(false),
        bnb_4bit_compute_dtype: compute_dtype,
    };
    let rest = nested.rest().into_iter().filter(|(field, _)| !IRRELEVANT.contains(field));
    warnings.extend(rest.map(|(field, value)| nested.not_understood(field, value)));
    Ok(Some(config))
}

/// The object transformers needs to load 4-bit weights through bitsandbytes.
pub(super) fn write(config: BnbConfig) -> Value {
    json!({
        "quant_method": "bitsandbytes",
        "_load_in_4bit": true,
        "_load_in_8bit": false,
        "load_in_4bit": true,
        "load_in_8bit": false,
        "bnb_4bit_compute_dtype": config.bnb_4bit_compute_dtype,
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": config.bnb_4bit_quant_type.as_str(),
        "bnb_4bit_use_double_quant": config.bnb_4bit_use_double_quant,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": null,
        "llm_int8_threshold": 6.0,
    })
}
