//! `config.json`: both layouts of every supported architecture, refusals, warnings, and the way back.

use std::path::{Path, PathBuf};

use models::{Architecture, Error, ModelConfig, RopeConfig, RopeScaling};
use nf4::SourceDtype;
use serde_json::{Value, json};

const FAMILIES: [&str; 5] = ["llama", "mistral", "qwen2", "qwen3", "llama-bnb4"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

fn json_of(model: &str) -> Value {
    let text =
        std::fs::read_to_string(fixtures().join("models").join(model).join("config.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn parse(json: &Value) -> Result<ModelConfig, Error> {
    ModelConfig::from_json(&json.to_string(), Path::new("config.json"))
}

/// The fixture's configuration with fields replaced.
fn with(model: &str, changes: Value) -> Value {
    let mut json = json_of(model);
    let Value::Object(changes) = changes else { panic!("an object") };
    json.as_object_mut().unwrap().extend(changes);
    json
}

fn refusal(json: &Value) -> String {
    match parse(json) {
        Err(error @ Error::Field { .. }) => error.to_string(),
        other => panic!("expected a refused field, got {other:?}"),
    }
}

#[test]
fn both_layouts_say_the_same() {
    for model in ["llama", "mistral", "qwen2", "qwen3"] {
        let dir = fixtures().join("models").join(model);
        let old = ModelConfig::from_dir(&dir).unwrap();
        let text = std::fs::read_to_string(dir.join("config_v5.json")).unwrap();
        let new = ModelConfig::from_json(&text, &dir.join("config_v5.json")).unwrap();
        assert_eq!(old, new, "{model}");
        assert_eq!(old.warnings, Vec::<String>::new(), "{model}");
        assert_eq!(old.dtype, Some(SourceDtype::F32));
    }
}

#[test]
fn architectures_differ_where_they_should() {
    let llama = parse(&json_of("llama")).unwrap();
    assert_eq!(
        (llama.architecture, llama.head_dim, llama.num_key_value_heads),
        (Architecture::Llama, 16, 2)
    );
    assert!(!llama.qkv_bias && !llama.qk_norm && !llama.tie_word_embeddings && !llama.mlp_bias);
    assert_eq!(
        (llama.rms_norm_eps, llama.bos_token_id, llama.eos_token_ids),
        (1e-5, Some(1), vec![2])
    );
    let mistral = parse(&json_of("mistral")).unwrap();
    assert_eq!(mistral.sliding_window, vec![Some(8); 2]);
    let qwen2 = parse(&json_of("qwen2")).unwrap();
    assert!(qwen2.qkv_bias && !qwen2.o_bias && qwen2.tie_word_embeddings);
    assert_eq!((qwen2.rope.theta, qwen2.sliding_window), (1e6, vec![None; 2]));
    let qwen3 = parse(&json_of("qwen3")).unwrap();
    assert!(qwen3.qk_norm && !qwen3.qkv_bias);
    assert_eq!((qwen3.head_dim, qwen3.query_size(), qwen3.key_value_size()), (16, 64, 32));
    let quantized = parse(&json_of("llama-bnb4")).unwrap().quantization.unwrap();
    assert!(quantized.bnb_4bit_use_double_quant);
    assert_eq!(quantized.bnb_4bit_quant_type, nf4::QuantType::Nf4);
}

#[test]
fn llama_biases_are_read() {
    let config = parse(&with("llama", json!({"attention_bias": true, "mlp_bias": true}))).unwrap();
    assert!(config.qkv_bias && config.o_bias && config.mlp_bias);
}

#[test]
fn absent_fields_take_the_defaults_of_transformers() {
    let mut json = json_of("mistral");
    let map = json.as_object_mut().unwrap();
    for field in [
        "sliding_window",
        "head_dim",
        "rope_theta",
        "rms_norm_eps",
        "tie_word_embeddings",
        "eos_token_id",
    ] {
        map.remove(field);
    }
    let config = parse(&json).unwrap();
    assert_eq!(
        (config.sliding_window[0], config.head_dim, config.rope.theta),
        (Some(4096), 8, 10_000.0)
    );
    assert_eq!((config.rms_norm_eps, config.eos_token_ids), (1e-6, vec![2]));
    let null =
        parse(&with("mistral", json!({"sliding_window": null, "eos_token_id": null}))).unwrap();
    assert_eq!((null.sliding_window, null.eos_token_ids), (vec![None; 2], vec![]));
}

#[test]
fn qwen_windows_follow_layer_types_or_max_window_layers() {
    let on = json!({"use_sliding_window": true, "sliding_window": 4, "max_window_layers": 1});
    let mut json = with("qwen2", on);
    assert_eq!(
        parse(&json).unwrap().sliding_window,
        vec![None; 2],
        "layer_types has the last word"
    );
    json["layer_types"] = json!(["sliding_attention", "full_attention"]);
    assert_eq!(parse(&json).unwrap().sliding_window, vec![Some(4), None]);
    json["layer_types"] = Value::Null;
    assert_eq!(parse(&json).unwrap().sliding_window, vec![None, Some(4)]);
    json["use_sliding_window"] = json!(false);
    assert_eq!(parse(&json).unwrap().sliding_window, vec![None; 2]);
    json["layer_types"] = json!(["full_attention"]);
    assert!(refusal(&json).contains("1 layers"), "{}", refusal(&json));
    json["layer_types"] = json!(["full_attention", "chunked_attention"]);
    assert!(refusal(&json).contains("chunked_attention"));
}

#[test]
fn other_maths_is_refused_by_name() {
    for (changes, parts) in [
        (json!({"model_type": "gemma2"}), ["model_type", "llama, mistral, qwen2, qwen3"]),
        (
            json!({"architectures": ["LlamaForSequenceClassification"]}),
            ["architectures", "LlamaForCausalLM"],
        ),
        (json!({"hidden_act": "gelu"}), ["hidden_act", "only \"silu\""]),
        (json!({"pretraining_tp": 2}), ["pretraining_tp", "null or 1"]),
        (json!({"attn_logit_softcapping": 50.0}), ["attn_logit_softcapping", "50.0"]),
        (json!({"partial_rotary_factor": 0.5}), ["partial_rotary_factor", "0.5"]),
        (
            json!({"rope_scaling": {"rope_type": "longrope", "factor": 4.0}}),
            ["rope_scaling.rope_type", "longrope"],
        ),
        (
            json!({"rope_scaling": {"type": "mrope"}}),
            ["rope_scaling.type", "supported are default"],
        ),
        (json!({"rope_scaling": {"rope_type": "linear"}}), ["rope_scaling.factor", "is missing"]),
        (
            json!({"rope_scaling": {"rope_type": "linear", "factor": -1.0}}),
            ["rope_scaling.factor", "positive"],
        ),
        (json!({"use_mrope": true}), ["use_mrope", "null, false or 0"]),
        (json!({"hidden_size": "64"}), ["hidden_size", "whole number"]),
        (json!({"hidden_size": null}), ["hidden_size", "is missing"]),
        (json!({"num_key_value_heads": 3}), ["num_key_value_heads", "does not divide"]),
        (json!({"head_dim": 7}), ["head_dim", "even"]),
        (json!({"num_hidden_layers": 0}), ["num_hidden_layers", "is 0"]),
        (json!({"num_hidden_layers": 1_u64 << 60}), ["num_hidden_layers", "1..=4096"]),
        (json!({"num_hidden_layers": 4097}), ["num_hidden_layers", "1..=4096"]),
        (json!({"head_dim": 1 << 20}), ["head_dim", "1..=65536"]),
        (json!({"vocab_size": 1 << 30}), ["vocab_size", "1..=16777216"]),
        (
            json!({"num_attention_heads": 1 << 20, "num_key_value_heads": 1, "head_dim": 32}),
            ["num_attention_heads", "1..=524288"],
        ),
        (json!({"torch_dtype": "float8"}), ["torch_dtype", "bfloat16"]),
        (
            json!({"quantization_config": {"quant_method": "gptq"}}),
            ["quantization_config.quant_method", "gptq"],
        ),
        (
            json!({"quantization_config": {"load_in_8bit": true}}),
            ["quantization_config.load_in_4bit", "not true"],
        ),
    ] {
        let message = refusal(&with("llama", changes));
        assert!(message.starts_with("config.json: field `"), "{message}");
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
}

#[test]
fn unknown_fields_are_named_in_warnings() {
    let json = with(
        "llama",
        json!({
            "frobnicate": 3,
            "use_cache": false,
            "attention_dropout": 0.1,
            "rope_scaling": {"rope_type": "linear", "factor": 2.0, "finetuned": true},
        }),
    );
    let warnings = parse(&json).unwrap().warnings;
    for (warning, field) in
        warnings.iter().zip(["attention_dropout", "rope_scaling.finetuned", "frobnicate"])
    {
        assert!(warning.contains(field), "{warnings:?}");
    }
    assert_eq!(warnings.len(), 3, "{warnings:?}");
}

#[test]
fn rotary_parameters_that_are_not_read_are_named() {
    let scaling = json!({"rope_type": "linear", "factor": 2.0});
    let both = json!({"rope_scaling": scaling, "rope_parameters": {"rope_theta": 5e5}});
    let config = parse(&with("llama", both)).unwrap();
    assert_eq!(config.rope.scaling, RopeScaling::Linear { factor: 2.0 });
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
    assert!(
        config.warnings[0].contains("`rope_parameters`") && config.warnings[0].contains("500000")
    );
    for one in [
        json!({"rope_scaling": scaling, "rope_parameters": null, "use_mrope": false}),
        json!({"rope_scaling": {}, "rope_parameters": {"rope_theta": 5e5}}),
    ] {
        assert_eq!(parse(&with("llama", one)).unwrap().warnings, Vec::<String>::new());
    }
}

#[test]
fn malformed_files_are_named() {
    let error = ModelConfig::from_json("{", Path::new("x/config.json")).unwrap_err().to_string();
    assert!(error.starts_with("x/config.json: not a JSON object"), "{error}");
    let error = ModelConfig::from_dir(Path::new("no/such/dir")).unwrap_err().to_string();
    assert!(error.starts_with("no/such/dir/config.json: No such file"), "{error}");
}

#[test]
fn generation_config_extends_the_special_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let config = with("llama", json!({"eos_token_id": [2, 5], "pad_token_id": -1}));
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let generation =
        json!({"eos_token_id": [5, 7], "bos_token_id": 9, "pad_token_id": 0, "temperature": 0.6});
    std::fs::write(dir.path().join("generation_config.json"), generation.to_string()).unwrap();
    let config = ModelConfig::from_dir(dir.path()).unwrap();
    assert_eq!(config.eos_token_ids, [2, 5, 7]);
    assert_eq!((config.bos_token_id, config.pad_token_id), (Some(1), Some(0)));
    assert_eq!(
        config.warnings.len(),
        1,
        "the negative padding token is named: {:?}",
        config.warnings
    );
}

#[test]
fn frequencies_are_those_of_transformers() {
    let text = std::fs::read_to_string(fixtures().join("rope/rope.json")).unwrap();
    let file: Value = serde_json::from_str(&text).unwrap();
    let cases = file["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 11);
    for case in cases {
        let json = with(
            "llama",
            json!({
                "rope_scaling": case["rope_scaling"],
                "rope_theta": case["rope_theta"],
                "head_dim": case["head_dim"],
                "max_position_embeddings": case["max_position_embeddings"],
            }),
        );
        let config = parse(&json).unwrap();
        let (inv_freq, scaling) =
            config.rope_tables(case["seq_len"].as_u64().unwrap_or(1) as usize);
        let expected: Vec<f64> =
            case["inv_freq"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        assert_eq!(inv_freq.len(), expected.len());
        for (got, want) in inv_freq.iter().zip(&expected) {
            assert!(
                (f64::from(*got) / want - 1.0).abs() < 2e-6,
                "{got} {want} {}",
                case["rope_scaling"]
            );
        }
        let want = case["attention_scaling"].as_f64().unwrap();
        assert!((f64::from(scaling) / want - 1.0).abs() < 1e-6, "{scaling} {want}");
    }
}

#[test]
fn scaling_stretches_the_context() {
    let original = "original_max_position_embeddings";
    for (scaling, limit) in [
        (json!(null), 32_768),
        (json!({"rope_type": "dynamic", "factor": 2.0}), 65_536),
        (json!({"rope_type": "linear", "factor": 1.5}), 49_152),
        (json!({"rope_type": "linear", "factor": 0.5}), 32_768),
        (json!({"rope_type": "linear", "factor": 1e300}), 1 << 30),
        // As the Qwen2.5 model cards tell users to set it.
        (json!({"type": "yarn", "factor": 4.0, original: 32_768}), 131_072),
        (json!({"rope_type": "yarn", "factor": 4.0, original: 8192}), 32_768),
        (json!({"rope_type": "yarn", "factor": 2.0, original: 8192}), 32_768),
        (
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                   "high_freq_factor": 4.0, original: 8192}),
            32_768,
        ),
    ] {
        let json =
            with("llama", json!({"max_position_embeddings": 32_768, "rope_scaling": scaling}));
        assert_eq!(parse(&json).unwrap().context_limit(), limit, "{scaling}");
    }
}

#[test]
fn what_is_written_reads_back() {
    let scalings = [
        json!(null),
        json!({"rope_type": "linear", "factor": 2.0}),
        json!({"type": "dynamic", "factor": 3.5}),
        json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 32}),
        json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "mscale": 0.7}),
    ];
    let windows = json!({"use_sliding_window": true, "sliding_window": 4,
                         "layer_types": ["sliding_attention", "full_attention"]});
    let biases = json!({"attention_bias": true});
    for model in FAMILIES {
        for scaling in &scalings {
            let mut json = with(
                model,
                json!({"rope_scaling": scaling, "rope_parameters": null, "eos_token_id": [2, 3], "bos_token_id": null}),
            );
            let extra = match model {
                "qwen2" | "qwen3" => &windows,
                "llama" => &biases,
                _ => &json!({}),
            };
            json.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            let config = parse(&json).unwrap();
            let written = config.to_json(Path::new("out")).unwrap();
            assert_eq!(parse(&written).unwrap(), config, "{model} {scaling}");
        }
    }
}

#[test]
fn what_cannot_be_written_is_an_error() {
    let config = parse(&json_of("llama")).unwrap();
    let scaling = RopeScaling::FrequencyFactors(vec![1.0; 8]);
    let factors = ModelConfig { rope: RopeConfig { theta: 1e4, scaling }, ..config.clone() };
    assert!(factors.clone().validated(Path::new("x")).is_ok());
    assert!(factors.to_json(Path::new("x")).unwrap_err().to_string().contains("rope_scaling"));
    let windowed = ModelConfig { sliding_window: vec![Some(3); 2], ..config };
    assert!(windowed.to_json(Path::new("x")).unwrap_err().to_string().contains("sliding_window"));
}
