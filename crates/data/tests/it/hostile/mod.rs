//! Damaged and hostile files: each is an error that names the file and the place, none a panic or a hang.

mod any;
mod fields;
mod lines;
mod packed;
mod roles;
mod templates;

use std::collections::BTreeSet;
use std::fs;
use std::sync::LazyLock;

use data::Encoder;
use data::rows::Rows;

use crate::common::{OPTIONS, encoder};

const GOOD: &str =
    r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;

static ENCODER: LazyLock<Encoder> = LazyLock::new(|| encoder("chatml", "<|im_end|>"));

/// A file, and parts of what is said about it.
struct Case {
    file: &'static str,
    bytes: Vec<u8>,
    says: Vec<String>,
}

impl Case {
    fn new(file: &'static str, bytes: impl AsRef<[u8]>, says: &[&str]) -> Self {
        let says = says.iter().map(|part| (*part).to_owned()).collect();
        Self { file, bytes: bytes.as_ref().to_vec(), says }
    }
}

/// What becomes of a file that is read and encoded.
fn outcome(name: &str, bytes: &[u8]) -> Result<usize, String> {
    outcome_of(&ENCODER, name, bytes)
}

fn outcome_of(encoder: &Encoder, name: &str, bytes: &[u8]) -> Result<usize, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    let result = Rows::read(&path, None)
        .and_then(Rows::strict)
        .and_then(|rows| encoder.encode(&rows, &OPTIONS)?.strict())
        .map(|dataset| dataset.len())
        .map_err(|error| error.to_string());
    if let Err(message) = &result {
        assert!(message.contains(name), "{message} does not name {name}");
        assert!(message.len() < 2000, "{} bytes of message for {name}", message.len());
    }
    result
}

#[test]
fn hostile_files_name_what_is_wrong_and_where() {
    let cases: Vec<Case> = [fields::cases, lines::cases, packed::cases]
        .into_iter()
        .flat_map(|cases| cases())
        .collect();
    let different: BTreeSet<_> = cases.iter().map(|case| (case.file, &case.bytes)).collect();
    assert!(different.len() >= 400, "{} different cases", different.len());
    let mut wrong = Vec::new();
    for Case { file, bytes, says } in &cases {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]);
        match outcome(file, bytes) {
            Ok(rows) => wrong.push(format!("{file}: {shown}: {rows} rows")),
            Err(message) if says.iter().all(|part| message.contains(part)) => {}
            Err(message) => wrong.push(format!("{file}: {shown}: {message}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn harmless_oddities_are_read() {
    let keys = (0..100_000).map(|key| format!("\"k{key}\": 1,")).collect::<Vec<_>>().concat();
    for text in [
        format!("\u{feff}{GOOD}"),
        format!("{GOOD}\r\n{GOOD}\r\n"),
        format!("\n\n{GOOD}\n\n\t \n"),
        GOOD.replace("\"a\"", "\"\""),
        GOOD.replace("\"a\"", "\"\\u0000\""),
        GOOD.replace("\"a\"", "\"\\u202e\\ufdd0\\uffff\""),
        GOOD.replace("\"role\": \"user\"", "\"role\": \"system\", \"role\": \"user\""),
        GOOD.replacen('{', &format!("{{{keys}"), 1),
    ] {
        assert!(outcome("odd.jsonl", text.as_bytes()).is_ok(), "{text:.300}");
    }
}
