//! LoRA settings under PEFT's names.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::{Error, Result};

/// The task name of language models.
pub(super) const CAUSAL_LM: &str = "CAUSAL_LM";

/// LoRA settings, with PEFT's field names and defaults (`peft/tuners/lora/config.py`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank.
    pub r: usize,
    /// Numerator of the scaling: `lora_alpha / r`, or `lora_alpha / sqrt(r)` with `use_rslora`.
    pub lora_alpha: f64,
    /// Dropout probability on the input of `lora_A` while training.
    pub lora_dropout: f64,
    /// Modules that get an adapter.
    pub target_modules: TargetModules,
    /// Rank-stabilised scaling.
    pub use_rslora: bool,
    /// Ranks that differ from `r`: a regular expression for the end of the module name, to its rank. The first match
    /// in sorted order counts, the order in which PEFT's own files keep them.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Alphas that differ from `lora_alpha`, found like `rank_pattern`.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Layer indices to adapt; `None` or empty is all. Needs `target_modules` to be names.
    #[serde(deserialize_with = "one_or_many")]
    pub layers_to_transform: Option<Vec<usize>>,
    /// Modules trained whole and stored beside the adapter; none are supported yet.
    pub modules_to_save: Option<Vec<String>>,
    /// Which biases are trained; only `none` is supported yet.
    pub bias: LoraBias,
    /// Task name; only `CAUSAL_LM` (or none) is supported.
    pub task_type: Option<String>,
    /// How `lora_A` starts; `lora_B` always starts at zero.
    pub init_lora_weights: InitLoraWeights,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            target_modules: TargetModules::default(),
            use_rslora: false,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            layers_to_transform: None,
            modules_to_save: None,
            bias: LoraBias::None,
            task_type: Some(CAUSAL_LM.to_owned()),
            init_lora_weights: InitLoraWeights::default(),
        }
    }
}

impl LoraConfig {
    /// Checks the values that do not depend on a model.
    ///
    /// # Errors
    /// [`Error::Lora`] naming the field, for values that make no sense and for those that are not supported yet.
    pub fn validate(&self) -> Result<()> {
        let ranks = std::iter::once(&self.r).chain(self.rank_pattern.values());
        if ranks.into_iter().any(|r| *r == 0) {
            return Err(refused("r", "0; a rank is at least 1"));
        }
        let mut alphas = std::iter::once(&self.lora_alpha).chain(self.alpha_pattern.values());
        if let Some(alpha) = alphas.find(|alpha| !(**alpha as f32).is_finite()) {
            return Err(refused("lora_alpha", format!("{alpha:e}; it must be finite as an f32")));
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return Err(refused(
                "lora_dropout",
                format!("{}; it must be at least 0 and below 1", self.lora_dropout),
            ));
        }
        if self.restricts_layers() && matches!(self.target_modules, TargetModules::Pattern(_)) {
            let message = "set, which works only with target_modules as a list of names";
            return Err(refused("layers_to_transform", message));
        }
        self.check_supported()
    }

    fn check_supported(&self) -> Result<()> {
        if let Some(modules) = self.modules_to_save.as_ref().filter(|modules| !modules.is_empty()) {
            return Err(refused(
                "modules_to_save",
                format!("{modules:?}; saving whole modules is not supported yet"),
            ));
        }
        if self.bias != LoraBias::None {
            return Err(refused(
                "bias",
                format!("{:?}; only \"none\" is supported yet", self.bias),
            ));
        }
        if let Some(task) = self.task_type.as_deref().filter(|task| *task != CAUSAL_LM) {
            return Err(refused(
                "task_type",
                format!("\"{task}\"; only \"{CAUSAL_LM}\" is supported"),
            ));
        }
        match &self.init_lora_weights {
            InitLoraWeights::Flag(true) => Ok(()),
            InitLoraWeights::Named(name) if name == "gaussian" => Ok(()),
            other => {
                let found = serde_json::to_string(other).unwrap_or_default();
                let message = format!("{found}; true and \"gaussian\" are supported yet");
                Err(refused("init_lora_weights", message))
            }
        }
    }

    pub(super) fn restricts_layers(&self) -> bool {
        self.layers_to_transform.as_ref().is_some_and(|layers| !layers.is_empty())
    }
}

fn refused(field: &str, message: impl std::fmt::Display) -> Error {
    Error::Lora(format!("`{field}` is {message}"))
}

/// PEFT also takes a single number.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<usize>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(usize),
        Many(Vec<usize>),
    }
    Ok(Option::deserialize(deserializer)?.map(|layers| match layers {
        OneOrMany::One(layer) => vec![layer],
        OneOrMany::Many(layers) => layers,
    }))
}

/// Which modules get an adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TargetModules {
    /// `"all-linear"`, or a regular expression that must match the whole module name.
    Pattern(String),
    /// Names: a module matches when its name equals one or ends with `.` and one.
    Names(Vec<String>),
}

impl Default for TargetModules {
    fn default() -> Self {
        Self::Pattern("all-linear".to_owned())
    }
}

/// Which biases are trained, PEFT's `bias`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoraBias {
    /// No bias is trained.
    #[default]
    None,
    /// Every bias of the model.
    All,
    /// The biases of the adapted layers.
    LoraOnly,
}

/// How `lora_A` starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum InitLoraWeights {
    /// `true`: uniform in `±1/sqrt(in_features)` (Kaiming with a = sqrt 5); `false`: PEFT's debugging start, not supported.
    Flag(bool),
    /// `"gaussian"`: normal with standard deviation 1/r; other names are not supported yet.
    Named(String),
}

impl Default for InitLoraWeights {
    fn default() -> Self {
        Self::Flag(true)
    }
}
