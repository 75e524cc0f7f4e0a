//! Tools, masks and templates of the program's own.

use data::rows::{Chat, Format};
use data::{Builtin, ChatTemplate, EncodeOptions, Encoder, Error, SpecialTokens, TrainOn};
use tokenizers::{AddedToken, Tokenizer};

use crate::common::{OPTIONS, encode, encoder, encoder_of, read, tokenizer};

const TOOLS: &str = r#"{"tools": [{"type": "function", "function": {"name": "add", "parameters": {"a": "int"}}}], "messages": [
    {"role": "user", "content": "1+2?"},
    {"role": "assistant", "content": null, "tool_calls": [{"id": "x", "function": {"name": "add", "arguments": "{\"a\": 1}"}}]},
    {"role": "tool", "content": "3", "tool_call_id": "x"},
    {"role": "assistant", "content": "It is 3"}]}"#;

/// After Qwen2.5's: tools in the system turn, calls in tags, results as a user turn.
const HERMES: &str = "\
{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}\
{% for m in messages %}\
{% if m.role == 'tool' %}<|im_start|>user\n<r>{{ m.content }}</r><|im_end|>\n\
{% else %}<|im_start|>{{ m.role }}\n{% if m.content %}{{ m.content }}{% endif %}\
{% for c in m.tool_calls or [] %}<c>{{ c.function.name }} {{ c.function.arguments | tojson }}</c>{% endfor %}<|im_end|>\n\
{% endif %}{% endfor %}\
{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

fn row() -> String {
    TOOLS.replace('\n', "")
}

/// The text of a row, and the trained parts of it.
fn trained(encoder: &Encoder, row: &str, options: &EncodeOptions) -> (String, Vec<String>) {
    let example = encode(encoder, row, options).unwrap().example(0).unwrap();
    let decode = |ids: &[u32]| encoder_tokenizer().decode(ids, false).unwrap();
    let runs = example.labels.chunk_by(|a, b| (*a == data::IGNORE) == (*b == data::IGNORE));
    let learned = runs.filter(|run| run[0] != data::IGNORE).map(decode).collect();
    (decode(&example.input_ids), learned)
}

/// The tests' tokenizer with the tokens of all built-in templates.
fn encoder_tokenizer() -> Tokenizer {
    let mut tokenizer = tokenizer();
    let more = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"];
    tokenizer.add_special_tokens(more.map(|text| AddedToken::from(text, true))).unwrap();
    tokenizer
}

fn builtin(name: &str) -> Encoder {
    let tokenizer = encoder_tokenizer();
    let special =
        SpecialTokens::new(&tokenizer, [("bos_token", "<s>"), ("eos_token", "</s>")]).unwrap();
    let source = Builtin::named(name, &tokenizer).unwrap().source;
    let template = ChatTemplate::new(source, &special).unwrap();
    Encoder::new(&tokenizer, special, Some(template))
}

#[test]
fn calls_are_learned_and_results_are_not() {
    let (text, learned) = trained(&encoder_of(HERMES, "<|im_end|>"), &row(), &OPTIONS);
    let tool = r#"{"type": "function", "function": {"name": "add", "parameters": {"a": "int"}}}"#;
    assert!(text.starts_with(&format!("<|im_start|>system\n{tool}\n<|im_end|>\n")), "{text}");
    assert_eq!(learned, [r#"<c>add {"a": 1}</c><|im_end|>"#, "It is 3<|im_end|>"]);
}

#[test]
fn what_a_template_hides_is_told() {
    use data::Unseen::{Call, Tool, Words};
    let hides = |template: &str, row: &str| {
        let dataset = encode(&encoder_of(template, "</s>"), row, &OPTIONS).unwrap();
        dataset.unseen().next().map(|(_, part)| part)
    };
    let plain = "{% for m in messages %}{{ m.role }}: {{ m.content or '' }}</s>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
    assert_eq!(hides(HERMES, &row()), None);
    assert_eq!(hides(plain, &row()), Some(Tool));
    assert_eq!(hides(plain, &row().replace("tools\"", "id\"")), Some(Call(1)));
    let no_system = plain.replace("messages %}", "messages if m.role != 'system' %}");
    let system = r#"{"messages": [{"role": "system", "content": " Be brief "}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    assert_eq!((hides(plain, system), hides(&no_system, system)), (None, Some(Words(0))));
}

#[test]
fn the_loss_covers_what_it_is_told_to() {
    let row = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}"#;
    let encoder = encoder("chatml", "<|im_end|>");
    let on = |train_on, row| trained(&encoder, row, &EncodeOptions { train_on, ..OPTIONS });
    assert_eq!(on(TrainOn::Answers, row).1, ["b<|im_end|>", "d<|im_end|>"]);
    assert_eq!(on(TrainOn::LastAnswer, row).1, ["d<|im_end|>"]);
    let (text, learned) = on(TrainOn::Everything, row);
    assert_eq!(learned, [text]);
    let silent = row.replace("\"d\"}", "\"d\", \"weight\": 0}");
    assert_eq!(on(TrainOn::LastAnswer, &silent).1, ["b<|im_end|>"]);
    let completion = r#"{"prompt": "a", "completion": "b"}"#;
    assert_eq!(on(TrainOn::Answers, completion).1, ["b<|im_end|>"]);
    assert_eq!(on(TrainOn::Everything, completion).1, ["ab<|im_end|>"]);
    assert_eq!(on(TrainOn::Answers, r#"{"text": "a"}"#).1, ["a<|im_end|>"]);
}

#[test]
fn the_built_in_templates_write_the_public_formats() {
    let row = r#"{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}"#;
    for (name, expected, answers) in [
        (
            "chatml",
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\nd<|im_end|>\n",
            ["b<|im_end|>", "d<|im_end|>"],
        ),
        (
            "llama-2",
            "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\na [/INST] b </s><s>[INST] c [/INST] d </s>",
            [" b </s>", " d </s>"],
        ),
        (
            "llama-3",
            "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\na<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nb<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nc<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nd<|eot_id|>",
            ["b<|eot_id|>", "d<|eot_id|>"],
        ),
        ("mistral", "<s>[INST] S\n\na [/INST] b</s>[INST] c [/INST] d</s>", [" b</s>", " d</s>"]),
        (
            "gemma",
            "<s><start_of_turn>user\nS\n\na<end_of_turn>\n<start_of_turn>model\nb<end_of_turn>\n<start_of_turn>user\nc<end_of_turn>\n<start_of_turn>model\nd<end_of_turn>\n",
            ["b<end_of_turn>", "d<end_of_turn>"],
        ),
        (
            "phi",
            "<|system|>\nS<|end|>\n<|user|>\na<|end|>\n<|assistant|>\nb<|end|>\n<|user|>\nc<|end|>\n<|assistant|>\nd<|end|>\n",
            ["b<|end|>", "d<|end|>"],
        ),
        (
            "alpaca",
            "<s>S\n\n### Instruction:\na\n\n### Response:\nb</s>\n\n### Instruction:\nc\n\n### Response:\nd</s>\n\n",
            ["b</s>", "d</s>"],
        ),
        (
            "zephyr",
            "<s><|system|>\nS</s>\n<|user|>\na</s>\n<|assistant|>\nb</s>\n<|user|>\nc</s>\n<|assistant|>\nd</s>\n",
            ["b</s>", "d</s>"],
        ),
    ] {
        let encoder = builtin(name);
        let (text, learned) = trained(&encoder, row, &OPTIONS);
        assert_eq!(
            (text.as_str(), learned),
            (expected, answers.map(str::to_owned).to_vec()),
            "{name}"
        );
        let cases = encoder.generation_cases(&read(row, None).unwrap(), OPTIONS.prompt_format);
        let prompt = encoder_tokenizer().decode(&cases.unwrap()[0].prompt_ids, false).unwrap();
        let answer = answers[1].trim_start();
        assert!(expected.starts_with(&prompt), "{name}: {prompt}");
        assert!(expected[prompt.len()..].trim_start().starts_with(answer), "{name}: {prompt}");
    }
    assert_eq!(Builtin::ALL.len(), 8);
}

#[test]
fn an_alpaca_input_is_set_apart_by_alpaca_s_own_template() {
    let row = r#"{"instruction": "i", "input": "x", "output": "o"}"#;
    let (text, _) = trained(&builtin("alpaca"), row, &OPTIONS);
    assert!(text.ends_with("context. Write a response that appropriately completes the request.\n\n### Instruction:\ni\n\n### Input:\nx\n\n### Response:\no</s>\n\n"), "{text}");
    let dataset = encode(&builtin("alpaca"), row, &OPTIONS).unwrap();
    assert_eq!(dataset.unseen().next(), None);
    let (text, _) = trained(&builtin("zephyr"), row, &OPTIONS);
    assert!(text.contains("<|user|>\ni\n\nx</s>"), "{text}");
}

#[test]
fn built_in_templates_refuse_what_they_cannot_show() {
    for builtin in Builtin::ALL {
        let encoder = self::builtin(builtin.name);
        let rows = read(&row(), Some(Format::Chat)).unwrap();
        let error = encoder.encode(&rows, &OPTIONS).unwrap().strict().unwrap_err().to_string();
        assert!(error.contains("no form for tools"), "{}: {error}", builtin.name);
    }
}

#[test]
fn a_built_in_template_needs_its_tokens() {
    let of = |name: &str| Builtin::named(name, &tokenizer()).map(|builtin| builtin.name);
    assert_eq!(of("zephyr").unwrap(), "zephyr");
    let error = of("phi").unwrap_err().to_string();
    assert!(error.contains("\"phi\" needs the token <|system|>"), "{error}");
    let error = of("vicuna").unwrap_err().to_string();
    assert!(error.contains("called \"vicuna\"") && error.contains("llama-2"), "{error}");
}

#[test]
fn left_cuts_keep_the_begin_token() {
    let row = r#"{"messages": [{"role": "user", "content": "aaaaaaaaaa"}, {"role": "assistant", "content": "bb"}]}"#;
    let options = EncodeOptions {
        max_seq_len: Some(8),
        overlength: data::Overlength::TruncateLeft,
        ..OPTIONS
    };
    let (text, learned) = trained(&builtin("mistral"), row, &options);
    assert_eq!((text.as_str(), learned), ("<s>ST] bb</s>", vec![" bb</s>".to_owned()]));
}

#[test]
fn a_preference_set_can_be_learned_by_its_better_answers() {
    let row = r#"{"prompt": "p", "completion": "x", "chosen": "a", "rejected": "b"}"#;
    let error = read(row, None).unwrap_err().to_string();
    assert!(error.contains("fit several formats (preference, prompt/completion)"), "{error}");
    assert_eq!(read(row, Some(Format::Completion)).unwrap().format, Format::Completion);
    assert!(matches!(
        encode(
            &encoder("smollm2", "</s>"),
            r#"{"prompt": "p", "chosen": "a", "rejected": "b"}"#,
            &OPTIONS
        ),
        Err(Error::Row { .. })
    ));
    assert_eq!(Chat::from(Vec::new()).messages.len(), 0);
}
