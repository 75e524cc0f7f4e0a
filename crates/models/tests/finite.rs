//! One value that is not finite, anywhere in a checkpoint: its tensor, file and index are named when it is loaded.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use autograd::{Precision, Tape};
use common::{fixture, nf4_base};
use half::{bf16, f16};
use kernels::Cpu;
use models::decoder::{BaseFormat, Decoder, ForwardOptions, LoadOptions, Stage};
use models::weights::Checkpoint;
use models::{Error, HostData, HostTensor, TensorInfo, TensorSource};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

const SHARDS: [&str; 2] = ["a.safetensors", "b.safetensors"];

/// Writes `model` in two shards of one type, tensors in turn; `spoiled` gets `value` at an index.
fn write(model: &Checkpoint, dtype: Dtype, spoiled: (&str, usize), value: f32, dir: &Path) {
    let mut shards = [const { BTreeMap::new() }; 2];
    let mut map = serde_json::Map::new();
    for (i, (name, shape)) in model.config().parameters().into_iter().enumerate() {
        let mut values = model.read(&name).unwrap().to_f32().into_owned();
        if spoiled.0 == name {
            values[spoiled.1] = value;
        }
        let bytes: Vec<u8> = match dtype {
            Dtype::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Dtype::BF16 => values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        };
        map.insert(name.clone(), SHARDS[i % 2].into());
        shards[i % 2].insert(name.clone(), (shape, bytes));
    }
    for (file, tensors) in SHARDS.iter().zip(&shards) {
        let views = tensors.iter().map(|(name, (shape, bytes))| {
            (name, TensorView::new(dtype, shape.clone(), bytes).unwrap())
        });
        safetensors::serialize_to_file(views, None, &dir.join(file)).unwrap();
    }
    let index = serde_json::json!({ "weight_map": map }).to_string();
    std::fs::write(dir.join("model.safetensors.index.json"), index).unwrap();
}

fn load(path: &Path, format: &BaseFormat, narrow: bool) -> models::Result<Decoder<Cpu>> {
    let checkpoint = Checkpoint::open(path)?;
    let options = LoadOptions { format: format.clone(), narrow, progress: &|_, _| () };
    Decoder::load(&Cpu::new(), checkpoint.source(), checkpoint.config(), &options)
}

#[test]
fn every_tensor_in_every_type_is_looked_through() {
    let formats = [(nf4_base(true), false), (BaseFormat::Dense, false), (BaseFormat::Dense, true)];
    for architecture in ["llama", "qwen2", "qwen3"] {
        let model = Checkpoint::open(&fixture("models").join(architecture)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let config = fixture("models").join(architecture).join("config.json");
        std::fs::copy(config, dir.path().join("config.json")).unwrap();
        for dtype in [Dtype::F32, Dtype::BF16, Dtype::F16] {
            for (format, narrow) in &formats {
                write(&model, dtype, ("", 0), 0.0, dir.path());
                load(dir.path(), format, *narrow).unwrap();
            }
            for (i, (spoiled, shape)) in model.config().parameters().into_iter().enumerate() {
                let at = shape.iter().product::<usize>() * (i % 7) / 7;
                let value = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][i % 3];
                write(&model, dtype, (&spoiled, at), value, dir.path());
                let (format, narrow) = &formats[i % 3];
                let error = load(dir.path(), format, *narrow).unwrap_err();
                let message = error.to_string();
                let Error::NotFinite { path, name, index, value: found } = error else {
                    panic!("{spoiled}: {message}")
                };
                assert_eq!(
                    (path, name, index, found.to_bits()),
                    (dir.path().join(SHARDS[i % 2]), spoiled, at, value.to_bits()),
                    "{message}"
                );
            }
        }
    }
}

#[test]
fn a_gguf_file_is_looked_through() {
    let path = fixture("gguf/qwen3.gguf");
    let mut bytes = std::fs::read(&path).unwrap();
    let model = Checkpoint::open(&path).unwrap();
    let norm = model.read("model.norm.weight").unwrap().to_f32().into_owned();
    // The reader rounds to the model's type what the file has in f32.
    let floats: Vec<f32> =
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let is_norm = |window: &[f32]| window.iter().zip(&norm).all(|(a, b)| (a - b).abs() < 0.01);
    let at = 4 * floats.windows(norm.len()).position(is_norm).unwrap();
    bytes[at + 8..at + 12].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    let message = load(&path, &nf4_base(true), false).unwrap_err().to_string();
    let expected = "m.gguf: tensor `model.norm.weight`: element 2 (flat index) is inf";
    assert!(message.contains(expected), "{message}");
}

/// A checkpoint with a number in the place of one tensor's values.
struct Filled<'a> {
    base: &'a Checkpoint,
    name: &'static str,
    value: f32,
}

impl TensorSource for Filled<'_> {
    fn path(&self) -> &Path {
        self.base.path()
    }

    fn names(&self) -> Vec<&str> {
        self.base.names()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.base.info(name)
    }

    fn read(&self, name: &str) -> models::Result<HostTensor<'_>> {
        let mut tensor = self.base.read(name)?;
        if name == self.name {
            tensor.data = HostData::F32(vec![self.value; tensor.numel()].into());
        }
        Ok(tensor)
    }
}

#[test]
fn the_stage_that_first_overflows_is_found() {
    let base = Checkpoint::open(&fixture("models/llama")).unwrap();
    let huge = f32::MAX;
    for (name, value, expected) in [
        ("model.norm.weight", 1.0, None),
        ("model.layers.0.self_attn.o_proj.weight", huge, Some(Stage::Layer(0))),
        ("model.layers.1.mlp.down_proj.weight", huge, Some(Stage::Layer(1))),
        ("model.norm.weight", huge, Some(Stage::FinalNorm)),
        ("lm_head.weight", huge, None),
    ] {
        let source = Filled { base: &base, name, value };
        let options =
            LoadOptions { format: BaseFormat::Dense, narrow: false, progress: &|_, _| () };
        let decoder = Decoder::load(&Cpu::new(), &source, base.config(), &options).unwrap();
        let ids = [3, 1, 4, 1, 5, 9];
        let inputs = decoder.inputs(&ids, &[4, 2]).unwrap();
        let find = |precision| {
            decoder.first_not_finite(precision, &inputs, None, ForwardOptions::default()).unwrap()
        };
        assert_eq!(find(Precision::F32), expected, "{name}");
        assert_eq!(find(Precision::BF16), expected, "{name} in bf16");
        let mut tape = Tape::inference(decoder.backend(), Precision::F32);
        let hidden = decoder.hidden(&mut tape, &inputs, None, ForwardOptions::default()).unwrap();
        let loss = decoder.losses(&mut tape, &hidden, &ids, 1.0).unwrap().sum();
        assert_eq!(loss.is_finite(), value == 1.0, "{name}: {loss}");
    }
}
