//! Files as nobody should offer them: each is refused with an error that names it, in under a second and without
//! memory to speak of. And files with bytes changed at random, which must never end the process.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use models::adapter::{CONFIG_FILE, WEIGHTS_FILE, read_adapter};
use models::{Checkpoint, ModelConfig, TensorSource, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

/// Names and contents.
type Files = Vec<(&'static str, Vec<u8>)>;

/// What reads the files.
#[derive(Clone, Copy)]
enum Reader {
    Model,
    Gguf,
    Adapter,
}

struct Case {
    name: &'static str,
    reader: Reader,
    files: Files,
    /// Part of the message.
    says: &'static str,
}

impl Reader {
    /// Reads everything there is.
    fn read(self, dir: &Path) -> Result<(), String> {
        let all = |path: &Path| -> models::Result<()> {
            let checkpoint = Checkpoint::open(path)?;
            for (name, shape) in checkpoint.config().parameters() {
                checkpoint.read_shaped(&name, &shape)?;
            }
            Ok(())
        };
        match self {
            Self::Model => all(dir),
            Self::Gguf => {
                // What a tokenizer makes of it must not matter less.
                let _ = Tokenizer::open(&dir.join("m.gguf"));
                all(&dir.join("m.gguf"))
            }
            Self::Adapter => read_adapter(dir, &modules()).map(|_| ()),
        }
        .map_err(|error| error.to_string())
    }
}

fn modules() -> BTreeMap<String, [usize; 2]> {
    let linears = ModelConfig::from_dir(&fixture("models/llama")).unwrap().linears();
    linears.into_iter().map(|l| (l.module, [l.out_features, l.in_features])).collect()
}

fn write(files: &Files) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn read(name: &str) -> Vec<u8> {
    fs::read(fixture(name)).unwrap()
}

/// A safetensors file.
fn safetensors(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header, data].concat()
}

/// A file with its header changed.
fn header(bytes: &[u8], change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> Vec<u8> {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    change(header.as_object_mut().unwrap());
    safetensors(header.to_string().as_bytes(), &bytes[8 + length..])
}

const NORM: &str = "model.norm.weight";

fn weights(bytes: Vec<u8>) -> Files {
    vec![("config.json", read("models/llama/config.json")), ("model.safetensors", bytes)]
}

/// The llama's weights with a field of one tensor replaced.
fn entry(field: &str, value: Value) -> Files {
    let bytes = read("models/llama/model.safetensors");
    weights(header(&bytes, |h| {
        h[NORM].as_object_mut().unwrap().insert(field.to_owned(), value);
    }))
}

fn safetensors_cases() -> Vec<Case> {
    let whole = || read("models/llama/model.safetensors");
    let raw = |length: u64, rest: &[u8]| weights([&length.to_le_bytes()[..], rest].concat());
    let deep = format!("{{\"a\":{}", "[".repeat(200_000));
    let offsets = |a: u64, b: u64| entry("data_offsets", json!([a, b]));
    let twice = {
        let text = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        safetensors(text.as_bytes(), &[0; 8])
    };
    let cases: Vec<(&'static str, Files, &'static str)> = vec![
        ("empty", weights(vec![]), "empty"),
        ("three bytes", weights(vec![1, 2, 3]), "not a complete"),
        ("length of 2^64 - 1", raw(u64::MAX, b"{}"), "safetensors"),
        ("length of 2^40", raw(1 << 40, b"{}"), "safetensors"),
        ("length beyond the end", raw(1000, b"{}"), "not a complete"),
        ("length of 0", raw(0, b"{}"), "safetensors"),
        ("no JSON", weights(safetensors(b"{]]]]]", &[])), "safetensors"),
        ("no UTF-8", weights(safetensors(&[0xff; 64], &[])), "safetensors"),
        ("a list", weights(safetensors(b"[1, 2]  ", &[])), "safetensors"),
        ("nested 200,000 deep", weights(safetensors(deep.as_bytes(), &[])), "safetensors"),
        ("offsets the wrong way round", offsets(256, 0), "safetensors"),
        ("offsets of another tensor", offsets(0, 256), "safetensors"),
        ("offsets beyond the end", offsets(1 << 40, (1 << 40) + 256), "safetensors"),
        ("negative offsets", entry("data_offsets", json!([-256, 0])), "safetensors"),
        ("offsets in words", entry("data_offsets", json!(["0", "256"])), "safetensors"),
        ("no offsets", entry("data_offsets", Value::Null), "safetensors"),
        ("a negative shape", entry("shape", json!([-64])), "safetensors"),
        ("a shape of fractions", entry("shape", json!([64.5])), "safetensors"),
        ("a shape that overflows", entry("shape", json!([u64::MAX, u64::MAX])), "safetensors"),
        ("a larger shape", entry("shape", json!([65])), "safetensors"),
        ("another shape of that size", entry("shape", json!([2, 32])), "shape"),
        ("an unknown type", entry("dtype", json!("F99")), "safetensors"),
        ("integers for weights", entry("dtype", json!("I32")), "type I32"),
        ("data cut off", weights(whole()[..whole().len() - 1].to_vec()), "cut off"),
        ("data too long", weights([whole(), vec![0]].concat()), "not a complete"),
        ("names twice", weights(twice), "safetensors"),
        (
            "a Git LFS pointer",
            weights(b"version https://git-lfs.github.com/spec/v1\noid".to_vec()),
            "git lfs pull",
        ),
        (
            "a page of HTML",
            weights(b"<!doctype html><html><body>Not found</body></html>".to_vec()),
            "safetensors",
        ),
        ("a zip file", weights([&b"PK\x03\x04"[..], &[0; 64]].concat()), "safetensors"),
        (
            "metadata that is no text",
            weights(header(&whole(), |h| {
                h.insert("__metadata__".into(), json!({"format": {"a": [1]}}));
            })),
            "safetensors",
        ),
    ];
    cases
        .into_iter()
        .map(|(name, files, says)| Case { name, reader: Reader::Model, files, says })
        .collect()
}

fn config_and_index_cases() -> Vec<Case> {
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
    let cases: Vec<(&'static str, Files, &'static str)> = vec![
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
        ("a configuration that is no JSON", vec![("config.json", b"{".to_vec())], "config.json"),
        ("a configuration nested deep", vec![("config.json", deep.into_bytes())], "config.json"),
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
    ];
    cases
        .into_iter()
        .map(|(name, files, says)| Case { name, reader: Reader::Model, files, says })
        .collect()
}

fn bnb_cases() -> Vec<Case> {
    const WEIGHT: &str = "model.layers.0.self_attn.q_proj.weight";
    let whole = || read("models/llama-bnb4/model.safetensors");
    let files = |bytes| {
        vec![("config.json", read("models/llama-bnb4/config.json")), ("model.safetensors", bytes)]
    };
    let state_key = format!("{WEIGHT}.quant_state.bitsandbytes__nf4");
    // The state's JSON with one field changed, in as many bytes.
    let state = |from: &str, to: &str| {
        let mut bytes = whole();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let offset = |i: usize| {
            header[&state_key]["data_offsets"][i].as_u64().unwrap() as usize + 8 + length
        };
        let range = offset(0)..offset(1);
        let text = String::from_utf8(bytes[range.clone()].to_vec()).unwrap();
        assert!(text.contains(from) && from.len() == to.len(), "{text}");
        bytes.splice(range, text.replacen(from, to, 1).into_bytes());
        files(bytes)
    };
    let renamed = |from: &str, to: &str| {
        files(header(&whole(), |h| {
            let value = h.remove(&format!("{WEIGHT}.{from}")).unwrap();
            h.insert(format!("{WEIGHT}.{to}"), value);
        }))
    };
    let cases: Vec<(&'static str, Files, &'static str)> = vec![
        ("a state that is no JSON", state("{\"", "[\""), "quantization state"),
        ("a block of 0", state("\"blocksize\": 64", "\"blocksize\":  0"), "block"),
        ("a block of 63", state("\"blocksize\": 64", "\"blocksize\": 63"), "block"),
        ("a negative block", state("\"blocksize\": 64", "\"blocksize\": -4"), "quant state"),
        ("another shape", state("\"shape\": [64,", "\"shape\": [65,"), "shape"),
        ("a code book without a table", renamed("quant_map", "quant_mop"), "quant_mop"),
        ("no absmax", renamed("absmax", "absmix"), "absmix"),
        ("no nested absmax", renamed("nested_absmax", "nested_absmix"), "nested_absmix"),
        (
            "8 bits",
            renamed("quant_state.bitsandbytes__nf4", "quant_state.bitsandbytes__int8"),
            "int8",
        ),
        (
            "no kind",
            renamed("quant_state.bitsandbytes__nf4", "quant_state.bitsandbytes__"),
            "quantized as",
        ),
    ];
    cases
        .into_iter()
        .map(|(name, files, says)| Case { name, reader: Reader::Model, files, says })
        .collect()
}

/// A GGUF header in the making.
fn gguf(tensors: u64, metadata: u64, rest: &[u8]) -> Vec<u8> {
    [&b"GGUF"[..], &3_u32.to_le_bytes(), &tensors.to_le_bytes(), &metadata.to_le_bytes(), rest]
        .concat()
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A tensor's description, with its dimensions in ggml's order.
fn tensor(name: &str, dimensions: &[u64], ty: u32, offset: u64) -> Vec<u8> {
    let mut out = text(name);
    out.extend((dimensions.len() as u32).to_le_bytes());
    out.extend(dimensions.iter().flat_map(|d| d.to_le_bytes()));
    out.extend(ty.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out
}

fn gguf_cases() -> Vec<Case> {
    let uint = |key: &str, value: u32| {
        [text(key), 4_u32.to_le_bytes().to_vec(), value.to_le_bytes().to_vec()].concat()
    };
    let array = |element: u32, count: u64| {
        [
            text("a"),
            9_u32.to_le_bytes().to_vec(),
            element.to_le_bytes().to_vec(),
            count.to_le_bytes().to_vec(),
        ]
        .concat()
    };
    let one = |tensor: Vec<u8>| gguf(1, 0, &[tensor, vec![0; 512]].concat());
    let two = |a: Vec<u8>, b: Vec<u8>| gguf(2, 0, &[a, b, vec![0; 512]].concat());
    let norm = "output_norm.weight";
    let cases: Vec<(&'static str, Vec<u8>, &'static str)> = vec![
        ("nothing", vec![], "m.gguf"),
        ("another magic", b"GGML\x03\0\0\0".to_vec(), "not a GGUF file"),
        ("version 99", [&b"GGUF"[..], &99_u32.to_le_bytes()].concat(), "version"),
        ("a big-endian file", [&b"GGUF"[..], &3_u32.to_be_bytes()].concat(), "big-endian"),
        ("2^64 - 1 tensors", gguf(u64::MAX, 0, &[]), "tensor 0"),
        ("2^64 - 1 entries", gguf(0, u64::MAX, &[]), "metadata entry 0"),
        ("a key of 2^64 - 1 bytes", gguf(0, 1, &u64::MAX.to_le_bytes()), "metadata"),
        (
            "a key that is no UTF-8",
            gguf(0, 1, &[&3_u64.to_le_bytes()[..], &[0xff; 64]].concat()),
            "UTF-8",
        ),
        (
            "a value type of 99",
            gguf(0, 1, &[text("a"), 99_u32.to_le_bytes().to_vec()].concat()),
            "value type 99",
        ),
        ("2^60 bytes in an array", gguf(0, 1, &array(0, 1 << 60)), "an array of"),
        ("2^60 strings in an array", gguf(0, 1, &array(8, 1 << 60)), "an array of"),
        ("arrays in an array", gguf(0, 1, &array(9, 1)), "array"),
        ("keys twice", gguf(0, 2, &[uint("a", 1), uint("a", 2)].concat()), "twice"),
        ("an alignment of 3", gguf(0, 1, &uint("general.alignment", 3)), "alignment"),
        ("an alignment of 0", gguf(0, 1, &uint("general.alignment", 0)), "alignment"),
        ("five dimensions", one(tensor(norm, &[1; 5], 0, 0)), "5 dimensions"),
        ("no dimensions", one(tensor(norm, &[], 0, 0)), "0 dimensions"),
        ("a dimension of 0", one(tensor(norm, &[0], 0, 0)), "whole blocks"),
        ("2^126 elements", one(tensor(norm, &[1 << 63, 1 << 63], 0, 0)), "too large"),
        ("half a block", one(tensor(norm, &[33], 8, 0)), "whole blocks"),
        ("an unknown type", one(tensor(norm, &[4], 77, 0)), "unknown ggml type"),
        ("an offset beyond the end", one(tensor(norm, &[4], 0, 1 << 40)), "file ends"),
        ("an offset of 2^64 - 1", one(tensor(norm, &[4], 0, u64::MAX)), "too large"),
        ("an offset in between", one(tensor(norm, &[4], 0, 4)), "alignment"),
        (
            "tensors over one another",
            two(tensor(norm, &[64], 0, 0), tensor("token_embd.weight", &[4], 0, 32)),
            "overlap",
        ),
        ("tensors twice", two(tensor(norm, &[4], 0, 0), tensor(norm, &[4], 0, 32)), "twice"),
        ("one part of three", gguf(0, 1, &uint("split.count", 3)), "parts"),
        ("no architecture", gguf(0, 0, &[]), "general.architecture"),
    ];
    cases
        .into_iter()
        .map(|(name, bytes, says)| Case {
            name,
            reader: Reader::Gguf,
            files: vec![("m.gguf", bytes)],
            says,
        })
        .collect()
}

fn adapter_cases() -> Vec<Case> {
    const A: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    let config = || read("models/llama/adapter/adapter_config.json");
    let whole = || read("models/llama/adapter/adapter_model.safetensors");
    let set = |field: &str, value: Value| {
        let mut json: Value = serde_json::from_slice(&config()).unwrap();
        json[field] = value;
        vec![(CONFIG_FILE, json.to_string().into_bytes()), (WEIGHTS_FILE, whole())]
    };
    let weights = |bytes| vec![(CONFIG_FILE, config()), (WEIGHTS_FILE, bytes)];
    // The first value of the file's data replaced.
    let value = |value: f32| {
        let mut bytes = whole();
        let data = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize + 8;
        bytes[data..data + 4].copy_from_slice(&value.to_le_bytes());
        weights(bytes)
    };
    let field = |name: &str, value: Value| {
        weights(header(&whole(), |h| {
            h[A].as_object_mut().unwrap().insert(name.to_owned(), value);
        }))
    };
    let deep = "[".repeat(200_000).into_bytes();
    let cases: Vec<(&'static str, Files, &'static str)> = vec![
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
        ("code to run", set("auto_mapping_x", json!({"a": "__import__('os')"})), "auto_mapping_x"),
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
    ];
    cases
        .into_iter()
        .map(|(name, files, says)| Case { name, reader: Reader::Adapter, files, says })
        .collect()
}

#[test]
fn hostile_files_are_refused_at_once_and_without_memory() {
    let cases: Vec<Case> =
        [safetensors_cases, config_and_index_cases, bnb_cases, gguf_cases, adapter_cases]
            .into_iter()
            .flat_map(|cases| cases())
            .collect();
    assert!(cases.len() >= 100, "{}", cases.len());
    let mut wrong = Vec::new();
    for Case { name, reader, files, says } in &cases {
        let dir = write(files);
        let start = Instant::now();
        let result = reader.read(dir.path());
        let took = start.elapsed();
        let message = result.err().unwrap_or_else(|| "no error at all".to_owned());
        let named = message.contains(dir.path().to_str().unwrap()) || message.starts_with("LoRA: ");
        if !(message.contains(says) && named) || took > Duration::from_secs(1) {
            wrong.push(format!("{name} ({took:.2?}): {message:.300}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    if cfg!(target_os = "linux") {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let kib: u64 = peak.trim().trim_end_matches("kB").trim().parse().unwrap();
        assert!(kib < 200_000, "{kib} kB at the most");
    }
}

/// A header that announces 100 MB of itself, in a file that has them.
#[test]
fn a_header_of_a_hundred_megabytes_is_not_read() {
    let dir = write(&weights(vec![]));
    let path = dir.path().join("model.safetensors");
    fs::write(&path, 110_000_000_u64.to_le_bytes()).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(120_000_000).unwrap();
    let start = Instant::now();
    let message = Reader::Model.read(dir.path()).unwrap_err();
    assert!(
        message.contains("not a safetensors file") && start.elapsed() < Duration::from_secs(1),
        "{message}"
    );
}

/// Bytes changed at some places, and a part of the file.
fn damage(
    bytes: &[u8],
    changes: &[(prop::sample::Index, u8)],
    cut: Option<prop::sample::Index>,
) -> Vec<u8> {
    // Most of what can be misread is in front.
    let front = bytes.len().min(4096);
    let mut bytes = bytes.to_vec();
    for (at, value) in changes {
        bytes[at.index(front)] = *value;
    }
    bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn changed_bytes_never_end_the_process(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::weighted(0.3, any::<prop::sample::Index>()),
    ) {
        let damaged = |name: &str| damage(&read(name), &changes, cut);
        for model in ["models/llama", "models/llama-bnb4"] {
            let weights = damaged(&format!("{model}/model.safetensors"));
            let config = read(&format!("{model}/config.json"));
            let _ = Reader::Model.read(write(&vec![("config.json", config.clone()), ("model.safetensors", weights)]).path());
            let weights = read(&format!("{model}/model.safetensors"));
            let config = damage(&config, &changes, cut);
            let _ = Reader::Model.read(write(&vec![("config.json", config), ("model.safetensors", weights)]).path());
        }
        for file in ["gguf/qwen3.gguf", "gguf/tok-spm.gguf"] {
            let _ = Reader::Gguf.read(write(&vec![("m.gguf", damaged(file))]).path());
        }
        let (config, weights) = ("models/llama/adapter/adapter_config.json", "models/llama/adapter/adapter_model.safetensors");
        let _ = Reader::Adapter.read(write(&vec![(CONFIG_FILE, damaged(config)), (WEIGHTS_FILE, read(weights))]).path());
        let _ = Reader::Adapter.read(write(&vec![(CONFIG_FILE, read(config)), (WEIGHTS_FILE, damaged(weights))]).path());
    }
}
