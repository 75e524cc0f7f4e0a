//! Files as nobody should offer them, to the binary: it ends with one clear error, in bounded memory.

#[path = "../../crates/models/tests/hostile/files/mod.rs"]
mod files;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use files::{Case, Reader, fixture};

use crate::support::error;

/// Most memory that a refusal may take: what the process allocates, without the files that it maps.
const MOST_KIB: u32 = 200_000;

/// No refusal takes a second; a reader that hangs takes longer than any machine is slow.
const HANGS: Duration = Duration::from_secs(30);

/// Runs the binary with a limit on its memory.
fn limited(args: &[&str]) -> Output {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -d $0 && exec \"$@\"", &MOST_KIB.to_string()]);
    command.arg(env!("CARGO_BIN_EXE_qlora-train")).args(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > HANGS {
            child.kill().unwrap();
            panic!("{args:?} hangs");
        }
        sleep(Duration::from_millis(2));
    }
    child.wait_with_output().unwrap()
}

fn generate(model: &Path, adapter: Option<&Path>) -> Output {
    let mut args = vec!["generate", "--model", model.to_str().unwrap(), "--device", "cpu"];
    args.extend(["--threads", "1", "--raw", "--prompt", "x", "--max-new-tokens", "1"]);
    if let Some(adapter) = adapter {
        args.extend(["--adapter", adapter.to_str().unwrap()]);
    }
    limited(&args)
}

fn copy_tokenizer(to: &Path) {
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixture("tokenizer").join(file), to.join(file)).unwrap();
    }
}

/// Offers the files of a case; the error must name them.
fn refused(case: &Case, llama: &Path) {
    let dir = case.write();
    let output = match case.reader {
        Reader::Model => {
            copy_tokenizer(dir.path());
            generate(dir.path(), None)
        }
        Reader::Gguf => generate(&dir.path().join("m.gguf"), None),
        Reader::Adapter => generate(llama, Some(dir.path())),
    };
    assert!(output.stdout.is_empty(), "{}", case.name);
    let message = error(&output, 1);
    let named = message.contains(dir.path().to_str().unwrap());
    assert!(named && message.contains(case.says), "{}: {message}", case.name);
    assert!(message.len() < 2000, "{}: {} bytes of message", case.name, message.len());
}

fn all_refused(reader: Reader) {
    let llama = tempfile::tempdir().unwrap();
    copy_tokenizer(llama.path());
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture("models/llama").join(file), llama.path().join(file)).unwrap();
    }
    assert!(generate(llama.path(), None).status.success(), "the limits are not too low");
    let cases: Vec<Case> = files::all().into_iter().filter(|case| case.reader == reader).collect();
    assert!(cases.len() >= 40, "{}", cases.len());
    for case in &cases {
        refused(case, llama.path());
    }
}

#[test]
fn models_are_refused() {
    all_refused(Reader::Model);
}

#[test]
fn gguf_files_are_refused() {
    all_refused(Reader::Gguf);
}

#[test]
fn adapters_are_refused() {
    all_refused(Reader::Adapter);
}
