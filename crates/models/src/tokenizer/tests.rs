//! Vocabularies in GGUF files against the ids of the tokenizers they stand for, and directories of files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::Tokenizer;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/gguf").join(name)
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn check_cases(kind: &str, tokenizer: &Tokenizer) {
    let text = fs::read_to_string(fixture("tokenizers.json")).unwrap();
    let cases: Value = serde_json::from_str(&text).unwrap();
    let cases = cases[kind].as_array().unwrap();
    assert!(cases.len() >= 10);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let expected = ids(&case["ids"]);
        assert_eq!(tokenizer.encode(text, true).unwrap(), expected, "{kind}: {text:?}");
        let decoded = case["decoded"].as_str().unwrap();
        assert_eq!(tokenizer.decode(&expected, true).unwrap(), decoded, "{kind}: {text:?}");
    }
}

fn open(kind: &str) -> Tokenizer {
    Tokenizer::open(&fixture(&format!("tok-{kind}.gguf"))).unwrap()
}

#[test]
fn gguf_vocabularies_give_the_reference_ids_before_and_after_saving() {
    for kind in ["smollm", "llama-bpe", "qwen2", "gpt-2", "spm"] {
        let tokenizer = open(kind);
        check_cases(kind, &tokenizer);
        let dir = tempfile::tempdir().unwrap();
        tokenizer.save(dir.path()).unwrap();
        let again = Tokenizer::open(dir.path()).unwrap();
        check_cases(kind, &again);
        assert_eq!(again.special_tokens(), tokenizer.special_tokens());
        assert_eq!(again.eos_token_ids(), tokenizer.eos_token_ids());
        assert_eq!(again.chat_template(), tokenizer.chat_template());
    }
}

#[test]
fn special_tokens_flags_and_template() {
    let smollm = open("smollm");
    let special = smollm.special_tokens();
    assert_eq!(special.bos.as_ref().unwrap().content, "<|start|>");
    assert_eq!(special.eos, special.pad);
    assert_eq!(special.unk, None);
    assert_eq!(smollm.eos_token_ids(), [special.eos.as_ref().unwrap().id]);
    assert!(smollm.chat_template().unwrap().contains("messages"));
    assert!(!smollm.adds_bos_token() && !smollm.adds_eos_token());
    assert_eq!(smollm.vocab_size(), 363);

    // Llama files without the flag begin every text.
    let spm = open("spm");
    assert!(spm.adds_bos_token() && !spm.adds_eos_token());
    assert_eq!(spm.encode("a", false).unwrap(), spm.encode("a", true).unwrap()[1..]);
    assert!(open("llama-bpe").adds_bos_token());
    assert_eq!(spm.chat_template(), None);
}

#[test]
fn streamed_text_equals_decoded_text() {
    let text = "naïve 🙂👍🏽 café\n<|start|>日本語";
    for kind in ["smollm", "spm"] {
        let tokenizer = open(kind);
        let ids = tokenizer.encode(text, false).unwrap();
        for skip in [true, false] {
            // Every prefix, also those that end inside a character.
            for len in 0..=ids.len() {
                let mut stream = tokenizer.decode_stream(skip);
                let mut streamed = String::new();
                for id in &ids[..len] {
                    let piece = stream.step(*id).unwrap();
                    assert!(!piece.contains('\u{fffd}'), "{piece:?}");
                    streamed += &piece;
                }
                streamed += &stream.finish().unwrap();
                let decoded = tokenizer.decode(&ids[..len], skip).unwrap();
                if kind == "spm" && decoded.ends_with('\u{fffd}') {
                    assert!(streamed.ends_with('\u{fffd}'), "{streamed:?}");
                } else {
                    assert_eq!(streamed, decoded);
                }
            }
        }
    }
}

#[test]
fn broken_characters_do_not_stop_a_stream() {
    for kind in ["smollm", "spm"] {
        let tokenizer = open(kind);
        let emoji = tokenizer.encode("🙂🙂", false).unwrap();
        let letter = tokenizer.encode("b", false).unwrap();
        let broken = &emoji[..emoji.len() - 1];
        let mut stream = tokenizer.decode_stream(true);
        let pieces = broken.iter().chain(&letter).map(|id| stream.step(*id).unwrap());
        let text: String = pieces.collect();
        assert!(
            text.starts_with('🙂') && text.contains('\u{fffd}') && text.ends_with('b'),
            "{text:?}"
        );
        assert_eq!(stream.finish().unwrap(), "");
    }
}

#[test]
fn written_files_are_what_transformers_reads() {
    let dir = tempfile::tempdir().unwrap();
    open("llama-bpe").save(dir.path()).unwrap();
    let read = |name: &str| -> Value {
        serde_json::from_str(&fs::read_to_string(dir.path().join(name)).unwrap()).unwrap()
    };
    let config = json!({
        "clean_up_tokenization_spaces": false,
        "model_max_length": 128,
        "bos_token": "<|start|>",
        "eos_token": "<|end|>",
        "pad_token": "<|end|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    assert_eq!(read("tokenizer_config.json"), config);
    let map = json!({"bos_token": "<|start|>", "eos_token": "<|end|>", "pad_token": "<|end|>"});
    assert_eq!(read("special_tokens_map.json"), map);
    assert_eq!(read("tokenizer.json")["model"]["ignore_merges"], true);
    assert!(dir.path().join("chat_template.jinja").is_file());
}

/// A saved tokenizer directory to be changed.
fn saved() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    open("smollm").save(dir.path()).unwrap();
    dir
}

fn put(dir: &Path, name: &str, value: &Value) {
    fs::write(dir.join(name), value.to_string()).unwrap();
}

#[test]
fn layouts_of_templates_and_special_tokens() {
    let dir = saved();
    put(dir.path(), "generation_config.json", &json!({"eos_token_id": [7, 8]}));
    put(
        dir.path(),
        "tokenizer_config.json",
        &json!({
            "eos_token": {"content": "<|end|>", "lstrip": false},
            "chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}],
        }),
    );
    let tokenizer = Tokenizer::open(dir.path()).unwrap();
    assert_eq!(tokenizer.special_tokens().eos.as_ref().unwrap().content, "<|end|>");
    assert_eq!(
        tokenizer.special_tokens().bos.as_ref().unwrap().content,
        "<|start|>",
        "from the map"
    );
    assert_eq!(tokenizer.eos_token_ids()[1..], [7, 8]);
    assert!(tokenizer.chat_template().unwrap().contains("messages"), "the file wins");
    fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
    assert_eq!(Tokenizer::open(dir.path()).unwrap().chat_template(), Some("D"));
}

#[test]
fn tokens_only_the_configuration_lists_are_added() {
    let dir = saved();
    let extra = json!({"content": "<extra>", "special": true});
    let mut config = json!({"added_tokens_decoder": {"363": extra}, "pad_token": "<extra>"});
    put(dir.path(), "tokenizer_config.json", &config);
    let tokenizer = Tokenizer::open(dir.path()).unwrap();
    assert_eq!(tokenizer.encode("<extra>", false).unwrap(), [363]);
    assert_eq!(tokenizer.decode(&[363], true).unwrap(), "");
    config["added_tokens_decoder"] = json!({"400": {"content": "<extra>"}});
    put(dir.path(), "tokenizer_config.json", &config);
    let error = Tokenizer::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("added_tokens_decoder.400"), "{error}");
}

#[test]
fn flags_that_tokenizer_json_does_not_follow_are_named() {
    let dir = tempfile::tempdir().unwrap();
    open("llama-bpe").save(dir.path()).unwrap();
    let warnings = |config: Value| {
        put(dir.path(), "tokenizer_config.json", &config);
        Tokenizer::open(dir.path()).map(|tokenizer| tokenizer.warnings().to_vec())
    };
    for agreed in [json!({}), json!({"add_bos_token": true, "add_eos_token": false})] {
        assert_eq!(warnings(agreed).unwrap(), Vec::<String>::new());
    }
    let found = warnings(json!({"add_bos_token": false, "add_eos_token": true})).unwrap();
    assert_eq!(found.len(), 2, "{found:?}");
    for (warning, parts) in found.iter().zip([
        ["`add_bos_token` = false", "adds the begin token"],
        ["`add_eos_token` = true", "does not add the end token"],
    ]) {
        assert!(warning.contains("tokenizer_config.json"), "{warning}");
        assert!(parts.iter().all(|part| warning.contains(part)), "{warning}");
    }
    let error = warnings(json!({"add_bos_token": "yes"})).unwrap_err().to_string();
    assert!(error.contains("`add_bos_token`") && error.contains("yes"), "{error}");
}

#[test]
fn named_tokens_become_special() {
    let dir = saved();
    // In the vocabulary and found whole, but not special in tokenizer.json.
    put(dir.path(), "tokenizer_config.json", &json!({"unk_token": "<think>"}));
    let tokenizer = Tokenizer::open(dir.path()).unwrap();
    let ids = tokenizer.encode("a<think>b", false).unwrap();
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "ab");
    assert_eq!(open("smollm").decode(&ids, true).unwrap(), "a<think>b");
}

#[test]
fn truncation_and_padding_are_off() {
    let dir = saved();
    let path = dir.path().join("tokenizer.json");
    let mut json: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    json["truncation"] =
        json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = json!({
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "!",
    });
    put(dir.path(), "tokenizer.json", &json);
    check_cases("smollm", &Tokenizer::open(dir.path()).unwrap());
}

#[test]
fn bad_directories() {
    let error = |dir: &Path| Tokenizer::open(dir).unwrap_err().to_string();
    let dir = tempfile::tempdir().unwrap();
    assert!(error(dir.path()).contains("tokenizer.json"));
    fs::write(dir.path().join("tokenizer.model"), "x").unwrap();
    assert!(error(dir.path()).contains("save_pretrained"));
    for name in ["a.gguf", "b.gguf"] {
        fs::copy(fixture("tok-smollm.gguf"), dir.path().join(name)).unwrap();
    }
    assert!(error(dir.path()).contains("2 GGUF files"));
    fs::remove_file(dir.path().join("b.gguf")).unwrap();
    check_cases("smollm", &Tokenizer::open(dir.path()).unwrap());

    let dir = saved();
    put(dir.path(), "tokenizer_config.json", &json!({"eos_token": "</s>"}));
    assert!(
        error(dir.path()).contains("`eos_token`: is `</s>`, which tokenizer.json does not have")
    );
    put(dir.path(), "tokenizer_config.json", &json!([]));
    assert!(error(dir.path()).contains("tokenizer_config.json"));
    put(dir.path(), "tokenizer.json", &json!({"model": 1}));
    assert!(error(dir.path()).contains("not a tokenizer"));
    assert!(error(&dir.path().join("nowhere")).contains("nowhere"));
}

/// Replaces one string by another of the same length in a GGUF file.
fn with_text(fixture_name: &str, from: &str, to: &str) -> String {
    assert_eq!(from.len(), to.len());
    let mut bytes = fs::read(fixture(fixture_name)).unwrap();
    let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("changed.gguf");
    fs::write(&path, bytes).unwrap();
    Tokenizer::open(&path).unwrap_err().to_string()
}

#[test]
fn unknown_vocabularies_are_named() {
    let error = with_text("tok-smollm.gguf", "smollm", "chatty");
    assert!(error.contains("tokenizer.ggml.pre") && error.contains("`chatty`"), "{error}");
    let error = with_text("tok-smollm.gguf", "gpt2", "bert");
    assert!(error.contains("tokenizer.ggml.model") && error.contains("`bert`"), "{error}");
    let error = with_text("tok-smollm.gguf", "tokenizer.ggml.merges", "tokenizer.ggml.purges");
    assert!(error.contains("tokenizer.ggml.merges") && error.contains("missing"), "{error}");
    let error = with_text("tok-smollm.gguf", "<think>", "<|end|>");
    assert!(error.contains("`<|end|>` is there twice"), "{error}");
}

#[test]
fn a_tokenizer_is_saved_when_all_its_files_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut tokenizer = open("smollm");
    tokenizer.set_chat_template("x".to_owned());
    // No file can take the place of a directory.
    fs::create_dir(dir.path().join("chat_template.jinja")).unwrap();
    tokenizer.save(dir.path()).unwrap_err();
    fs::remove_dir(dir.path().join("chat_template.jinja")).unwrap();
    assert!(!tokenizer.is_saved(dir.path()));
    tokenizer.save(dir.path()).unwrap();
    assert!(tokenizer.is_saved(dir.path()));
    let files: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path()).collect();
    let aside = dir.path().with_extension("aside");
    for path in files {
        fs::rename(&path, &aside).unwrap();
        assert!(!tokenizer.is_saved(dir.path()), "without {}", path.display());
        fs::rename(&aside, &path).unwrap();
    }
}
