//! What a resumed run must share with the one that it goes on from.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::content_hash;
use crate::recipe::Recipe;

/// Fields that may change freely: no result depends on them, or what they name is compared by content.
const FREE: [&str; 9] = [
    "data.cache",
    "data.eval_path",
    "data.path",
    "data.waive",
    "model.path",
    "train.cuda_graphs",
    "train.gradient_checkpointing",
    "train.logging_steps",
    "train.memory_budget",
];

/// What decides a run besides its recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `cpu` or `cuda`, whose last bits differ.
    pub device: String,
    /// Hash of weights and configuration.
    pub model: String,
    /// Hash of tokenizer and chat template.
    pub tokenizer: String,
    /// Hash of the rows to learn.
    pub data: String,
    /// Hash of the file of rows to judge by, where they have one.
    pub eval_data: Option<String>,
}

impl Identity {
    /// Reads what `recipe` names.
    pub fn of(recipe: &Recipe, device: &str) -> Result<Self> {
        let hash = |path: &Path, wanted: fn(&str) -> bool| {
            content_hash(path, wanted).with_context(|| path.display().to_string())
        };
        Ok(Self {
            device: device.to_owned(),
            model: hash(&recipe.model.path, is_model)?,
            tokenizer: hash(&recipe.model.path, is_tokenizer)?,
            data: rows(recipe, &|path| hash(path, |_| true))?,
            eval_data: recipe.data.eval_path.as_deref().map(|p| hash(p, |_| true)).transpose()?,
        })
    }
}

/// Hash of the rows to learn, of all sources in order.
fn rows(recipe: &Recipe, hash: &dyn Fn(&Path) -> Result<String>) -> Result<String> {
    let data = &recipe.data;
    if data.sources.is_empty() {
        return hash(&data.path);
    }
    let hashes = data.sources.iter().map(|source| hash(&source.path));
    Ok(hashes.collect::<Result<Vec<_>>>()?.join(" "))
}

fn is_model(name: &str) -> bool {
    name == "config.json"
        || name.ends_with(".safetensors")
        || name.ends_with(".safetensors.index.json")
}

fn is_tokenizer(name: &str) -> bool {
    ["tokenizer", "special_tokens", "added_tokens", "chat_template", "vocab", "merges"]
        .iter()
        .any(|start| name.starts_with(start))
}

/// A field in which two runs differ, and its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// `section.field`, or what else decides a run.
    pub field: String,
    /// In the run that was stored.
    pub then: String,
    /// In the one that would go on.
    pub now: String,
}

/// Where the run `now` is another than the run `then`.
pub fn differences(then: (&Recipe, &Identity), now: (&Recipe, &Identity)) -> Vec<Difference> {
    let (mut old, mut new) = (fields(then.0), fields(now.0));
    old.extend(contents(then.1));
    new.extend(contents(now.1));
    let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let value =
        |of: &BTreeMap<String, String>, name| of.get(name).cloned().unwrap_or("not set".into());
    names
        .into_iter()
        .map(|name| Difference {
            field: name.clone(),
            then: value(&old, name),
            now: value(&new, name),
        })
        .filter(|difference| difference.then != difference.now)
        .collect()
}

fn contents(identity: &Identity) -> impl Iterator<Item = (String, String)> {
    let Identity { device, model, tokenizer, data, eval_data } = identity;
    let file =
        |hash: &str| format!("a file of SHA-256 {}...", hash.chars().take(12).collect::<String>());
    [
        ("device", Some(device.clone())),
        ("model.path", Some(file(model))),
        ("tokenizer", Some(file(tokenizer))),
        ("data.path", Some(file(data))),
        ("data.eval_path", eval_data.as_deref().map(file)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_owned(), value?)))
}

/// All fields that decide a run, with their values in TOML.
fn fields(recipe: &Recipe) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (section, value) in Table::try_from(recipe).expect("a recipe is tables of plain values") {
        let Value::Table(table) = value else { continue };
        if section == "output" {
            continue;
        }
        all.extend(
            table
                .into_iter()
                .map(|(field, value)| (format!("{section}.{field}"), value.to_string())),
        );
    }
    all.retain(|name, _| !FREE.contains(&name.as_str()));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Precision;

    fn identity() -> Identity {
        let hash = |c: char| c.to_string().repeat(64);
        Identity {
            device: "cpu".into(),
            model: hash('a'),
            tokenizer: hash('b'),
            data: hash('c'),
            eval_data: None,
        }
    }

    #[test]
    fn fields_that_decide_a_run_are_named() {
        let (recipe, identity) = (Recipe::default(), identity());
        let names = |recipe2: &Recipe, identity2: &Identity| {
            let all = differences((&recipe, &identity), (recipe2, identity2));
            all.into_iter().map(|d| d.field).collect::<Vec<_>>()
        };
        assert!(names(&recipe, &identity).is_empty());
        let mut other = recipe.clone();
        other.output.dir = "elsewhere".into();
        other.train.logging_steps = 3;
        other.train.gradient_checkpointing = crate::recipe::Checkpointing::On;
        other.data.path = "moved.jsonl".into();
        assert!(names(&other, &identity).is_empty());
        other.train.learning_rate = 1e-3;
        other.train.precision = Precision::Bf16;
        other.train.max_steps = Some(7);
        other.lora = Some(crate::recipe::default_lora());
        let found = names(&other, &identity);
        for field in ["train.learning_rate", "train.precision", "train.max_steps", "lora.r"] {
            assert!(found.contains(&field.to_owned()), "{field} in {found:?}");
        }
        let changed = Identity {
            device: "cuda".into(),
            tokenizer: "x".into(),
            data: "y".into(),
            eval_data: Some("z".into()),
            ..identity.clone()
        };
        assert_eq!(
            names(&recipe, &changed),
            ["data.eval_path", "data.path", "device", "tokenizer"]
        );
        // A checkpoint from elsewhere may hold any text.
        let strange = Identity { model: "12345678901é".into(), ..identity.clone() };
        assert_eq!(names(&recipe, &strange), ["model.path"]);
    }
}
