//! Checkpoint directories: what is read, and one error for each kind of damage.

use std::{
    fs,
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use models::{
    HostData, LoraConfig, ModelConfig, StorageType, TensorSource,
    adapter::TargetModules,
    weights::{
        Checkpoint, ParameterCounts, SafetensorsCheckpoint, StoredTensor, TrainableParameters,
        check_complete, stored_counts, write_safetensors,
    },
};
use nf4::{QuantConfig, QuantType};
use proptest::prelude::*;
use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

fn fixture(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models").join(model)
}

/// A copy of a fixture's model files that a test may damage.
fn copy(model: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixture(model).join(file), dir.path().join(file)).unwrap();
    }
    dir
}

fn open_error(dir: &Path) -> String {
    Checkpoint::open(dir).map(|_| ()).unwrap_err().to_string()
}

fn f32_tensor(shape: &[usize]) -> StoredTensor<'static> {
    let bytes = vec![0; 4 * shape.iter().product::<usize>()];
    StoredTensor { dtype: Dtype::F32, shape: shape.to_vec(), bytes: bytes.into() }
}

#[test]
fn every_fixture_opens_complete() {
    for model in ["llama", "mistral", "qwen2", "qwen3", "llama-bnb4"] {
        let checkpoint = Checkpoint::open(&fixture(model)).unwrap();
        for (name, shape) in checkpoint.config().parameters() {
            let info = checkpoint.info(&name).unwrap();
            let tensor = checkpoint.read_shaped(&name, &shape).unwrap();
            assert_eq!(
                (info.shape, tensor.to_f32().len()),
                (shape, tensor.numel()),
                "{model} {name}"
            );
        }
        assert_eq!(checkpoint.names().len(), checkpoint.config().parameters().len());
    }
}

#[test]
fn bitsandbytes_weights_are_those_we_quantize() {
    let dense = Checkpoint::open(&fixture("llama")).unwrap();
    let quantized = Checkpoint::open(&fixture("llama-bnb4")).unwrap();
    let config = QuantConfig::new(QuantType::Nf4, 64, true).unwrap();
    for linear in dense.config().linears() {
        let name = format!("{}.weight", linear.module);
        let info = quantized.info(&name).unwrap();
        assert_eq!(
            (info.storage, info.shape.as_slice()),
            (StorageType::Nf4, &[linear.out_features, linear.in_features][..])
        );
        let HostData::Quantized(stored) = quantized.read(&name).unwrap().data else {
            panic!("{name} is dense")
        };
        let weight = dense.read(&name).unwrap();
        let ours = nf4::quantize(&name, &weight.to_f32(), &weight.shape, &config).unwrap();
        assert_eq!(stored.packed(), ours.packed(), "{name}");
    }
    let HostData::F32(head) = quantized.read("lm_head.weight").unwrap().data else {
        panic!("the head is not f32")
    };
    assert_eq!(*head, *dense.read("lm_head.weight").unwrap().to_f32());
}

#[test]
fn counts_are_those_of_peft() {
    // From PEFT 0.21.2: get_peft_model(model, config).get_nb_trainable_parameters().
    let names =
        |names: &[&str]| TargetModules::Names(names.iter().map(|&n| n.to_owned()).collect());
    let all = LoraConfig { r: 4, ..LoraConfig::default() };
    let ranks =
        LoraConfig { rank_pattern: [("mlp.down_proj".to_owned(), 2)].into(), ..all.clone() };
    let layer = LoraConfig {
        target_modules: names(&["q_proj", "up_proj"]),
        layers_to_transform: Some(vec![1]),
        ..all.clone()
    };
    for (model, lora, trainable, total) in [
        ("llama-bnb4", &all, 8192, 115_008),
        ("qwen2", &ranks, 3712, 26_528),
        ("qwen3", &layer, 768, 29_664),
    ] {
        let config = ModelConfig::from_dir(&fixture(model)).unwrap();
        let counts = TrainableParameters::of(&config, lora).unwrap();
        assert_eq!((counts.trainable, counts.all), (trainable, total), "{model}");
        assert_eq!(ParameterCounts::of(&config).total(), total - trainable);
    }
}

#[test]
fn stored_types_are_counted_with_their_bytes() {
    let checkpoint = SafetensorsCheckpoint::open(&fixture("llama-bnb4")).unwrap();
    let counts = stored_counts(&checkpoint);
    let types: Vec<_> = counts.iter().map(|(storage, count)| (*storage, count.tensors)).collect();
    assert_eq!(types, [(StorageType::F32, 7), (StorageType::Nf4, 14)]);
    let elements: usize = counts.iter().map(|(_, count)| count.elements).sum();
    assert_eq!(
        elements,
        ParameterCounts::of(&ModelConfig::from_dir(&fixture("llama")).unwrap()).total()
    );
    let header = 8 + u64::from_le_bytes(
        fs::read(fixture("llama-bnb4").join("model.safetensors")).unwrap()[..8].try_into().unwrap(),
    );
    let file = fs::metadata(fixture("llama-bnb4").join("model.safetensors")).unwrap().len();
    assert_eq!(counts.iter().map(|(_, count)| count.bytes).sum::<u64>(), file - header);
}

#[test]
fn a_missing_file_is_named() {
    assert!(open_error(Path::new("no/such/model")).starts_with("no/such/model: No such file"));
    let dir = copy("llama");
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    assert!(
        open_error(dir.path())
            .contains("neither model.safetensors nor model.safetensors.index.json")
    );
    fs::write(dir.path().join("pytorch_model.bin"), "").unwrap();
    assert!(open_error(dir.path()).contains("save the model as safetensors"));
    assert!(open_error(&dir.path().join("config.json")).contains("give the directory"));
}

#[test]
fn a_cut_off_file_is_recognised() {
    let dir = copy("llama");
    let path = dir.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    for len in [bytes.len() - 1, bytes.len() / 2, 1000, 9, 3] {
        fs::write(&path, &bytes[..len]).unwrap();
        let error = open_error(dir.path());
        assert!(
            error.contains("model.safetensors") && error.contains("copy or download it again"),
            "{len}: {error}"
        );
    }
    fs::write(&path, "").unwrap();
    assert!(open_error(dir.path()).contains("is empty"));
    fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:0\n").unwrap();
    assert!(open_error(dir.path()).contains("git lfs pull"));
    fs::write(&path, vec![b'x'; 100]).unwrap();
    assert!(open_error(dir.path()).contains("not a safetensors file"));
}

#[test]
fn shards_and_index_must_agree() {
    let dir = copy("llama");
    let bytes = fs::read(fixture("llama").join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let shard = |i: usize| format!("model-{i:05}-of-00002.safetensors");
    let shard_of = |name: &str| if name.starts_with("model.layers.1.") { 2 } else { 1 };
    for i in [1, 2] {
        let part = tensors.tensors().into_iter().filter(|(name, _)| shard_of(name) == i);
        let part = part.map(|(name, view)| {
            let (dtype, shape) = (view.dtype(), view.shape().to_vec());
            (name, StoredTensor { dtype, shape, bytes: view.data().into() })
        });
        write_safetensors(&dir.path().join(shard(i)), part.collect()).unwrap();
    }
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let good: serde_json::Map<String, Value> =
        tensors.names().into_iter().map(|n| (n.to_owned(), shard(shard_of(n)).into())).collect();
    let index = dir.path().join("model.safetensors.index.json");
    let write = |map: &serde_json::Map<String, Value>| {
        fs::write(&index, json!({"metadata": {}, "weight_map": map}).to_string()).unwrap();
    };
    write(&good);
    let (whole, parts) =
        (Checkpoint::open(&fixture("llama")).unwrap(), Checkpoint::open(dir.path()).unwrap());
    for name in whole.names() {
        assert_eq!(
            whole.read(name).unwrap().to_f32(),
            parts.read(name).unwrap().to_f32(),
            "{name}"
        );
    }
    let outside = dir.path().join(shard(1)).display().to_string();
    for (name, file, parts) in [
        ("model.layers.2.extra.weight", shard(2), ["model.layers.2.extra.weight", "nowhere"]),
        (
            "model.norm.weight",
            shard(2),
            ["`model.norm.weight`", "model-00001-of-00002.safetensors"],
        ),
        ("other", "model-00003-of-00003.safetensors".to_owned(), ["00003-of-00003", "download it"]),
        ("other", "../x.safetensors".to_owned(), ["`../x.safetensors`", "not a file name"]),
        ("other", format!("sub/{}", shard(1)), ["`sub/model-", "not a file name"]),
        ("other", outside.clone(), [&outside, "not a file name"]),
    ] {
        let mut map = good.clone();
        map.insert(name.to_owned(), file.into());
        write(&map);
        let error = open_error(dir.path());
        assert!(error.contains("index.json") && parts.iter().all(|p| error.contains(p)), "{error}");
    }
    fs::write(&index, "{}").unwrap();
    assert!(open_error(dir.path()).contains("not a shard index"));
}

#[test]
fn missing_misshapen_and_left_over_tensors_are_named() {
    let config = ModelConfig::from_dir(&fixture("llama")).unwrap();
    let complete = || -> Vec<(String, StoredTensor<'static>)> {
        config.parameters().into_iter().map(|(name, shape)| (name, f32_tensor(&shape))).collect()
    };
    let check = |tensors| {
        let dir = tempfile::tempdir().unwrap();
        write_safetensors(&dir.path().join("model.safetensors"), tensors).unwrap();
        check_complete(&SafetensorsCheckpoint::open(dir.path()).unwrap(), &config)
            .map_err(|e| e.to_string())
    };
    check(complete()).unwrap();
    let mut tensors = complete();
    tensors.push(("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), f32_tensor(&[8])));
    check(tensors).unwrap();
    let mut tensors = complete();
    tensors.push(("model.layers.0.mlp.router.weight".to_owned(), f32_tensor(&[8])));
    let error = check(tensors).unwrap_err();
    assert!(
        error.contains("no place in a llama model: model.layers.0.mlp.router.weight"),
        "{error}"
    );
    let mut tensors = complete();
    tensors.retain(|(name, _)| name != "model.layers.1.mlp.up_proj.weight");
    let error = check(tensors).unwrap_err();
    assert!(
        error.contains("`model.layers.1.mlp.up_proj.weight`: is missing; the nearest name is"),
        "{error}"
    );
    let mut tensors = complete();
    tensors[0].1 = f32_tensor(&[256, 65]);
    let error = check(tensors).unwrap_err();
    assert!(
        error.contains("`model.embed_tokens.weight`: has shape [256, 65], expected [256, 64]"),
        "{error}"
    );
}

#[test]
fn unreadable_types_are_listed_and_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ids = StoredTensor { dtype: Dtype::I64, shape: vec![2], bytes: vec![0; 16].into() };
    write_safetensors(&dir.path().join("model.safetensors"), vec![("ids".to_owned(), ids)])
        .unwrap();
    let source = SafetensorsCheckpoint::open(dir.path()).unwrap();
    assert_eq!(source.info("ids").unwrap().storage, StorageType::Other("I64"));
    assert!(source.read("ids").unwrap_err().to_string().contains("has type I64"));
}

#[test]
fn a_damaged_quantization_state_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let source = fs::read(fixture("llama-bnb4").join("model.safetensors")).unwrap();
    let stored = safetensors::SafeTensors::deserialize(&source).unwrap();
    let without = |skipped: &str| {
        let tensors =
            stored.tensors().into_iter().filter(|(name, _)| name != skipped).map(|(name, view)| {
                let tensor = StoredTensor {
                    dtype: view.dtype(),
                    shape: view.shape().to_vec(),
                    bytes: view.data().into(),
                };
                (name, tensor)
            });
        write_safetensors(&dir.path().join("model.safetensors"), tensors.collect()).unwrap();
        SafetensorsCheckpoint::open(dir.path()).unwrap()
    };
    let name = "model.layers.0.mlp.up_proj.weight";
    let error =
        without(&format!("{name}.nested_absmax")).read(name).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("nested_absmax"), "{error}");
    let config = ModelConfig::from_dir(&fixture("llama-bnb4")).unwrap();
    let lost = without(&format!("{name}.quant_state.bitsandbytes__nf4"));
    let error = check_complete(&lost, &config).unwrap_err().to_string();
    assert!(error.contains(name), "{error}");
}

#[test]
fn a_file_that_is_written_badly_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let twice = vec![("a".to_owned(), f32_tensor(&[1])), ("a".to_owned(), f32_tensor(&[1]))];
    assert!(write_safetensors(&path, twice).unwrap_err().to_string().contains("given twice"));
    let short = StoredTensor { shape: vec![3], ..f32_tensor(&[2]) };
    assert!(
        write_safetensors(&path, vec![("a".to_owned(), short)])
            .unwrap_err()
            .to_string()
            .contains("8 bytes")
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

fn stored(kind: u8, bits: &[u32]) -> StoredTensor<'static> {
    let shape = vec![bits.len()];
    let half =
        |bytes: fn(u16) -> [u8; 2]| bits.iter().flat_map(|b| bytes(*b as u16)).collect::<Vec<u8>>();
    let (dtype, bytes) = match kind {
        0 => (Dtype::F32, bits.iter().flat_map(|b| b.to_le_bytes()).collect()),
        1 => (Dtype::BF16, half(u16::to_le_bytes)),
        _ => (Dtype::F16, half(u16::to_le_bytes)),
    };
    StoredTensor { dtype, shape, bytes: bytes.into() }
}

/// The bits of the elements, so that NaNs compare.
fn bits_of(data: &HostData<'_>) -> Vec<u32> {
    match data {
        HostData::F32(x) => x.iter().map(|v| v.to_bits()).collect(),
        HostData::Bf16(x) => x.iter().map(|v: &bf16| u32::from(v.to_bits())).collect(),
        HostData::F16(x) => x.iter().map(|v: &f16| u32::from(v.to_bits())).collect(),
        HostData::Quantized(_) => panic!("nothing here is quantized"),
    }
}

proptest! {
    #[test]
    fn safetensors_round_trip(tensors in prop::collection::btree_map(
        "[a-z_.\u{e9}\"]{0,12}", (0_u8..3, prop::collection::vec(any::<u32>(), 0..40)), 0..8,
    )) {
        let dir = tempfile::tempdir().unwrap();
        let list = tensors.iter().map(|(name, (kind, bits))| (name.clone(), stored(*kind, bits))).collect();
        write_safetensors(&dir.path().join("model.safetensors"), list).unwrap();
        let source = SafetensorsCheckpoint::open(dir.path()).unwrap();
        prop_assert_eq!(source.names(), tensors.keys().map(String::as_str).collect::<Vec<_>>());
        for (name, (kind, bits)) in &tensors {
            let mask = if *kind == 0 { u32::MAX } else { 0xffff };
            let expected: Vec<u32> = bits.iter().map(|b| b & mask).collect();
            prop_assert_eq!(bits_of(&source.read(name).unwrap().data), expected);
        }
    }
}
