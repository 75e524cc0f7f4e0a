//! A checkpoint of a run: `m` and a manifest as it is; else state, recipe, and header and data of the optimizer's
//! moments, under a manifest that is right.
#![no_main]

use std::fmt::Write as _;
use std::sync::LazyLock;

use autograd::{AdamW, AdamWConfig, Param, Params};
use fuzz::{Scratch, parts, safetensors};
use kernels::{Backend, Cpu, HostSlice, MemoryKind};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use trainer::checkpoint::{Checkpoint, Identity, differences};
use trainer::recipe::Recipe;

static BACKEND: LazyLock<Cpu> = LazyLock::new(Cpu::new);

/// A small parameter, and one with 8-bit moments.
static PARAMS: LazyLock<Params<Cpu>> = LazyLock::new(|| {
    let mut params = Params::default();
    for (name, len) in [("a", 4), ("b", 4096)] {
        let value =
            BACKEND.upload(HostSlice::F32(&vec![0.0; len]), MemoryKind::Adapters).expect("small");
        params.push(Param { name: name.to_owned(), shape: vec![len], value });
    }
    params
});

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    let dir = Scratch::new();
    let mut manifest = Map::new();
    let mut add = |name: &str, bytes: &[u8]| {
        dir.write(name, bytes);
        let hash = Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("strings take everything");
            text
        });
        manifest.insert(name.to_owned(), json!({"bytes": bytes.len(), "sha256": hash}));
    };
    add("adapter/adapter_config.json", b"{}");
    add("adapter/adapter_model.safetensors", b"");
    let [state, recipe, header, data] = if *kind == b'm' { [&b""[..]; 4] } else { parts(rest) };
    add("state.json", state);
    add("recipe.toml", recipe);
    add("optimizer.safetensors", &safetensors(header, data));
    let files = Value::Object(manifest);
    let manifest = json!({
        "format": "qlora-train checkpoint", "version": 1, "program": "fuzz", "files": files
    });
    let manifest = manifest.to_string();
    dir.write("manifest.json", if *kind == b'm' { rest } else { manifest.as_bytes() });
    let Ok(checkpoint) = Checkpoint::open(dir.path()) else { return };
    let identity = Identity {
        device: "cpu".into(),
        model: String::new(),
        tokenizer: String::new(),
        data: String::new(),
        eval_data: None,
    };
    let then = (&checkpoint.recipe, &checkpoint.state.identity);
    let _ = differences(then, (&Recipe::default(), &identity));
    let (backend, params) = (&*BACKEND, &*PARAMS);
    if let Ok(state) = checkpoint.optimizer(params) {
        let config = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
        for mut optimizer in [
            AdamW::new(backend, params, config).expect("small"),
            AdamW::new_8bit(backend, params, config).expect("small"),
        ] {
            let _ = optimizer.restore(backend, params, &state);
        }
    }
});
