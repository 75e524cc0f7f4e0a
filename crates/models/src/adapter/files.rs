//! An adapter directory: `adapter_config.json` and `adapter_model.safetensors`.

use std::{collections::BTreeMap, fs, path::Path};

use half::{bf16, f16};
use safetensors::Dtype;

use super::{
    LoraConfig,
    config_file::{AdapterConfig, CONFIG_FILE, to_json},
    targets::resolve_targets,
};
use crate::{
    Error, Result,
    weights::{
        AtomicDir, RawTensor, SafetensorsFile, StoredTensor, TensorInfo, elements, nearest,
        write_safetensors,
    },
};

/// File name within an adapter directory.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// The two factors of one adapted module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoraWeights {
    /// `lora_A.weight`, `[r, in_features]`.
    pub a: Vec<f32>,
    /// `lora_B.weight`, `[out_features, r]`.
    pub b: Vec<f32>,
}

/// Reads an adapter for a model whose linear layers are `modules`: name to `[out_features, in_features]`.
/// Weights in bf16 or f16 are widened.
///
/// # Errors
/// Those of [`AdapterConfig::read`] and [`resolve_targets`]; [`Error::Tensor`] when a weight that the configuration
/// asks for is missing, has the wrong shape or a value that is not finite, or when a stored one belongs to no target.
pub fn read_adapter(
    dir: &Path,
    modules: &BTreeMap<String, [usize; 2]>,
) -> Result<(LoraConfig, BTreeMap<String, LoraWeights>)> {
    let AdapterConfig { lora, .. } = AdapterConfig::read(dir)?;
    let file = open_weights(dir)?;
    let names: Vec<String> = modules.keys().cloned().collect();
    let mut left: std::collections::BTreeSet<String> = file.names().into_iter().collect();
    let mut weights = BTreeMap::new();
    let targets = resolve_targets(&lora, &names)
        .map_err(|error| Error::format(&dir.join(CONFIG_FILE), error.to_string()))?;
    for target in targets {
        let [out_features, in_features] = modules[&target.module];
        let mut read = |part, shape: [usize; 2]| {
            let key = key(&target.module, part);
            left.remove(&key);
            read_f32(&file, &key, &shape)
        };
        let a = read("lora_A", [target.r, in_features])?;
        let b = read("lora_B", [out_features, target.r])?;
        weights.insert(target.module, LoraWeights { a, b });
    }
    match left.into_iter().next() {
        None => Ok((lora, weights)),
        Some(key) => {
            let message = format!("belongs to no module that {CONFIG_FILE} targets in this model");
            Err(Error::tensor(file.path(), key, message))
        }
    }
}

/// The tensors in the weights of the adapter in `dir`, whatever they are for, by name. Reads the header alone.
///
/// # Errors
/// [`Error::Io`] or [`Error::Format`] when the file is missing, cut off or damaged.
pub fn stored(dir: &Path) -> Result<BTreeMap<String, TensorInfo>> {
    let file = open_weights(dir)?;
    let info = |name: String| {
        let info = file.get(&name)?.info();
        Some((name, info))
    };
    Ok(file.names().into_iter().filter_map(info).collect())
}

/// Writes an adapter that PEFT loads, weights in f32. The directory appears as a whole; one already there is replaced
/// in one step, and its files of other names stay. `base_model` is where the base model was loaded from.
///
/// # Errors
/// [`Error::Io`]; [`Error::Lora`] or [`Error::Tensor`] when `weights` are not those of `config`.
pub fn write_adapter(
    dir: &Path,
    config: &LoraConfig,
    base_model: &str,
    weights: &BTreeMap<String, LoraWeights>,
) -> Result<()> {
    let modules: Vec<String> = weights.keys().cloned().collect();
    let targets = resolve_targets(config, &modules)?;
    if targets.len() != modules.len() {
        let message = format!(
            "{} modules have weights, but `target_modules` has {}",
            modules.len(),
            targets.len()
        );
        return Err(Error::Lora(message));
    }
    let mut tensors = Vec::with_capacity(2 * targets.len());
    for target in &targets {
        let (module, r) = (&target.module, target.r);
        let LoraWeights { a, b } = &weights[module];
        tensors.push((key(module, "lora_A"), StoredTensor::f32(&[r, a.len() / r], a)));
        tensors.push((key(module, "lora_B"), StoredTensor::f32(&[b.len() / r, r], b)));
    }
    let target = AtomicDir::create(dir)?;
    write_safetensors(&target.path().join(WEIGHTS_FILE), tensors)?;
    let path = target.path().join(CONFIG_FILE);
    let json = to_json(config, base_model, &modules);
    fs::write(&path, format!("{json:#}\n")).map_err(Error::io(&path))?;
    target.commit()
}

fn key(module: &str, part: &str) -> String {
    format!("base_model.model.{module}.{part}.weight")
}

fn open_weights(dir: &Path) -> Result<SafetensorsFile> {
    let path = dir.join(WEIGHTS_FILE);
    if !path.exists() && dir.join("adapter_model.bin").exists() {
        let message = format!(
            "{WEIGHTS_FILE} is not here; adapter_model.bin is not read, save it with safetensors"
        );
        return Err(Error::format(dir, message));
    }
    SafetensorsFile::open(&path)
}

fn read_f32(file: &SafetensorsFile, key: &str, shape: &[usize]) -> Result<Vec<f32>> {
    let Some(raw) = file.get(key) else {
        let names = file.names();
        let near = nearest(key, names.iter().map(String::as_str)).unwrap_or("none");
        return Err(Error::tensor(
            file.path(),
            key,
            format!("is missing; the nearest name is `{near}`"),
        ));
    };
    if raw.shape != shape {
        return Err(Error::wrong_shape(file.path(), key, raw.shape, shape));
    }
    let values = widen(raw).ok_or_else(|| {
        let message = format!("has type {:?}; adapter weights are F32, BF16 or F16", raw.dtype);
        Error::tensor(file.path(), key, message)
    })?;
    if values.iter().any(|value| !value.is_finite()) {
        return Err(Error::tensor(file.path(), key, "has values that are not finite"));
    }
    Ok(values)
}

fn widen(raw: RawTensor<'_>) -> Option<Vec<f32>> {
    match raw.dtype {
        Dtype::F32 => Some(elements::<f32>(raw.bytes).into_owned()),
        Dtype::BF16 => Some(elements::<bf16>(raw.bytes).iter().map(|x| x.to_f32()).collect()),
        Dtype::F16 => Some(elements::<f16>(raw.bytes).iter().map(|x| x.to_f32()).collect()),
        _ => None,
    }
}
