//! Ranges and contradictions, told by field.

use super::read::Origins;
use super::{DataSection, OutputSection, Quantize, Recipe, RecipeError, TrainSection};

/// A check's outcome: the field at fault and what is wrong with it.
type Fault = (&'static str, String);

pub(super) fn check(recipe: &Recipe, origins: &Origins) -> Result<(), RecipeError> {
    model(recipe)
        .and_then(|()| lora(recipe))
        .and_then(|()| data(&recipe.data))
        .and_then(|()| train(&recipe.train))
        .and_then(|()| optimizer(&recipe.train))
        .and_then(|()| output(&recipe.output))
        .map_err(|(field, message)| origins.error(field, message))
}

/// What a run cannot do without; `writes` asks for `output.dir`.
pub(super) fn required(
    recipe: &Recipe,
    origins: &Origins,
    writes: bool,
) -> Result<(), RecipeError> {
    for (field, path, option, needed) in [
        ("model.path", &recipe.model.path, "--model PATH", true),
        ("data.path", &recipe.data.path, "--data FILE", recipe.data.sources.is_empty()),
        ("output.dir", &recipe.output.dir, "--output DIR", writes),
    ] {
        if needed && path.as_os_str().is_empty() {
            let message = format!("is missing; set it in the recipe or give {option}");
            return Err(origins.error(field, message));
        }
    }
    Ok(())
}

fn model(recipe: &Recipe) -> Result<(), Fault> {
    let size = recipe.model.blocksize;
    let used = recipe.model.quantize != Quantize::None;
    ensure(
        !used || size.is_power_of_two() && (32..=4096).contains(&size),
        "model.blocksize",
        || format!("is {size}; it must be a power of two from 32 to 4096"),
    )
}

fn lora(recipe: &Recipe) -> Result<(), Fault> {
    let valid = recipe.lora.as_ref().map_or(Ok(()), models::LoraConfig::validate);
    valid.map_err(|error| ("lora", error.to_string()))
}

fn data(data: &DataSection) -> Result<(), Fault> {
    ensure(data.sources.is_empty() || data.path.as_os_str().is_empty(), "data.path", || {
        "give either path or sources".to_owned()
    })?;
    ensure(
        data.sources.iter().all(|source| !source.path.as_os_str().is_empty()),
        "data.sources",
        || "each needs a path".to_owned(),
    )?;
    let share = data.eval_fraction;
    let given = [data.eval_path.is_some(), data.eval_rows > 0, share != 0.0];
    ensure(given.iter().filter(|given| **given).count() <= 1, "data.eval_path", || {
        "at most one of eval_path, eval_rows and eval_fraction can be given".to_owned()
    })?;
    ensure((0.0..1.0).contains(&share), "data.eval_fraction", || {
        format!("is {share}; it must be at least 0 (no evaluation) and below 1")
    })?;
    ensure(!data.packing || data.max_seq_len.is_some(), "data.packing", || {
        "packs rows into bins of data.max_seq_len tokens; give it too, e.g. 2048".to_owned()
    })?;
    ensure(!(data.group_by_length && data.packing), "data.group_by_length", || {
        "groups rows that data.packing puts into bins of one size; turn one of them off".to_owned()
    })?;
    ensure(!data.group_by_length || data.shuffle, "data.group_by_length", || {
        "changes the order of rows, which data.shuffle = false keeps; turn one of them off"
            .to_owned()
    })?;
    let limit = data.max_seq_len.unwrap_or(2);
    ensure(limit >= 2, "data.max_seq_len", || {
        format!("is {limit}; a row needs at least 2 tokens to learn one from the other")
    })
}

fn train(train: &TrainSection) -> Result<(), Fault> {
    for (field, count) in [
        ("train.max_steps", train.max_steps),
        ("train.eval_steps", train.eval_steps),
        ("train.batch_size", Some(train.batch_size)),
        ("train.gradient_accumulation_steps", Some(train.gradient_accumulation_steps)),
        ("train.logging_steps", Some(train.logging_steps)),
    ] {
        ensure(count != Some(0), field, || "is 0; it must be at least 1".to_owned())?;
    }
    positive("train.epochs", train.epochs)?;
    ensure((0.0..=1.0).contains(&train.warmup_ratio), "train.warmup_ratio", || {
        format!("is {}; it must be from 0 to 1", train.warmup_ratio)
    })?;
    ensure(train.warmup_steps == 0 || train.warmup_ratio == 0.0, "train.warmup_ratio", || {
        "give either warmup_steps or warmup_ratio".to_owned()
    })
}

fn optimizer(train: &TrainSection) -> Result<(), Fault> {
    positive("train.learning_rate", train.learning_rate)?;
    positive("train.adam_epsilon", train.adam_epsilon)?;
    for (field, beta) in
        [("train.adam_beta1", train.adam_beta1), ("train.adam_beta2", train.adam_beta2)]
    {
        ensure((0.0..1.0).contains(&beta), field, || {
            format!("is {beta}; it must be at least 0 and below 1")
        })?;
    }
    for (field, value) in [
        ("train.weight_decay", train.weight_decay),
        ("train.max_grad_norm", train.max_grad_norm),
        ("train.skip_loss_spikes", train.skip_loss_spikes),
    ] {
        ensure(value.is_finite() && value >= 0.0, field, || {
            format!("is {value}; it must be finite and not negative")
        })?;
    }
    Ok(())
}

fn output(output: &OutputSection) -> Result<(), Fault> {
    let minutes = output.checkpoint_minutes;
    // A year is more than any run and less than what a clock can hold.
    ensure((0.0..=525_600.0).contains(&minutes), "output.checkpoint_minutes", || {
        format!("is {minutes}; it must be from 0 (none by time) to 525600")
    })?;
    ensure(output.checkpoint_steps != Some(0), "output.checkpoint_steps", || {
        "is 0; it must be at least 1, or left out".to_owned()
    })
}

fn positive(field: &'static str, value: f64) -> Result<(), Fault> {
    ensure(value.is_finite() && value > 0.0, field, || {
        format!("is {value}; it must be finite and above 0")
    })
}

fn ensure(holds: bool, field: &'static str, message: impl FnOnce() -> String) -> Result<(), Fault> {
    if holds { Ok(()) } else { Err((field, message())) }
}

#[cfg(test)]
mod tests {
    use super::super::Override;
    use super::*;

    fn fault(sets: &[&str]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.toml");
        let text = "[model]\npath = 'm'\n[data]\npath = 'd'\n[output]\ndir = 'o'\n[train]\nwarmup_steps = 1\n";
        std::fs::write(&path, text).unwrap();
        let sets: Vec<Override> = sets.iter().map(|set| set.parse().unwrap()).collect();
        Recipe::read(&path, &sets).map_or_else(|error| error.to_string(), |_| String::new())
    }

    #[test]
    fn values_out_of_range_are_told_by_field() {
        for set in [
            "model.path=",
            "model.blocksize=48",
            "data.eval_fraction=1.0",
            "data.eval_rows=-1",
            "data.max_seq_len=1",
            "data.packing=true",
            "train.epochs=0",
            "train.epochs=nan",
            "train.max_steps=0",
            "train.batch_size=0",
            "train.learning_rate=-1",
            "train.warmup_ratio=0.1",
            "train.adam_beta2=1.0",
            "train.weight_decay=inf",
            "train.skip_loss_spikes=-1",
            "output.checkpoint_minutes=-1",
            "output.checkpoint_minutes=inf",
            "output.checkpoint_steps=0",
        ] {
            let (field, _) = set.split_once('=').unwrap();
            let message = fault(&[set]);
            assert!(message.starts_with(&format!("--set {set}: `{field}`: ")), "{set}: {message}");
        }
        assert_eq!(fault(&["train.max_grad_norm=0"]), "");
        assert_eq!(fault(&["model.blocksize=4096"]), "");
    }

    #[test]
    fn grouping_by_length_has_no_place_beside_another_order() {
        let set = "data.group_by_length=true";
        assert_eq!(fault(&[set]), "");
        for other in ["data.packing", "data.shuffle"] {
            let value = format!("{other}={}", other == "data.packing");
            let message = fault(&[set, &value, "data.max_seq_len=64"]);
            assert!(
                message.starts_with(&format!("--set {set}: `data.group_by_length`: ")),
                "{message}"
            );
            assert!(message.contains(other), "{message}");
        }
    }
}
