//! Byte-level BPE out of a GGUF file (`tokenizer.ggml.model` = `gpt2`).

use serde_json::{Value, json};

use super::from_gguf::{Recipe, Vocabulary};
use crate::{Error, Result, gguf::GgufFile};

/// How Llama 3 cuts a text before its merges (its `tokenizer.json`; `LLAMA_VOCAB_PRE_TYPE_LLAMA3` in llama.cpp).
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The same for Qwen 2, 2.5 and 3, where each digit stands alone.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The pre-tokenizers by their names in GGUF files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Gpt2,
    SmolLm,
    Llama3,
    Qwen2,
}

const NAMES: &[(&str, Kind)] = &[
    ("default", Kind::Gpt2),
    ("gpt-2", Kind::Gpt2),
    ("smollm", Kind::SmolLm),
    ("llama-bpe", Kind::Llama3),
    ("llama-v3", Kind::Llama3),
    ("llama3", Kind::Llama3),
    ("qwen2", Kind::Qwen2),
    ("deepseek-r1-qwen", Kind::Qwen2),
];

pub(super) fn recipe(file: &GgufFile, vocabulary: &Vocabulary) -> Result<Recipe> {
    let kind = kind(file)?;
    let normalizer = match kind {
        Kind::Qwen2 => json!({"type": "NFC"}),
        _ => Value::Null,
    };
    let model = json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": null,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": false,
        "byte_fallback": false,
        "ignore_merges": kind == Kind::Llama3,
        "vocab": vocabulary.ids(file)?,
        "merges": merges(file)?,
    });
    Ok(Recipe {
        model,
        normalizer,
        pre_tokenizer: pre_tokenizer(kind),
        decoder: byte_level(true, true),
        add_bos_token: kind == Kind::Llama3,
    })
}

fn kind(file: &GgufFile) -> Result<Kind> {
    let key = "tokenizer.ggml.pre";
    let found = file.required(key, file.string(key)?)?;
    let known = NAMES.iter().find(|(name, _)| *name == found);
    known.map(|(_, kind)| *kind).ok_or_else(|| {
        let names: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
        let message = format!(
            "is `{found}`; known are {}. Use the model's Hugging Face directory, which has its tokenizer.json",
            names.join(", ")
        );
        Error::field(file.path(), key, message)
    })
}

fn pre_tokenizer(kind: Kind) -> Value {
    let sequence = |first: Value, use_regex: bool| json!({"type": "Sequence", "pretokenizers": [first, byte_level(false, use_regex)]});
    let split = |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    match kind {
        Kind::Gpt2 => byte_level(false, true),
        Kind::SmolLm => sequence(json!({"type": "Digits", "individual_digits": true}), true),
        Kind::Llama3 => sequence(split(LLAMA3), false),
        Kind::Qwen2 => sequence(split(QWEN2), false),
    }
}

fn byte_level(add_prefix_space: bool, use_regex: bool) -> Value {
    json!({
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": true,
        "use_regex": use_regex,
    })
}

/// The merges as pairs, best first.
fn merges(file: &GgufFile) -> Result<Vec<[&str; 2]>> {
    let key = "tokenizer.ggml.merges";
    let merges = file.required(key, file.strings(key)?)?;
    let pairs = merges.into_iter().map(|merge| match merge.split_once(' ') {
        Some((left, right)) => Ok([left, right]),
        None => Err(Error::field(
            file.path(),
            key,
            format!("`{merge}` is not two tokens with a space between"),
        )),
    });
    pairs.collect()
}
