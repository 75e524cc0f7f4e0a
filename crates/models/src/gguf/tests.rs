//! Fixtures by gguf-py, and headers written here byte by byte.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use nf4::{QuantConfig, SourceDtype};
use proptest::prelude::*;

use super::{GgufFile, ROPE_FREQS, parse};
use crate::{
    Architecture, Checkpoint, Error, HostData, ModelConfig, RopeConfig, RopeScaling, StorageType,
    TensorSource, Tokenizer,
    weights::{SafetensorsFile, write_quantized},
};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

/// A GGUF file in the making.
#[derive(Default)]
struct Builder {
    metadata: Vec<u8>,
    metadata_count: u64,
    tensors: Vec<u8>,
    tensor_count: u64,
    data: Vec<u8>,
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl Builder {
    /// Metadata enough for a one-layer llama with one head of 64.
    fn llama() -> Self {
        let mut builder = Self::default();
        builder.text("general.architecture", "llama");
        for (key, value) in [
            ("embedding_length", 64),
            ("block_count", 1),
            ("feed_forward_length", 32),
            ("attention.head_count", 1),
            ("context_length", 131_072),
        ] {
            builder.uint(&format!("llama.{key}"), value);
        }
        builder.float("llama.attention.layer_norm_rms_epsilon", 1e-5);
        builder.float("llama.rope.freq_base", 500_000.0);
        builder.tensor("token_embd.weight", &[64, 8], &[0.5; 8 * 64]);
        builder
    }

    /// A one-layer llama with the vocabulary of a fixture whose last metadata entry is a string.
    fn with_vocabulary(fixture_name: &str) -> Self {
        const HIDDEN: usize = 32;
        let path = fixture(&format!("gguf/{fixture_name}.gguf"));
        let vocab = Tokenizer::open(&path).unwrap().vocab_size();
        let file = fs::read(&path).unwrap();
        let end = file.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let mut builder = Self {
            metadata: file[24..end].to_vec(),
            metadata_count: u64::from_le_bytes(file[16..24].try_into().unwrap()),
            ..Self::default()
        };
        for (key, value) in [
            ("embedding_length", HIDDEN as u32),
            ("block_count", 1),
            ("feed_forward_length", HIDDEN as u32),
            ("attention.head_count", 2),
        ] {
            builder.uint(&format!("llama.{key}"), value);
        }
        builder.float("llama.attention.layer_norm_rms_epsilon", 1e-5);
        let mut tensor = |name: &str, dimensions: &[usize]| {
            let len = dimensions.iter().product::<usize>();
            let values: Vec<f32> = (0..len).map(|i| (i % 13) as f32 / 8.0 - 0.5).collect();
            let dimensions: Vec<u64> = dimensions.iter().map(|&d| d as u64).collect();
            builder.tensor(name, &dimensions, &values);
        };
        tensor("token_embd.weight", &[HIDDEN, vocab]);
        tensor("output_norm.weight", &[HIDDEN]);
        for name in ["attn_norm", "ffn_norm"] {
            tensor(&format!("blk.0.{name}.weight"), &[HIDDEN]);
        }
        for name in ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
        {
            tensor(&format!("blk.0.{name}.weight"), &[HIDDEN, HIDDEN]);
        }
        builder
    }

    fn key(&mut self, key: &str, value_type: u32) {
        string(&mut self.metadata, key);
        self.metadata.extend(value_type.to_le_bytes());
        self.metadata_count += 1;
    }

    fn uint(&mut self, key: &str, value: u32) {
        self.key(key, 4);
        self.metadata.extend(value.to_le_bytes());
    }

    fn float(&mut self, key: &str, value: f32) {
        self.key(key, 6);
        self.metadata.extend(value.to_le_bytes());
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key, 8);
        string(&mut self.metadata, value);
    }

    /// Describes a tensor; `dimensions` in ggml's order.
    fn describe(&mut self, name: &str, dimensions: &[u64], ty: u32, offset: u64) {
        string(&mut self.tensors, name);
        self.tensors.extend((dimensions.len() as u32).to_le_bytes());
        self.tensors.extend(dimensions.iter().flat_map(|d| d.to_le_bytes()));
        self.tensors.extend(ty.to_le_bytes());
        self.tensors.extend(offset.to_le_bytes());
        self.tensor_count += 1;
    }

    fn tensor(&mut self, name: &str, dimensions: &[u64], values: &[f32]) {
        self.describe(name, dimensions, 0, self.data.len() as u64);
        self.data.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        self.data.resize(self.data.len().next_multiple_of(32), 0);
    }

    fn build(&self) -> Vec<u8> {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(self.tensor_count.to_le_bytes());
        file.extend(self.metadata_count.to_le_bytes());
        file.extend(&self.metadata);
        file.extend(&self.tensors);
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(&self.data);
        file
    }

    /// Writes the file and opens it; the mapping outlives the directory.
    fn open(&self) -> crate::Result<GgufFile> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.gguf");
        fs::write(&path, self.build()).unwrap();
        GgufFile::open(&path)
    }
}

fn f32_bits(data: &HostData) -> Vec<u32> {
    match data {
        HostData::F32(x) => x.iter().map(|x| x.to_bits()).collect(),
        HostData::Bf16(x) => x.iter().map(|x| x.to_f32().to_bits()).collect(),
        HostData::F16(x) => x.iter().map(|x| x.to_f32().to_bits()).collect(),
        HostData::Quantized(_) => panic!("a GGUF tensor is never quantized"),
    }
}

fn values(file: &SafetensorsFile, name: &str) -> Vec<f32> {
    let bytes = file.get(name).unwrap().bytes;
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn every_block_format_is_decoded_bit_for_bit() {
    let reference = SafetensorsFile::open(&fixture("gguf/blocks.safetensors")).unwrap();
    let path = fixture("gguf/blocks.gguf");
    let mut storage = HashSet::new();
    for dtype in [SourceDtype::F32, SourceDtype::Bf16, SourceDtype::F16] {
        let file = GgufFile::open_as(&path, dtype).unwrap();
        for name in file.names() {
            storage.insert(file.info(name).unwrap().storage.to_string());
            let expected = values(&reference, name).into_iter().map(|x| match dtype {
                SourceDtype::F32 => x,
                SourceDtype::Bf16 => bf16::from_f32(x).to_f32(),
                SourceDtype::F16 => f16::from_f32(x).to_f32(),
            });
            let tensor = file.read(name).unwrap();
            assert_eq!(tensor.shape, [3, 512], "{name}");
            assert_eq!(
                f32_bits(&tensor.data),
                expected.map(f32::to_bits).collect::<Vec<_>>(),
                "{name} as {dtype:?}"
            );
        }
    }
    assert_eq!(storage.len(), 11, "{storage:?}");
}

#[test]
fn models_come_back_as_they_were_before_conversion() {
    for name in ["mistral", "qwen2", "qwen3"] {
        let original =
            SafetensorsFile::open(&fixture(&format!("models/{name}/model.safetensors"))).unwrap();
        let file =
            GgufFile::open_as(&fixture(&format!("gguf/{name}.gguf")), SourceDtype::F32).unwrap();
        let names = original.names();
        assert_eq!(file.names(), names, "{name}");
        for tensor in file.names() {
            let expected = values(&original, tensor).into_iter();
            let stored = file.info(tensor).unwrap().storage;
            let expected: Vec<_> = match stored {
                StorageType::F16 => expected.map(|x| f16::from_f32(x).to_f32().to_bits()).collect(),
                _ => expected.map(f32::to_bits).collect(),
            };
            let read = file.read(tensor).unwrap();
            assert_eq!(read.shape, original.get(tensor).unwrap().shape, "{tensor}");
            assert_eq!(f32_bits(&read.data), expected, "{name}: {tensor}");
        }
    }
}

#[test]
fn configurations_equal_config_json() {
    for name in ["mistral", "qwen2", "qwen3"] {
        let expected = ModelConfig::from_dir(&fixture(&format!("models/{name}"))).unwrap();
        let file =
            GgufFile::open_as(&fixture(&format!("gguf/{name}.gguf")), SourceDtype::F32).unwrap();
        assert_eq!(file.config().unwrap(), expected, "{name}");
    }
}

#[test]
fn quantizing_keeps_the_tokenizer() {
    for name in ["tok-smollm", "tok-llama-bpe"] {
        let mut builder = Builder::with_vocabulary(name);
        builder.uint("tokenizer.ggml.eot_token_id", 5);
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().join("model.gguf"), dir.path().join("q"));
        fs::write(&path, builder.build()).unwrap();
        let source = Checkpoint::open(&path).unwrap();
        write_quantized(&source, source.config(), &QuantConfig::default(), &target).unwrap();
        let written = Checkpoint::open(&target).unwrap();
        assert_eq!(written.config().eos_token_ids, source.config().eos_token_ids);
        let (before, after) = (Tokenizer::open(&path).unwrap(), Tokenizer::open(&target).unwrap());
        for text in ["A text, 1234 \u{e9}!", "<|start|>a<think>b<|end|>"] {
            let ids = before.encode(text, true).unwrap();
            assert_eq!(after.encode(text, true).unwrap(), ids, "{name}");
        }
        assert_eq!(after.special_tokens(), before.special_tokens());
        assert_eq!(after.eos_token_ids().len(), 2);
        assert_eq!(after.eos_token_ids(), before.eos_token_ids());
        assert!(after.chat_template().is_some());
        assert_eq!(after.chat_template(), before.chat_template());
    }
    let root = tempfile::tempdir().unwrap();
    let source = Checkpoint::open(&fixture("gguf/qwen2.gguf")).unwrap();
    let target = root.path().join("q");
    write_quantized(&source, source.config(), &QuantConfig::default(), &target).unwrap();
    assert!(!target.join("tokenizer.json").exists(), "a file without a vocabulary");
}

#[test]
fn llama3_rope_factors_are_recognised_and_others_kept() {
    let theta = 500_000.0;
    // `Llama3Model` of llama.cpp's convert_hf_to_gguf.py, for Llama 3.1: factor 8, bounds 1 and 4, context 8192.
    let by_rule = |i: i32| {
        let wavelength = 2.0 * std::f64::consts::PI * f64::powf(theta, f64::from(i) / 32.0);
        let smooth = ((8192.0 / wavelength - 1.0) / 3.0).clamp(0.0, 1.0);
        1.0 / ((1.0 - smooth) / 8.0 + smooth)
    };
    let factors: Vec<f32> = (0..32).map(|i| by_rule(i) as f32).collect();
    let mut builder = Builder::llama();
    builder.tensor(ROPE_FREQS, &[32], &factors);
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let file = builder.open().unwrap();
    assert_eq!(file.config().unwrap().rope, RopeConfig { theta, scaling: llama3 });
    assert!(file.info(ROPE_FREQS).is_none());

    let other: Vec<f32> = factors.iter().map(|f| f + 0.25).collect();
    let mut builder = Builder::llama();
    builder.tensor(ROPE_FREQS, &[32], &other);
    assert_eq!(
        builder.open().unwrap().config().unwrap().rope.scaling,
        RopeScaling::FrequencyFactors(other)
    );

    let mut builder = Builder::llama();
    builder.tensor(ROPE_FREQS, &[31], &[1.0; 31]);
    builder.open().unwrap().config().expect_err("31 factors for 32 frequencies");
}

#[test]
fn linear_and_yarn_scaling() {
    let mut builder = Builder::llama();
    builder.text("llama.rope.scaling.type", "linear");
    builder.float("llama.rope.scaling.factor", 4.0);
    assert_eq!(
        builder.open().unwrap().config().unwrap().rope.scaling,
        RopeScaling::Linear { factor: 4.0 }
    );

    let mut builder = Builder::llama();
    builder.text("llama.rope.scaling.type", "yarn");
    builder.float("llama.rope.scaling.factor", 4.0);
    builder.uint("llama.rope.scaling.original_context_length", 32_768);
    let yarn = RopeScaling::Yarn {
        factor: 4.0,
        original_max_position_embeddings: 32_768,
        attention_factor: None,
        beta_fast: 32.0,
        beta_slow: 1.0,
        mscale: None,
        mscale_all_dim: None,
        truncate: true,
    };
    assert_eq!(builder.open().unwrap().config().unwrap().rope.scaling, yarn);
}

#[test]
fn the_family_and_what_is_not_understood() {
    let mut builder = Builder::llama();
    builder.text("general.name", "Mistral 7B v0.1");
    builder.uint("llama.attention.novel_trick", 1);
    let config = builder.open().unwrap().config().unwrap();
    assert_eq!(config.architecture, Architecture::Mistral);
    assert_eq!(config.warnings.len(), 2, "{:?}", config.warnings);
    assert!(config.warnings[0].contains("llama.attention.novel_trick"));
    builder.text("tokenizer.ggml.pre", "default");
    let warnings = builder.open().unwrap().config().unwrap().warnings;
    assert!(
        warnings[1].contains("tokenizer.ggml.pre") && warnings[1].contains("GPT-2"),
        "{warnings:?}"
    );

    let refused = |change: &dyn Fn(&mut Builder), words: &str| {
        let mut builder = Builder::llama();
        change(&mut builder);
        let error = builder.open().and_then(|file| file.config()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(error.contains("test.gguf"), "{error}");
    };
    refused(&|b| b.uint("llama.expert_count", 8), "mixtures of experts");
    refused(&|b| b.uint("split.count", 2), "llama-gguf-split --merge");
    refused(&|b| b.uint("llama.rope.dimension_count", 32), "only the head width 64");
    refused(&|b| b.text("llama.rope.scaling.type", "longrope"), "longrope");
    refused(&|b| b.uint("tokenizer.ggml.eos_token_id", 8), "the vocabulary has 8 tokens");
    refused(
        &|b| b.tensor("blk.0.ffn_gate_exps.weight", &[1], &[0.0]),
        "blk.0.ffn_gate_exps.weight",
    );
    refused(&|b| b.text("llama.attention.head_count_kv", "two"), "found a string");
}

#[test]
fn unreadable_types_are_named() {
    let mut builder = Builder::llama();
    builder.describe("blk.0.attn_v.weight", &[256], 10, builder.data.len() as u64);
    builder.data.resize(builder.data.len() + 84, 0);
    let file = builder.open().unwrap();
    let name = "model.layers.0.self_attn.v_proj.weight";
    assert_eq!(file.info(name).unwrap().storage, StorageType::Other("Q2_K"));
    let error = file.read(name).unwrap_err().to_string();
    assert!(error.contains("Q2_K") && error.contains(name) && error.contains("Q4_K"), "{error}");
    let error = file.read("model.layers.0.self_attn.v_proj.bias").unwrap_err().to_string();
    assert!(error.contains("nearest name"), "{error}");
}

#[test]
fn heads_that_do_not_divide_the_rows() {
    let mut builder = Builder::llama();
    builder.uint("llama.attention.head_count_kv", 3);
    builder.tensor("blk.0.attn_k.weight", &[2, 64], &[0.0; 128]);
    let file = builder.open().unwrap();
    let error = file.read("model.layers.0.self_attn.k_proj.weight").unwrap_err().to_string();
    assert!(error.contains("64 rows cannot be 3 heads"), "{error}");
}

#[test]
fn hostile_sizes() {
    // Each would be allocated or multiplied, if it were not refused first.
    for (key, value) in
        [("block_count", u64::MAX), ("block_count", 4097), ("attention.key_length", u64::MAX)]
    {
        let mut builder = Builder::default();
        builder.text("general.architecture", "qwen3");
        for name in ["embedding_length", "attention.head_count", "context_length"] {
            builder.uint(&format!("qwen3.{name}"), 1);
        }
        if key != "block_count" {
            builder.uint("qwen3.block_count", 1);
        }
        builder.key(&format!("qwen3.{key}"), 10);
        builder.metadata.extend(value.to_le_bytes());
        builder.tensor("token_embd.weight", &[64, 8], &[0.5; 8 * 64]);
        builder.tensor(ROPE_FREQS, &[32], &[1.0; 32]);
        let error = builder.open().unwrap().config().unwrap_err().to_string();
        assert!(
            error.contains("test.gguf") && error.contains(&format!("`qwen3.{key}`")),
            "{error}"
        );
        assert!(error.contains(&value.to_string()), "{error}");
    }
    let mut builder = Builder::llama();
    builder.key("llama.attention.head_count_kv", 10);
    builder.metadata.extend((1_u64 << 63).to_le_bytes());
    builder.tensor("blk.0.attn_k.weight", &[2, 64], &[0.0; 128]);
    let file = builder.open().unwrap();
    let error = file.read("model.layers.0.self_attn.k_proj.weight").unwrap_err().to_string();
    assert!(error.contains("64 rows cannot be 9223372036854775808 heads"), "{error}");
}

fn parse_error(file: &[u8]) -> String {
    parse::parse(file).expect_err("a damaged file")
}

#[test]
fn bad_magic_and_versions() {
    let good = Builder::llama().build();
    parse::parse(&good).unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        parse_error(&file)
    };
    assert!(with(0, b"GGML").contains("not a GGUF file"));
    assert!(with(4, &1_u32.to_le_bytes()).contains("unknown version"));
    assert!(with(4, &3_u32.to_be_bytes()).contains("big-endian"));
    assert!(with(8, &u64::MAX.to_le_bytes()).contains("tensor"));
    assert!(with(16, &u64::MAX.to_le_bytes()).contains("metadata"));
    // The length of the first key.
    assert!(with(24, &u64::MAX.to_le_bytes()).contains("metadata entry 0"));
}

#[test]
fn truncation_anywhere_is_an_error() {
    let good = Builder::llama().build();
    for len in 0..good.len() {
        parse_error(&good[..len]);
    }
}

#[test]
fn hostile_arrays() {
    for (element, count) in [(8_u32, u64::MAX), (0, 1 << 60), (4, 1 << 40), (9, 1), (99, 0)] {
        let mut builder = Builder::llama();
        builder.key("tokenizer.ggml.tokens", 9);
        builder.metadata.extend(element.to_le_bytes());
        builder.metadata.extend(count.to_le_bytes());
        let error = parse_error(&builder.build());
        assert!(error.contains("tokenizer.ggml.tokens"), "{error}");
    }
}

#[test]
fn hostile_tensors() {
    let refused = |dimensions: &[u64], ty: u32, offset: u64, words: &str| {
        let mut builder = Builder::llama();
        builder.describe("output.weight", dimensions, ty, offset);
        let error = parse_error(&builder.build());
        assert!(error.contains("`output.weight`") && error.contains(words), "{error}");
    };
    let end = 64 * 8 * 4;
    refused(&[8], 0, end, "the file ends");
    refused(&[8], 0, 0, "overlap");
    refused(&[8], 0, 4, "multiple of the alignment");
    refused(&[8], 0, u64::MAX - 31, "too large");
    refused(&[8], 0, 1 << 60, "the file ends");
    refused(&[u64::MAX, u64::MAX], 0, end, "too large");
    refused(&[1 << 62, 2], 0, end, "too large");
    refused(&[0], 0, end, "whole blocks");
    refused(&[33], 2, end, "whole blocks");
    refused(&[], 0, end, "dimensions");
    refused(&[1; 5], 0, end, "dimensions");
    refused(&[8], 4, end, "unknown ggml type 4");

    let mut builder = Builder::llama();
    builder.tensor("output.weight", &[1], &[0.0]);
    builder.tensor("output.weight", &[1], &[0.0]);
    assert!(parse_error(&builder.build()).contains("twice"));
    let mut builder = Builder::llama();
    builder.uint("general.alignment", 0);
    assert!(parse_error(&builder.build()).contains("general.alignment"));
}

#[test]
fn missing_and_empty_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none.gguf");
    assert!(matches!(GgufFile::open(&path), Err(Error::Io { .. })));
    fs::write(&path, []).unwrap();
    assert!(matches!(GgufFile::open(&path), Err(Error::Format { .. })));
}

/// Reads all that can be read of a file that may be damaged.
fn exercise(bytes: &[u8], path: &Path) {
    fs::write(path, bytes).unwrap();
    let Ok(file) = GgufFile::open(path) else { return };
    // Errors are fine: only panics and endless work are not.
    let _ = file.config();
    let _ = Tokenizer::from_gguf(&file);
    for name in file.names() {
        let _ = file.read(name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn mutated_files_never_panic(
        fixture_name in prop::sample::select(vec!["mistral", "qwen2", "tok-smollm", "tok-spm"]),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = fs::read(fixture(&format!("gguf/{fixture_name}.gguf"))).unwrap();
        for (at, value, in_header) in edits {
            // Half of the edits hit the front, where counts and types are.
            let range = if in_header { bytes.len().min(1500) } else { bytes.len() };
            bytes[at.index(range)] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        exercise(&bytes, &dir.path().join("mutated.gguf"));
    }

    #[test]
    fn random_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = parse::parse(&[b"GGUF\x03\0\0\0".as_slice(), &tail].concat());
    }
}
