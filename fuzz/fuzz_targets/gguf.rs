//! A GGUF file, with as many KiB of zeros at its end as the first byte says: its header, weights, configuration and
//! tokenizer.
#![no_main]

use fuzz::{Scratch, read_all};
use libfuzzer_sys::fuzz_target;
use models::Tokenizer;
use models::gguf::GgufFile;

fuzz_target!(|input: &[u8]| {
    let Some((zeros, rest)) = input.split_first() else { return };
    let mut bytes = rest.to_vec();
    bytes.resize(rest.len() + usize::from(*zeros) * 1024, 0);
    let dir = Scratch::new();
    let path = dir.write("m.gguf", &bytes);
    let Ok(file) = GgufFile::open(&path) else { return };
    read_all(&file);
    if let Ok(config) = file.config() {
        let _ = config.rope_tables(64);
        let _ = config.parameters();
    }
    if let Ok(tokenizer) = Tokenizer::from_gguf(&file)
        && let Ok(ids) = tokenizer.encode("Hello, wörld\n 12", true)
    {
        let _ = tokenizer.decode(&ids, false);
    }
});
