//! Configurations and shard indices that lie.

use serde_json::{Value, json};

use super::{Bytes, Case, Reader, plain, read};

const NORM: &str = "model.norm.weight";

/// Longer than a name of a file can be.
const LONG: &str = match str::from_utf8(&[b'a'; 5000]) {
    Ok(name) => name,
    Err(_) => unreachable!(),
};

pub(super) fn cases() -> Vec<Case> {
    let config = |field: &str, value: Value| {
        let mut json: Value = serde_json::from_slice(&read("models/llama/config.json")).unwrap();
        json[field] = value;
        let weights = read("models/llama/model.safetensors");
        vec![("config.json", json.to_string().into_bytes()), ("model.safetensors", weights)]
    };
    let index = |text: &str| {
        let config = read("models/llama/config.json");
        let shard = read("models/llama/model.safetensors");
        vec![
            ("config.json", config),
            ("model.safetensors.index.json", text.as_bytes().to_vec()),
            ("a.safetensors", shard),
        ]
    };
    let map = |file: &str| index(&json!({"weight_map": {NORM: file}}).to_string());
    let deep = "[".repeat(200_000);
    plain(
        Reader::Model,
        vec![
            ("an index out of the directory", map("../a.safetensors"), "not a file name"),
            ("an index to the root", map("/etc/passwd"), "not a file name"),
            ("an index into a directory", map("a/b.safetensors"), "not a file name"),
            ("an index to nothing", map(""), "not a file name"),
            ("an index to the directory", map("."), "not a file name"),
            ("an index to a shard that is not there", map("b.safetensors"), "download it"),
            (
                "an index of a tensor that is not there",
                index(r#"{"weight_map": {"x": "a.safetensors"}}"#),
                "nowhere",
            ),
            ("an index that is no JSON", index("{"), "not a shard index"),
            ("an index without a map", index("{}"), "weight_map"),
            ("an index nested deep", index(&deep), "not a shard index"),
            (
                "a configuration that is no JSON",
                vec![("config.json", b"{".to_vec())],
                "config.json",
            ),
            (
                "a configuration nested deep",
                vec![("config.json", deep.into_bytes())],
                "config.json",
            ),
            ("a negative size", config("hidden_size", json!(-64)), "hidden_size"),
            (
                "a size of 10^18",
                config("hidden_size", json!(1_000_000_000_000_000_000_u64)),
                "hidden_size",
            ),
            (
                "layers by the quadrillion",
                config("num_hidden_layers", json!(1_000_000_000_000_000_u64)),
                "num_hidden_layers",
            ),
            (
                "layers by the million",
                config("num_hidden_layers", json!(4_000_000)),
                "num_hidden_layers",
            ),
            (
                "a vocabulary of 10^15",
                config("vocab_size", json!(1_000_000_000_000_000_u64)),
                "vocab_size",
            ),
            ("no heads", config("num_attention_heads", json!(0)), "num_attention_heads"),
            (
                "heads by the billion",
                config("num_attention_heads", json!(4_000_000_000_u64)),
                "num_attention_heads",
            ),
            ("no epsilon", config("rms_norm_eps", json!("x")), "rms_norm_eps"),
            ("another architecture", config("model_type", json!("gpt2")), "model_type"),
            (
                "an architecture that is a list",
                config("model_type", json!(["llama"])),
                "model_type",
            ),
            ("a model of pictures", config("architectures", json!(["CLIPModel"])), "architectures"),
            ("half a size", config("hidden_size", json!(64.5)), "hidden_size"),
            ("a size in words", config("hidden_size", json!("64")), "hidden_size"),
            ("no size", config("hidden_size", json!(0)), "hidden_size"),
            ("no layers", config("num_hidden_layers", json!(0)), "num_hidden_layers"),
            ("no vocabulary", config("vocab_size", json!(0)), "vocab_size"),
            ("no MLP", config("intermediate_size", json!(0)), "intermediate_size"),
            ("an odd width of heads", config("head_dim", json!(15)), "head_dim"),
            ("heads of a billion", config("head_dim", json!(1_000_000_000)), "head_dim"),
            ("3 of 4 heads", config("num_key_value_heads", json!(3)), "num_key_value_heads"),
            ("a negative epsilon", config("rms_norm_eps", json!(-1)), "rms_norm_eps"),
            ("another activation", config("hidden_act", json!("gelu")), "hidden_act"),
            ("no context", config("max_position_embeddings", json!(0)), "max_position_embeddings"),
            ("a frequency of 0", config("rope_theta", json!(0)), "rope"),
            (
                "scaling of an unknown kind",
                config("rope_scaling", json!({"rope_type": "x"})),
                "rope",
            ),
            (
                "scaling by 0",
                config("rope_scaling", json!({"type": "linear", "factor": 0})),
                "factor",
            ),
            (
                "weights in 8 bits",
                config("quantization_config", json!({"load_in_8bit": true})),
                "quantization",
            ),
            ("a list for all", vec![("config.json", b"[]".to_vec())], "config.json"),
            ("bytes that are no text", vec![("config.json", vec![0xff; 64])], "config.json"),
            ("no weights", vec![("config.json", read("models/llama/config.json"))], "neither"),
            (
                "a pickle instead of weights",
                vec![
                    ("config.json", read("models/llama/config.json")),
                    ("pytorch_model.bin", vec![0x80]),
                ],
                "save the model as safetensors",
            ),
            (
                "a tensor that the index has in another shard",
                index(&json!({"weight_map": {NORM: "b.safetensors"}}).to_string()),
                "download it",
            ),
            (
                "an index out of the directory in the middle",
                map("x/../../a.safetensors"),
                "file name",
            ),
            (
                "an index of numbers",
                index(&json!({"weight_map": {NORM: 3}}).to_string()),
                "shard index",
            ),
            ("an index with zeros in a name", map("a\0.safetensors"), "download it"),
            ("an index of a name without end", map(LONG), "download it"),
            (
                "ends that are no tokens",
                with_file("generation_config.json", br#"{"eos_token_id": "x"}"#),
                "generation_config.json",
            ),
            (
                "a generation that is no JSON",
                with_file("generation_config.json", b"{"),
                "generation_config.json",
            ),
        ],
    )
}

/// The llama with one more file.
fn with_file(name: &'static str, bytes: &[u8]) -> Bytes {
    vec![
        ("config.json", read("models/llama/config.json")),
        ("model.safetensors", read("models/llama/model.safetensors")),
        (name, bytes.to_vec()),
    ]
}
