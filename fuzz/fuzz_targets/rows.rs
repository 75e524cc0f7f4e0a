//! A file of rows of any kind and format, encoded with a small tokenizer.
#![no_main]

use std::sync::LazyLock;

use data::rows::{Chat, Format, Rows, Source};
use data::{
    ChatTemplate, EncodeOptions, Encoder, Overlength, PromptFormat, SpecialTokens, TrainOn,
};
use fuzz::{Scratch, TOKENIZER};
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 8] =
    ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.jsonl.gz", "a.csv.zst", "a.txt"];

const FORMATS: [Option<Format>; 8] = [
    None,
    Some(Format::Chat),
    Some(Format::ShareGpt),
    Some(Format::Alpaca),
    Some(Format::Completion),
    Some(Format::Text),
    Some(Format::Tokens),
    Some(Format::Preference),
];

static ENCODER: LazyLock<Encoder> = LazyLock::new(|| {
    let special = SpecialTokens::new(&TOKENIZER, [("eos_token", "</s>")]).expect("a fixture");
    let source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}";
    let template = ChatTemplate::new(source, &special).expect("a template");
    Encoder::new(&TOKENIZER, special, Some(template))
});

fuzz_target!(|input: &[u8]| {
    // The kind of file; format and options.
    let Some(([kind, options], bytes)) = input.split_first_chunk() else { return };
    let dir = Scratch::new();
    let path = dir.write(NAMES[usize::from(*kind) % NAMES.len()], bytes);
    let mut source = Source::new(&path);
    source.format = FORMATS[usize::from(*options) % FORMATS.len()];
    if options & 8 != 0 {
        source.fields = [("prompt", "question"), ("completion", "answer"), ("messages", "m")]
            .map(|(to, from)| (to.to_owned(), from.to_owned()))
            .into();
    }
    source.weight = if options & 16 == 0 { 1.0 } else { 1.5 };
    let _ = Chat::read(&path);
    let Ok(rows) = Rows::read_all(&[source]) else { return };
    let options = EncodeOptions {
        prompt_format: if options & 32 == 0 { PromptFormat::Plain } else { PromptFormat::Chat },
        train_on: if options & 64 == 0 { TrainOn::Answers } else { TrainOn::LastAnswer },
        overlength: if options & 128 == 0 { Overlength::Error } else { Overlength::TruncateRight },
        ..EncodeOptions::whole(128)
    };
    let Ok(dataset) = ENCODER.encode(&rows, &options) else { return };
    for row in 0..dataset.len() {
        let example = dataset.example(row).expect("a row that was kept");
        assert_eq!(example.input_ids.len(), example.labels.len());
        assert!(example.trained_tokens() > 0, "{example:?}");
    }
});
