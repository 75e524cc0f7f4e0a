//! Files as nobody should offer them: each is refused with an error that names it. And files with bytes changed at
//! random, which must never end the process. How much memory a refusal takes is measured where the binary is tested.

mod files;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use files::{Reader, fixture, read};
use models::adapter::{CONFIG_FILE, WEIGHTS_FILE, read_adapter};
use models::decoder::{BaseFormat, Decoder, LoadOptions};
use models::{Checkpoint, ModelConfig, Tokenizer};
use nf4::QuantConfig;
use proptest::prelude::*;
use tempfile::TempDir;

/// No refusal takes a second; a reader that hangs takes longer than any machine is slow.
const HANGS: Duration = Duration::from_secs(10);

/// Reads everything there is.
fn outcome(reader: Reader, dir: &Path) -> Result<(), String> {
    let all = |path: &Path| -> models::Result<()> {
        let checkpoint = Checkpoint::open(path)?;
        let options = LoadOptions {
            format: BaseFormat::Quantized(QuantConfig::default()),
            narrow: false,
            progress: &|_, _| {},
        };
        Decoder::load(&kernels::Cpu::new(), &checkpoint, checkpoint.config(), &options).map(|_| ())
    };
    match reader {
        Reader::Model => all(dir),
        Reader::Gguf => {
            // What a tokenizer makes of it must not matter less.
            let _ = Tokenizer::open(&dir.join("m.gguf"));
            all(&dir.join("m.gguf"))
        }
        Reader::Adapter => read_adapter(dir, &modules()).map(|_| ()),
    }
    .map_err(|error| error.to_string())
}

fn modules() -> BTreeMap<String, [usize; 2]> {
    let linears = ModelConfig::from_dir(&fixture("models/llama")).unwrap().linears();
    linears.into_iter().map(|l| (l.module, [l.out_features, l.in_features])).collect()
}

#[test]
fn hostile_files_are_refused() {
    let cases = files::all();
    let mut names = BTreeSet::new();
    for case in &cases {
        assert!(names.insert((case.reader as u8, case.name)), "{} twice", case.name);
    }
    assert!(cases.len() >= 200, "{}", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let dir = case.write();
        let start = Instant::now();
        let result = outcome(case.reader, dir.path());
        let took = start.elapsed();
        let message = result.err().unwrap_or_else(|| "no error at all".to_owned());
        let named = message.contains(dir.path().to_str().unwrap());
        let short = message.len() < 2000;
        if !(message.contains(case.says) && named && short) || took > HANGS {
            wrong.push(format!("{} ({took:.2?}): {message:.300}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

fn write(files: &[(&str, Vec<u8>)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

/// A header that announces 100 MB of itself, in a file that has them.
#[test]
fn a_header_of_a_hundred_megabytes_is_not_read() {
    let dir = write(&[("config.json", read("models/llama/config.json"))]);
    let path = dir.path().join("model.safetensors");
    fs::write(&path, 110_000_000_u64.to_le_bytes()).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(120_000_000).unwrap();
    let start = Instant::now();
    let message = outcome(Reader::Model, dir.path()).unwrap_err();
    assert!(message.contains("not a safetensors file") && start.elapsed() < HANGS, "{message}");
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
            let _ = outcome(Reader::Model, write(&[("config.json", config.clone()), ("model.safetensors", weights)]).path());
            let weights = read(&format!("{model}/model.safetensors"));
            let config = damage(&config, &changes, cut);
            let _ = outcome(Reader::Model, write(&[("config.json", config), ("model.safetensors", weights)]).path());
        }
        for file in ["gguf/qwen3.gguf", "gguf/tok-spm.gguf"] {
            let _ = outcome(Reader::Gguf, write(&[("m.gguf", damaged(file))]).path());
        }
        let (config, weights) = ("models/llama/adapter/adapter_config.json", "models/llama/adapter/adapter_model.safetensors");
        let _ = outcome(Reader::Adapter, write(&[(CONFIG_FILE, damaged(config)), (WEIGHTS_FILE, read(weights))]).path());
        let _ = outcome(Reader::Adapter, write(&[(CONFIG_FILE, read(config)), (WEIGHTS_FILE, damaged(weights))]).path());
    }
}
