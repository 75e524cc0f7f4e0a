//! Adapters whose settings and weights do not fit.

use models::adapter::{CONFIG_FILE, WEIGHTS_FILE};
use serde_json::{Value, json};

use super::{Case, Reader, header, plain, read, with_value};

pub(super) fn cases() -> Vec<Case> {
    const A: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    let config = || read("models/llama/adapter/adapter_config.json");
    let whole = || read("models/llama/adapter/adapter_model.safetensors");
    let set = |field: &str, value: Value| {
        let mut json: Value = serde_json::from_slice(&config()).unwrap();
        json[field] = value;
        vec![(CONFIG_FILE, json.to_string().into_bytes()), (WEIGHTS_FILE, whole())]
    };
    let weights = |bytes| vec![(CONFIG_FILE, config()), (WEIGHTS_FILE, bytes)];
    // The first value of one matrix replaced.
    let value = |value: f32| weights(with_value(whole(), A, value));
    let field = |name: &str, value: Value| {
        weights(header(&whole(), |h| {
            h[A].as_object_mut().unwrap().insert(name.to_owned(), value);
        }))
    };
    let deep = "[".repeat(200_000).into_bytes();
    plain(
        Reader::Adapter,
        vec![
            ("settings that are no JSON", vec![(CONFIG_FILE, b"{".to_vec())], "not a JSON object"),
            ("settings nested deep", vec![(CONFIG_FILE, deep)], "not a JSON object"),
            ("a rank of 0", set("r", json!(0)), "r"),
            ("a negative rank", set("r", json!(-4)), "`r`"),
            ("a rank of 10^18", set("r", json!(1_000_000_000_000_000_000_u64)), "shape"),
            (
                "a rank in a pattern of 10^18",
                set("rank_pattern", json!({"q_proj": 1_000_000_000_000_000_000_u64})),
                "shape",
            ),
            ("a pattern that is none", set("target_modules", json!("(((")), "target_modules"),
            ("another method", set("peft_type", json!("PREFIX_TUNING")), "peft_type"),
            (
                "code to run",
                set("auto_mapping_x", json!({"a": "__import__('os')"})),
                "auto_mapping_x",
            ),
            ("weights that are not numbers", value(f32::NAN), "not finite"),
            ("infinite weights", value(f32::INFINITY), "not finite"),
            ("integer weights", field("dtype", json!("I32")), "type I32"),
            ("weights of another shape", field("shape", json!([1, 1])), "safetensors"),
            ("weights cut off", weights(whole()[..200].to_vec()), "cut off"),
            (
                "weights of nobody",
                weights(header(&whole(), |h| {
                    let value = h.remove(A).unwrap();
                    h.insert("x".into(), value);
                })),
                "is missing",
            ),
            ("no settings", vec![(WEIGHTS_FILE, whole())], "adapter_config.json"),
            ("no weights", vec![(CONFIG_FILE, config())], "adapter_model.safetensors"),
            (
                "a pickle instead of weights",
                vec![(CONFIG_FILE, config()), ("adapter_model.bin", vec![0x80])],
                "save it with safetensors",
            ),
            ("settings that are a list", vec![(CONFIG_FILE, b"[]".to_vec())], "not a JSON object"),
            (
                "settings that are no text",
                vec![(CONFIG_FILE, vec![0xff; 64])],
                "adapter_config.json",
            ),
            ("no method", set("peft_type", Value::Null), "peft_type"),
            ("half a rank", set("r", json!(4.5)), "`r`"),
            ("a rank in words", set("r", json!("4")), "`r`"),
            ("another rank", set("r", json!(8)), "shape"),
            ("an alpha without end", set("lora_alpha", json!(f64::MAX)), "alpha"),
            ("an alpha in words", set("lora_alpha", json!("x")), "lora_alpha"),
            ("a dropout of 2", set("lora_dropout", json!(2)), "lora_dropout"),
            ("a dropout below 0", set("lora_dropout", json!(-0.5)), "lora_dropout"),
            ("targets by number", set("target_modules", json!(3)), "target_modules"),
            ("targets that do not exist", set("target_modules", json!(["x"])), "matches no module"),
            (
                "a weight of a long name",
                weights(header(&whole(), |h| {
                    let value = h.remove(A).unwrap();
                    h.insert("n".repeat(10 << 20), value);
                })),
                "is missing",
            ),
            ("no targets", set("target_modules", json!([])), "matches no module"),
            ("the head as a target", set("target_modules", json!(["lm_head"])), "lm_head"),
            (
                "a pattern that never ends",
                set("target_modules", json!("(.*)*(.*)*(.*)*(.*)*(.*)*\\1x")),
                "target_modules",
            ),
            (
                "a pattern of a billion states",
                set("target_modules", json!("((a{1000}){1000}){1000}")),
                "target_modules",
            ),
            (
                "a pattern nested deep",
                set("target_modules", json!("(".repeat(100_000))),
                "target_modules",
            ),
            ("ranks that are a list", set("rank_pattern", json!([1])), "rank_pattern"),
            ("a rank of 0 in a pattern", set("rank_pattern", json!({"q_proj": 0})), "r"),
            (
                "a pattern of ranks that is none",
                set("rank_pattern", json!({"(": 1})),
                "rank_pattern",
            ),
            ("layers by name", set("layers_to_transform", json!(["x"])), "layers_to_transform"),
            ("DoRA", set("use_dora", json!(true)), "use_dora"),
            ("whole modules", set("modules_to_save", json!(["lm_head"])), "modules_to_save"),
            ("trained biases", set("bias", json!("all")), "bias"),
            ("another task", set("task_type", json!("SEQ_CLS")), "task_type"),
            ("another start", set("init_lora_weights", json!("pissa")), "init_lora_weights"),
            (
                "more weights than targets",
                set("target_modules", json!(["model.layers.0.self_attn.q_proj"])),
                "belongs to no module",
            ),
            ("an empty file of weights", weights(vec![]), "empty"),
        ],
    )
}
