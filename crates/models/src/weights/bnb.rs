//! Weights that bitsandbytes stored in 4 bit: one packed tensor and the tensors of its state.

use std::path::Path;

use nf4::{
    QuantizedTensor,
    state::{self, StateDtype, StateTensor},
};
use safetensors::Dtype;
use serde::Deserialize;

use super::{StorageType, TensorInfo, safetensors::RawTensor};
use crate::{Error, Result};

const STATE_MARK: &str = ".quant_state.bitsandbytes__";
const STATE_SUFFIXES: [&str; 4] = [".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map"];

/// The weight whose quantization state `key` holds.
pub(super) fn quantized_weight(key: &str) -> Option<&str> {
    key.split_once(STATE_MARK).map(|(weight, _)| weight)
}

/// The weight that `key` belongs to, were it quantized.
pub(super) fn state_owner(key: &str) -> Option<&str> {
    quantized_weight(key)
        .or_else(|| STATE_SUFFIXES.iter().find_map(|suffix| key.strip_suffix(suffix)))
}

#[derive(Deserialize)]
struct Shape {
    shape: Vec<usize>,
}

/// Type, logical shape and total size of a 4-bit weight.
pub(super) fn info<'a>(
    dir: &Path,
    weight: &str,
    state_key: &str,
    get: impl Fn(&str) -> Option<RawTensor<'a>>,
) -> Result<TensorInfo> {
    let storage = match state_key.rsplit_once("__").map(|(_, kind)| kind) {
        Some("nf4") => StorageType::Nf4,
        Some("fp4") => StorageType::Fp4,
        other => {
            let kind = other.unwrap_or_default();
            let message = format!("is quantized as \"{kind}\"; supported are nf4 and fp4");
            return Err(Error::tensor(dir, weight, message));
        }
    };
    let state = get(state_key).map_or(&[][..], |raw| raw.bytes);
    let Shape { shape } = serde_json::from_slice(state).map_err(|e| {
        Error::tensor(dir, state_key, format!("is not the JSON of a quantization state: {e}"))
    })?;
    let parts = STATE_SUFFIXES.iter().map(|suffix| format!("{weight}{suffix}"));
    let parts = parts.chain([weight.to_owned(), state_key.to_owned()]);
    let bytes = parts.filter_map(|key| get(&key)).map(|raw| raw.bytes.len() as u64).sum();
    Ok(TensorInfo { storage, shape, bytes })
}

/// Puts a 4-bit weight together.
pub(super) fn read<'a>(
    dir: &Path,
    weight: &str,
    get: impl Fn(&str) -> Option<RawTensor<'a>>,
) -> Result<QuantizedTensor> {
    let module = weight.strip_suffix(".weight").ok_or_else(|| {
        Error::tensor(dir, weight, "is quantized, but only linear weights (`*.weight`) can be")
    })?;
    let tensor = |key: &str| get(key).and_then(state_tensor);
    state::from_tensors(module, tensor).map_err(Error::quantization(dir))
}

fn state_tensor(raw: RawTensor<'_>) -> Option<StateTensor<'_>> {
    let dtype = match raw.dtype {
        Dtype::U8 => StateDtype::U8,
        Dtype::F32 => StateDtype::F32,
        Dtype::BF16 => StateDtype::Bf16,
        Dtype::F16 => StateDtype::F16,
        _ => return None,
    };
    Some(StateTensor { dtype, shape: raw.shape.to_vec(), bytes: raw.bytes.into() })
}
