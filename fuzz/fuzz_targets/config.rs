//! The JSON files of a model: `config.json`, `generation_config.json`, `tokenizer_config.json`,
//! `special_tokens_map.json`.
#![no_main]

use fuzz::{Scratch, parts};
use libfuzzer_sys::fuzz_target;
use models::{ModelConfig, Tokenizer};

fuzz_target!(|input: &[u8]| {
    let [config, generation, tokenizer, map] = parts(input);
    let dir = Scratch::new();
    dir.write("config.json", config);
    for (name, bytes) in [
        ("generation_config.json", generation),
        ("tokenizer_config.json", tokenizer),
        ("special_tokens_map.json", map),
    ] {
        if !bytes.is_empty() {
            dir.write(name, bytes);
        }
    }
    if let Ok(config) = ModelConfig::from_dir(dir.path()) {
        let _ = config.rope_tables(64);
        let _ = config.parameters();
        let _ = config.context_limit();
    }
    if tokenizer.is_empty() && map.is_empty() {
        return;
    }
    dir.write("tokenizer.json", include_bytes!("../../tests/fixtures/tokenizer/tokenizer.json"));
    if let Ok(tokenizer) = Tokenizer::from_dir(dir.path()) {
        let _ = tokenizer.encode("Hello </s>", true);
    }
});
