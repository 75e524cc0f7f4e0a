//! PEFT's adapter files, both ways.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use models::{
    LoraConfig, ModelConfig,
    adapter::{
        AdapterConfig, CONFIG_FILE, InitLoraWeights, LoraWeights, TargetModules, WEIGHTS_FILE,
        read_adapter, resolve_targets, write_adapter,
    },
    weights::{StoredTensor, write_safetensors},
};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use tempfile::TempDir;

fn fixture(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models").join(model)
}

fn modules(model: &str) -> BTreeMap<String, [usize; 2]> {
    let linears = ModelConfig::from_dir(&fixture(model)).unwrap().linears();
    linears.into_iter().map(|l| (l.module, [l.out_features, l.in_features])).collect()
}

fn read_error(dir: &Path) -> String {
    read_adapter(dir, &modules("llama")).unwrap_err().to_string()
}

/// The llama adapter with fields of its configuration replaced.
fn copy(changes: Value) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(fixture("llama/adapter").join(WEIGHTS_FILE), dir.path().join(WEIGHTS_FILE)).unwrap();
    let text = fs::read_to_string(fixture("llama/adapter").join(CONFIG_FILE)).unwrap();
    let mut json: Value = serde_json::from_str(&text).unwrap();
    let Value::Object(changes) = changes else { panic!("an object") };
    json.as_object_mut().unwrap().extend(changes);
    fs::write(dir.path().join(CONFIG_FILE), json.to_string()).unwrap();
    dir
}

/// The llama adapter's weights, changed.
fn with_weights(change: impl FnOnce(&mut BTreeMap<String, StoredTensor<'_>>)) -> TempDir {
    let dir = copy(json!({}));
    let bytes = fs::read(fixture("llama/adapter").join(WEIGHTS_FILE)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: BTreeMap<_, _> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            (
                name,
                StoredTensor {
                    dtype: view.dtype(),
                    shape: view.shape().to_vec(),
                    bytes: view.data().into(),
                },
            )
        })
        .collect();
    change(&mut tensors);
    write_safetensors(&dir.path().join(WEIGHTS_FILE), tensors.into_iter().collect()).unwrap();
    dir
}

#[test]
fn pefts_adapters_are_read() {
    for (model, adapter) in [
        ("llama", "adapter"),
        ("llama", "adapter_rslora"),
        ("mistral", "adapter"),
        ("qwen2", "adapter"),
        ("qwen3", "adapter"),
    ] {
        let (config, weights) =
            read_adapter(&fixture(model).join(adapter), &modules(model)).unwrap();
        assert_eq!((config.r, config.lora_alpha, weights.len()), (4, 8.0, 14));
        assert_eq!(config.use_rslora, adapter == "adapter_rslora");
        let names: Vec<String> = modules(model).into_keys().collect();
        let scaling = resolve_targets(&config, &names).unwrap()[0].scaling;
        assert_eq!(scaling, if config.use_rslora { 4.0 } else { 2.0 });
        for (module, [out_features, in_features]) in modules(model) {
            let LoraWeights { a, b } = &weights[&module];
            assert_eq!((a.len(), b.len()), (4 * in_features, 4 * out_features));
        }
    }
    let base = AdapterConfig::read(&fixture("llama/adapter")).unwrap().base_model;
    assert_eq!(base.as_deref(), Some("tiny-llama"));
}

#[test]
fn what_is_written_reads_back_and_holds_only_classic_fields() {
    let (config, weights) = read_adapter(&fixture("llama/adapter"), &modules("llama")).unwrap();
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("out/adapter");
    let all = LoraConfig {
        target_modules: TargetModules::Pattern("all-linear".into()),
        ..config.clone()
    };
    write_adapter(&dir, &all, "some/model", &weights).unwrap();
    let (back, same) = read_adapter(&dir, &modules("llama")).unwrap();
    assert_eq!(same, weights);
    let short = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"];
    let short = TargetModules::Names(short.map(str::to_owned).to_vec());
    assert_eq!(back, LoraConfig { target_modules: short, ..config.clone() });
    let json: Value =
        serde_json::from_str(&fs::read_to_string(dir.join(CONFIG_FILE)).unwrap()).unwrap();
    assert!(json.get("use_rslora").is_none() && json.get("rank_pattern").is_none());
    assert_eq!(
        (&json["lora_alpha"], &json["base_model_name_or_path"]),
        (&json!(8), &json!("some/model"))
    );

    // The file is the one PEFT wrote, but for the order of keys in its header.
    let ours = fs::read(dir.join(WEIGHTS_FILE)).unwrap();
    let peft = fs::read(fixture("llama/adapter").join(WEIGHTS_FILE)).unwrap();
    let (ours, peft) =
        (SafeTensors::deserialize(&ours).unwrap(), SafeTensors::deserialize(&peft).unwrap());
    assert_eq!(ours.len(), peft.len());
    for (name, view) in peft.tensors() {
        let tensor = ours.tensor(&name).unwrap();
        assert_eq!(
            (tensor.dtype(), tensor.shape(), tensor.data()),
            (view.dtype(), view.shape(), view.data())
        );
    }

    let newer = LoraConfig {
        use_rslora: true,
        rank_pattern: [("down_proj".to_owned(), 4)].into(),
        alpha_pattern: [("q_proj".to_owned(), 2.5)].into(),
        init_lora_weights: InitLoraWeights::Named("gaussian".into()),
        ..config
    };
    write_adapter(&dir, &newer, "some/model", &weights).unwrap();
    let back = AdapterConfig::read(&dir).unwrap().lora;
    assert_eq!(back, newer);
    assert_eq!(
        fs::read_dir(dir.parent().unwrap()).unwrap().count(),
        1,
        "nothing temporary is left"
    );
}

#[test]
fn features_that_are_not_supported_are_named() {
    for (changes, field) in [
        (json!({"use_dora": true}), "use_dora"),
        (json!({"modules_to_save": ["lm_head"]}), "modules_to_save"),
        (json!({"bias": "all"}), "bias"),
        (json!({"megatron_config": {"a": 1}}), "megatron_config"),
        (json!({"layer_replication": [[0, 1]]}), "layer_replication"),
        (json!({"lora_bias": true}), "lora_bias"),
        (json!({"trainable_token_indices": [5]}), "trainable_token_indices"),
        (json!({"some_future_feature": 3}), "some_future_feature"),
        (json!({"init_lora_weights": "pissa"}), "init_lora_weights"),
        (json!({"task_type": "SEQ_CLS"}), "task_type"),
        (json!({"peft_type": "IA3"}), "peft_type"),
        (json!({"r": -1}), "`r`"),
        (json!({"r": 0}), "`r`"),
        (json!({"lora_dropout": 1.5}), "lora_dropout"),
    ] {
        let error = read_error(copy(changes).path());
        assert!(error.contains(field) && error.contains(CONFIG_FILE), "{error}");
    }
    let error = read_error(&fixture("llama/adapter_dora"));
    assert!(
        error.contains("`use_dora`: is true; this PEFT feature is not supported yet"),
        "{error}"
    );
}

#[test]
fn keys_must_be_those_of_the_targets() {
    let key = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight";
    let error = read_error(with_weights(|t| drop(t.remove(key))).path());
    assert!(
        error.contains(&format!("`{key}`: is missing; the nearest name is `base_model.model.")),
        "{error}"
    );
    let stray = "base_model.model.model.layers.9.mlp.up_proj.lora_A.weight";
    let error =
        read_error(with_weights(|t| drop(t.insert(stray.to_owned(), t[key].clone()))).path());
    assert!(error.contains(stray) && error.contains("belongs to no module"), "{error}");
    let error = read_error(with_weights(|t| t.get_mut(key).unwrap().shape = vec![8, 32]).path());
    assert!(error.contains("has shape [8, 32], expected [4, 64]"), "{error}");
    let error = read_error(copy(json!({"r": 8})).path());
    assert!(error.contains("expected [8, "), "{error}");
    let error = read_error(copy(json!({"target_modules": ["qkv"]})).path());
    assert!(error.contains("matches no module; there are down_proj, gate_proj"), "{error}");
}

#[test]
fn half_precision_adapters_are_widened() {
    let key = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight";
    for (dtype, one) in [(Dtype::BF16, 0x3f80_u16), (Dtype::F16, 0x3c00)] {
        let dir = with_weights(|tensors| {
            let bytes: Vec<u8> =
                std::iter::repeat_n(one.to_le_bytes(), 128 * 4).flatten().collect();
            tensors.insert(
                key.to_owned(),
                StoredTensor { dtype, shape: vec![128, 4], bytes: bytes.into() },
            );
        });
        let (_, weights) = read_adapter(dir.path(), &modules("llama")).unwrap();
        assert_eq!(weights["model.layers.0.mlp.up_proj"].b, vec![1.0; 128 * 4]);
    }
}

#[test]
fn missing_and_damaged_files_are_named() {
    let dir = copy(json!({}));
    let weights = dir.path().join(WEIGHTS_FILE);
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 5]).unwrap();
    assert!(read_error(dir.path()).contains("copy or download it again"));
    fs::remove_file(&weights).unwrap();
    assert!(read_error(dir.path()).contains("adapter_model.safetensors: No such file"));
    fs::write(dir.path().join("adapter_model.bin"), "").unwrap();
    assert!(read_error(dir.path()).contains("adapter_model.bin is not read"));
    fs::remove_file(dir.path().join(CONFIG_FILE)).unwrap();
    assert!(read_error(dir.path()).contains("adapter_config.json: No such file"));
}

#[test]
fn weights_that_are_not_the_configurations_are_not_written() {
    let (config, mut weights) = read_adapter(&fixture("llama/adapter"), &modules("llama")).unwrap();
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("adapter");
    let narrow = LoraConfig {
        target_modules: TargetModules::Names(vec!["q_proj".into()]),
        ..config.clone()
    };
    assert!(
        write_adapter(&dir, &narrow, "m", &weights)
            .unwrap_err()
            .to_string()
            .contains("14 modules have weights")
    );
    weights.get_mut("model.layers.0.mlp.up_proj").unwrap().a.pop();
    assert!(
        write_adapter(&dir, &config, "m", &weights)
            .unwrap_err()
            .to_string()
            .contains("bytes do not make shape")
    );
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn recipes_parse_with_defaults_and_reject_unknown_fields() {
    let config: LoraConfig =
        serde_json::from_value(json!({"r": 16, "target_modules": "all-linear"})).unwrap();
    assert_eq!(config, LoraConfig { r: 16, ..LoraConfig::default() });
    let config: LoraConfig =
        serde_json::from_value(json!({"target_modules": ["q_proj"], "layers_to_transform": 3}))
            .unwrap();
    assert_eq!(config.layers_to_transform, Some(vec![3]));
    assert!(serde_json::from_value::<LoraConfig>(json!({"lora_r": 16})).is_err());
    let random_b =
        LoraConfig { init_lora_weights: InitLoraWeights::Flag(false), ..LoraConfig::default() };
    assert!(random_b.validate().unwrap_err().to_string().contains("init_lora_weights"));
}
