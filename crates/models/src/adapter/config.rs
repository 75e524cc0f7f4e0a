//! LoRA settings under PEFT's names.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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
    /// Ranks that differ from `r`, by module-name pattern.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Alphas that differ from `lora_alpha`, by module-name pattern.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Layer indices to adapt; `None` is all.
    pub layers_to_transform: Option<Vec<usize>>,
    /// Modules trained whole and stored beside the adapter; none are supported yet.
    pub modules_to_save: Option<Vec<String>>,
    /// Which biases are trained; only `none` is supported yet.
    pub bias: LoraBias,
    /// Task name; only `CAUSAL_LM` is supported.
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
            task_type: Some("CAUSAL_LM".to_owned()),
            init_lora_weights: InitLoraWeights::default(),
        }
    }
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
