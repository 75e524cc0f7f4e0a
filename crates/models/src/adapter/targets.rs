//! Which modules a [`LoraConfig`] adapts, by PEFT's rules (`tuners_utils.py`, `other.py`).

use fancy_regex::Regex;

use super::{LoraConfig, TargetModules};
use crate::{
    Error, Result,
    weights::{nearest, some_of},
};

/// PEFT's word for every linear layer but the output head, in any case.
const ALL_LINEAR: &str = "all-linear";
/// Modules that PEFT can adapt and this crate cannot.
const NOT_ADAPTABLE: [&str; 2] = ["lm_head", "model.embed_tokens"];

/// A module to adapt.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Module name, `model.layers.0.self_attn.q_proj`.
    pub module: String,
    /// Rank.
    pub r: usize,
    /// What `B(A(x))` is multiplied with.
    pub scaling: f64,
}

/// The modules that `config` adapts, in the order of `module_names`, which are all linear layers of the decoder.
///
/// # Errors
/// [`Error::Lora`] when the configuration is not valid, a pattern is not a regular expression, nothing matches (with
/// the names there are), or the output head or the embedding is targeted, which is not supported yet.
pub fn resolve_targets(config: &LoraConfig, module_names: &[String]) -> Result<Vec<Target>> {
    config.validate()?;
    let matcher = Matcher::new(config)?;
    for module in NOT_ADAPTABLE {
        if matcher.matches(module)? {
            let message =
                format!("`target_modules` matches `{module}`; adapting it is not supported yet");
            return Err(Error::Lora(message));
        }
    }
    let ranks = Patterns::new("rank_pattern", config.rank_pattern.iter())?;
    let alphas = Patterns::new("alpha_pattern", config.alpha_pattern.iter())?;
    let mut targets = Vec::new();
    for module in module_names {
        if matcher.matches_or_all(module)? {
            let r = *ranks.find(module)?.unwrap_or(&config.r);
            let alpha = *alphas.find(module)?.unwrap_or(&config.lora_alpha);
            let divisor = if config.use_rslora { (r as f64).sqrt() } else { r as f64 };
            targets.push(Target { module: module.clone(), r, scaling: alpha / divisor });
        }
    }
    if targets.is_empty() {
        let message = format!(
            "`target_modules` {} matches no module; there are {}",
            serde_json::to_string(&config.target_modules).unwrap_or_default(),
            some_of(&last_names(module_names))
        );
        return Err(Error::Lora(message));
    }
    Ok(targets)
}

/// Checks that every name, pattern and layer of a configuration has a module to act on, so that a typing error does not
/// go unseen. For new adapters: PEFT passes over what matches nothing, so adapters that it wrote may have such entries.
///
/// # Errors
/// Those of [`resolve_targets`], and [`Error::Lora`] naming the first entry without effect.
pub fn check_all_match(config: &LoraConfig, module_names: &[String]) -> Result<()> {
    let targets = resolve_targets(config, module_names)?;
    if let TargetModules::Names(names) = &config.target_modules {
        let unknown =
            names.iter().find(|name| !module_names.iter().any(|m| ends_with_name(m, name)));
        if let Some(name) = unknown {
            let endings = module_names.iter().map(|module| last_parts(module, name));
            let near = nearest(name, endings).unwrap_or("none");
            let message =
                format!("`target_modules`: `{name}` matches no module; the nearest is `{near}`");
            return Err(Error::Lora(message));
        }
    }
    for layer in config.layers_to_transform.iter().flatten() {
        if !module_names.iter().any(|module| layer_index(module) == Some(*layer)) {
            let message = format!("`layers_to_transform`: the model has no layer {layer}");
            return Err(Error::Lora(message));
        }
    }
    let rank_keys = config.rank_pattern.keys().map(|key| ("rank_pattern", key));
    let alpha_keys = config.alpha_pattern.keys().map(|key| ("alpha_pattern", key));
    for (field, key) in rank_keys.chain(alpha_keys) {
        let pattern = Patterns::new(field, std::iter::once((key, &())))?;
        let mut used = false;
        for target in &targets {
            used |= pattern.find(&target.module)?.is_some();
        }
        if !used {
            let adapted: Vec<_> = targets.iter().map(|target| &target.module).collect();
            let message = format!(
                "`{field}`: `{key}` matches no adapted module; those are {}",
                some_of(&last_names(&adapted))
            );
            return Err(Error::Lora(message));
        }
    }
    Ok(())
}

/// The end of a module name that has as many parts as `name`.
fn last_parts<'a>(module: &'a str, name: &str) -> &'a str {
    let parts = name.split('.').count();
    let start = module.rmatch_indices('.').nth(parts - 1).map_or(0, |(at, _)| at + 1);
    &module[start..]
}

/// The different last parts of module names: `q_proj` for `model.layers.0.self_attn.q_proj`. Sorted.
pub(super) fn last_names(modules: &[impl AsRef<str>]) -> Vec<String> {
    let last = |module: &str| module.rsplit('.').next().unwrap_or_default().to_owned();
    let names: std::collections::BTreeSet<String> =
        modules.iter().map(|m| last(m.as_ref())).collect();
    names.into_iter().collect()
}

enum Matcher<'a> {
    AllLinear,
    Pattern(Regex),
    Names { names: &'a [String], layers: Option<&'a [usize]> },
}

impl<'a> Matcher<'a> {
    fn new(config: &'a LoraConfig) -> Result<Self> {
        Ok(match &config.target_modules {
            TargetModules::Pattern(word) if word.eq_ignore_ascii_case(ALL_LINEAR) => {
                Self::AllLinear
            }
            TargetModules::Pattern(pattern) => {
                Self::Pattern(regex("target_modules", pattern, "^(?:", r")\z")?)
            }
            TargetModules::Names(names) => Self::Names {
                names,
                layers: config.layers_to_transform.as_deref().filter(|_| config.restricts_layers()),
            },
        })
    }

    /// For one of the decoder's linear layers.
    fn matches_or_all(&self, module: &str) -> Result<bool> {
        Ok(matches!(self, Self::AllLinear) || self.matches(module)?)
    }

    fn matches(&self, module: &str) -> Result<bool> {
        match self {
            Self::AllLinear => Ok(false),
            Self::Pattern(regex) => is_match("target_modules", regex, module),
            // A full name is not subject to the choice of layers.
            Self::Names { names, .. } if names.iter().any(|name| name == module) => Ok(true),
            Self::Names { names, layers } => {
                let chosen = layers
                    .is_none_or(|layers| layer_index(module).is_some_and(|i| layers.contains(&i)));
                Ok(chosen && names.iter().any(|name| ends_with_name(module, name)))
            }
        }
    }
}

fn ends_with_name(module: &str, name: &str) -> bool {
    module == name || module.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
}

/// The first numeric part of a module name that has two parts before and one after it.
fn layer_index(module: &str) -> Option<usize> {
    let parts: Vec<&str> = module.split('.').collect();
    let inner = parts.get(2..parts.len().checked_sub(1)?)?;
    inner
        .iter()
        .find(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))?
        .parse()
        .ok()
}

/// Values by a regular expression for the end of the module name.
struct Patterns<'a, T> {
    field: &'static str,
    entries: Vec<(Regex, &'a T)>,
}

impl<'a, T> Patterns<'a, T> {
    fn new(
        field: &'static str,
        patterns: impl Iterator<Item = (&'a String, &'a T)>,
    ) -> Result<Self> {
        let entries =
            patterns.map(|(key, value)| Ok((regex(field, key, r"^(?:.*\.)?(?:", r")\z")?, value)));
        Ok(Self { field, entries: entries.collect::<Result<_>>()? })
    }

    fn find(&self, module: &str) -> Result<Option<&'a T>> {
        for (regex, value) in &self.entries {
            if is_match(self.field, regex, module)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}

fn regex(field: &str, pattern: &str, before: &str, after: &str) -> Result<Regex> {
    Regex::new(&format!("{before}{pattern}{after}")).map_err(|e| {
        Error::Lora(format!("`{field}`: `{pattern}` is not a regular expression: {e}"))
    })
}

fn is_match(field: &str, regex: &Regex, module: &str) -> Result<bool> {
    let failed = |e| Error::Lora(format!("`{field}`: matching `{module}` failed: {e}"));
    regex.is_match(module).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules() -> Vec<String> {
        let names = ["self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj"];
        (0..12).flat_map(|i| names.map(|name| format!("model.layers.{i}.{name}"))).collect()
    }

    fn names(names: &[&str]) -> TargetModules {
        TargetModules::Names(names.iter().map(|&name| name.to_owned()).collect())
    }

    fn resolve(config: &LoraConfig) -> Vec<Target> {
        resolve_targets(config, &modules()).unwrap()
    }

    fn error(config: &LoraConfig) -> String {
        resolve_targets(config, &modules()).unwrap_err().to_string()
    }

    #[test]
    fn names_match_whole_parts_at_the_end() {
        let config = LoraConfig {
            target_modules: names(&["q_proj", "mlp.up_proj"]),
            ..LoraConfig::default()
        };
        assert_eq!(resolve(&config).len(), 24);
        let config = LoraConfig { target_modules: names(&["proj"]), ..config };
        assert!(
            error(&config).contains("there are down_proj, q_proj, up_proj, v_proj"),
            "{}",
            error(&config)
        );
    }

    #[test]
    fn a_pattern_must_match_the_whole_name() {
        let pattern = |p: &str| LoraConfig {
            target_modules: TargetModules::Pattern(p.into()),
            ..Default::default()
        };
        assert_eq!(resolve(&pattern(r".*\.(q|v)_proj")).len(), 24);
        assert_eq!(
            resolve(&pattern(r"model\.layers\.1\..*|model\.layers\.2\.mlp\.up_proj")).len(),
            5
        );
        assert_eq!(
            resolve(&pattern(r"(?!.*mlp)model\.layers\..*")).len(),
            24,
            "lookahead as in Python"
        );
        assert!(error(&pattern("q_proj")).contains("matches no module"));
        assert!(error(&pattern("(")).contains("not a regular expression"));
        assert!(error(&pattern(".*")).contains("lm_head"));
        assert_eq!(resolve(&pattern("All-Linear")).len(), 48);
    }

    #[test]
    fn layers_restrict_short_names_only() {
        let config = LoraConfig {
            target_modules: names(&["q_proj", "model.layers.3.mlp.up_proj"]),
            layers_to_transform: Some(vec![1, 10]),
            ..LoraConfig::default()
        };
        let found: Vec<_> = resolve(&config).into_iter().map(|t| t.module).collect();
        assert_eq!(
            found,
            [
                "model.layers.1.self_attn.q_proj",
                "model.layers.3.mlp.up_proj",
                "model.layers.10.self_attn.q_proj"
            ]
        );
        let all = LoraConfig { target_modules: TargetModules::default(), ..config };
        assert!(error(&all).contains("layers_to_transform"), "{}", error(&all));
    }

    #[test]
    fn patterns_set_rank_and_alpha() {
        let config = LoraConfig {
            r: 8,
            lora_alpha: 16.0,
            rank_pattern: [("q_proj".to_owned(), 4), (r"layers\.2\..*".to_owned(), 2)].into(),
            alpha_pattern: [("self_attn.v_proj".to_owned(), 32.0)].into(),
            ..LoraConfig::default()
        };
        let found = |config: &LoraConfig, name: &str| {
            let target = resolve(config).into_iter().find(|t| t.module == name).unwrap();
            (target.r, target.scaling)
        };
        assert_eq!(found(&config, "model.layers.0.self_attn.q_proj"), (4, 4.0));
        assert_eq!(found(&config, "model.layers.0.self_attn.v_proj"), (8, 4.0));
        assert_eq!(
            found(&config, "model.layers.2.self_attn.q_proj"),
            (2, 8.0),
            "`l` sorts before `q`"
        );
        let rslora = LoraConfig { use_rslora: true, ..config };
        assert_eq!(found(&rslora, "model.layers.0.self_attn.q_proj"), (4, 8.0));
    }

    #[test]
    fn what_matches_nothing_is_an_error_for_new_adapters() {
        let good = LoraConfig {
            target_modules: names(&["q_proj", "mlp.up_proj", "model.layers.3.mlp.down_proj"]),
            layers_to_transform: Some(vec![0, 11]),
            rank_pattern: [("q_proj".to_owned(), 4)].into(),
            alpha_pattern: [(r"layers\.11\..*".to_owned(), 4.0)].into(),
            ..LoraConfig::default()
        };
        check_all_match(&good, &modules()).unwrap();
        check_all_match(&LoraConfig::default(), &modules()).unwrap();
        let patterns = |key: &str| [(key.to_owned(), 4)].into();
        for (bad, parts) in [
            (
                LoraConfig { target_modules: names(&["q_proj", "v_prj"]), ..good.clone() },
                ["target_modules", "`v_prj`", "nearest is `v_proj`"],
            ),
            (
                LoraConfig { target_modules: names(&["q_proj", "mlp.up_prj"]), ..good.clone() },
                ["target_modules", "`mlp.up_prj`", "nearest is `mlp.up_proj`"],
            ),
            (
                LoraConfig { layers_to_transform: Some(vec![0, 12]), ..good.clone() },
                ["layers_to_transform", "no layer", "12"],
            ),
            (
                LoraConfig { rank_pattern: patterns("v_proj"), ..good.clone() },
                ["rank_pattern", "`v_proj`", "down_proj, q_proj, up_proj"],
            ),
            (
                LoraConfig { alpha_pattern: [("down".to_owned(), 1.0)].into(), ..good.clone() },
                ["alpha_pattern", "`down`", "down_proj, q_proj, up_proj"],
            ),
        ] {
            resolve_targets(&bad, &modules()).unwrap();
            let message = check_all_match(&bad, &modules()).unwrap_err().to_string();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
    }

    #[test]
    fn the_head_and_embeddings_are_refused() {
        let config = LoraConfig {
            target_modules: names(&["q_proj", "embed_tokens"]),
            ..LoraConfig::default()
        };
        assert!(error(&config).contains("model.embed_tokens"));
    }
}
