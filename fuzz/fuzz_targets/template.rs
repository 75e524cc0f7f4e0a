//! A chat template and what it is to render: the words of two turns.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use data::rows::{Message, Role};
use data::{ChatTemplate, SpecialTokens};
use fuzz::{TOKENIZER, parts};
use libfuzzer_sys::fuzz_target;

static SPECIAL: LazyLock<SpecialTokens> =
    LazyLock::new(|| SpecialTokens::new(&TOKENIZER, [("eos_token", "</s>")]).expect("a fixture"));

/// Above what fuel lets a template write.
const MOST_BYTES: usize = 256 << 20;

fuzz_target!(|input: &[u8]| {
    let [source, user, assistant] = parts(input).map(String::from_utf8_lossy);
    let Ok(template) = ChatTemplate::new(&source, &SPECIAL) else { return };
    let messages = [Message::new(Role::User, user), Message::new(Role::Assistant, assistant)];
    for prompt in [false, true] {
        let start = Instant::now();
        if let Ok(text) = template.render(&messages, &[], prompt) {
            assert!(text.len() < MOST_BYTES, "{} bytes", text.len());
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }
});
