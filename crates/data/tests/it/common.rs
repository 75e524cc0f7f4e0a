//! A small tokenizer and model-like settings that the tests share.

use std::path::Path;

use data::rows::{Format, Message, Role, Rows};
use data::{
    ChatTemplate, Dataset, EncodeOptions, Encoder, Overlength, PromptFormat, Result, SpecialTokens,
    TrainOn,
};
use serde_json::Value;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{Prepend, Replace, Sequence};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer};

pub(crate) const SPECIAL: [&str; 9] = [
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
];

pub(crate) fn fixture() -> Value {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/templates/golden.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Byte-level BPE with a handful of merges, and the special tokens of the fixture's templates.
pub(crate) fn tokenizer() -> Tokenizer {
    let mut alphabet: Vec<String> = ByteLevel::alphabet().into_iter().map(String::from).collect();
    alphabet.sort();
    let merges = [
        ("e", "r"),
        ("Ġ", "t"),
        ("h", "e"),
        ("Ġt", "he"),
        ("Ċ", "Ċ"),
        ("Ġ", "P"),
        ("i", "n"),
        ("Ġ", "Ġ"),
    ];
    let merged = merges.iter().map(|(left, right)| format!("{left}{right}"));
    let vocabulary: Vocab = alphabet.into_iter().chain(merged).zip(0..).collect();
    let merges =
        merges.iter().map(|(left, right)| ((*left).to_owned(), (*right).to_owned())).collect();
    let model = BPE::builder().vocab_and_merges(vocabulary, merges).build().unwrap();
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    tokenizer.add_special_tokens(SPECIAL.map(|text| AddedToken::from(text, true))).unwrap();
    tokenizer
}

/// The same, with a `bos_token` put before every text, as Llama's tokenizers do.
pub(crate) fn tokenizer_with_bos() -> Tokenizer {
    let mut tokenizer = tokenizer();
    let bos = tokenizer.token_to_id("<s>").unwrap();
    let mut processor = TemplateProcessing::builder();
    processor.try_single("<s> $A").unwrap().special_tokens(vec![("<s>", bos)]);
    tokenizer.with_post_processor(Some(processor.build().unwrap()));
    tokenizer
}

/// Letters behind a "▁" for each space and one before the text, as `SentencePiece` writes them.
pub(crate) fn tokenizer_with_prefix() -> Tokenizer {
    let vocabulary: Vocab = ["▁", "a", "b"].map(String::from).into_iter().zip(0..).collect();
    let model = BPE::builder().vocab_and_merges(vocabulary, Vec::new()).build().unwrap();
    let mut tokenizer = Tokenizer::new(model);
    let space = Replace::new(" ", "▁").unwrap();
    let normalizer = Sequence::new(vec![Prepend::new("▁".to_owned()).into(), space.into()]);
    tokenizer.with_normalizer(Some(normalizer)).unwrap();
    tokenizer.add_special_tokens([AddedToken::from("</s>", true)]).unwrap();
    tokenizer
}

pub(crate) const OPTIONS: EncodeOptions = EncodeOptions {
    prompt_format: PromptFormat::Plain,
    train_on: TrainOn::Answers,
    max_seq_len: None,
    context: 4096,
    overlength: Overlength::Error,
    packing: false,
};

/// An encoder with a template of the fixture and the end token that goes with it.
pub(crate) fn encoder(template: &str, eos: &str) -> Encoder {
    encoder_of(fixture()["templates"][template].as_str().unwrap(), eos)
}

pub(crate) fn encoder_of(template: &str, eos: &str) -> Encoder {
    let tokenizer = tokenizer();
    let special =
        SpecialTokens::new(&tokenizer, [("bos_token", "<s>"), ("eos_token", eos)]).unwrap();
    let template = ChatTemplate::new(template, &special).unwrap();
    Encoder::new(&tokenizer, special, Some(template))
}

pub(crate) fn read(text: &str, format: Option<Format>) -> Result<Rows> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rows.jsonl");
    std::fs::write(&path, text).unwrap();
    Rows::read(&path, format)?.strict()
}

pub(crate) fn encode(encoder: &Encoder, text: &str, options: &EncodeOptions) -> Result<Dataset> {
    encoder.encode(&read(text, None)?, options)?.strict()
}

pub(crate) fn message(role: Role, content: &str) -> Message {
    Message::new(role, content)
}
