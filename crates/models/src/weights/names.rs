//! Which tensors a model needs and which a source has.

use std::{collections::HashSet, hash::BuildHasher};

use super::TensorSource;
use crate::{Error, ModelConfig, Result};

/// Buffers of old checkpoints that are computed, never read.
const COMPUTED: [&str; 3] = [".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias"];

/// Checks that a source has every parameter of the model in the right shape, and nothing else.
///
/// # Errors
/// [`Error::Tensor`] for the first parameter that is missing or misshapen, [`Error::Format`] for left-over tensors.
pub fn check_complete(source: &dyn TensorSource, config: &ModelConfig) -> Result<()> {
    let parameters = config.parameters();
    for (name, shape) in &parameters {
        let info = source.info(name).ok_or_else(|| missing_tensor(source, name))?;
        if info.shape != *shape {
            return Err(Error::wrong_shape(source.path(), name, &info.shape, shape));
        }
    }
    let mut used: HashSet<&str> = parameters.iter().map(|(name, _)| name.as_str()).collect();
    // Some tied checkpoints repeat the embedding as the head.
    used.insert("lm_head.weight");
    let unused = unused(source, &used);
    if unused.is_empty() {
        return Ok(());
    }
    let message = format!(
        "{} tensors have no place in a {} model: {}",
        unused.len(),
        config.architecture,
        some_of(&unused)
    );
    Err(Error::format(source.path(), message))
}

/// Tensors of `source` that are not in `used`, computed buffers aside.
pub fn unused<'a, S: BuildHasher>(
    source: &'a dyn TensorSource,
    used: &HashSet<&str, S>,
) -> Vec<&'a str> {
    let computed = |name: &str| COMPUTED.iter().any(|suffix| name.ends_with(suffix));
    source.names().into_iter().filter(|name| !used.contains(name) && !computed(name)).collect()
}

/// The error for a tensor that `source` does not have; names the nearest one it has.
pub fn missing_tensor(source: &dyn TensorSource, name: &str) -> Error {
    let names = source.names();
    let message = match nearest(name, names.iter().copied()) {
        Some(near) => format!("is missing; the nearest name is `{near}`"),
        None => "is missing; nothing there has a name like it".to_owned(),
    };
    Error::tensor(source.path(), name, message)
}

/// The candidate with the smallest edit distance, the first of equals. Names from elsewhere may be long and many, and
/// a distance takes the product of two lengths in time and memory: such names are like no other.
pub(crate) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    const LONGEST: usize = 200;
    const MOST: usize = 10_000;
    if name.len() > LONGEST {
        return None;
    }
    let candidates = candidates.take(MOST).filter(|candidate| candidate.len() <= LONGEST);
    candidates.min_by_key(|candidate| strsim::damerau_levenshtein(name, candidate))
}

/// The first few of a list, for messages.
pub(crate) fn some_of(names: &[impl AsRef<str>]) -> String {
    const SHOWN: usize = 8;
    let text = names.iter().take(SHOWN).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        return format!("{text} and {} more", names.len() - SHOWN);
    }
    text
}
