//! Which tokens are learned.

use data::rows::{BadRows, Content, Format, Place, Role, Row, Rows};
use data::{EncodeOptions, Encoder, Error, Example, IGNORE, Problem, PromptFormat, SpecialTokens};
use proptest::prelude::*;
use serde_json::Value;

use crate::common::{
    OPTIONS, encode, encoder, encoder_of, fixture, message, tokenizer, tokenizer_with_bos,
    tokenizer_with_prefix,
};

fn decode(ids: &[u32]) -> String {
    tokenizer().decode(ids, false).unwrap()
}

/// The learned runs of an example, as text.
fn learned(example: &Example) -> Vec<String> {
    let runs = example.labels.chunk_by(|left, right| (*left == IGNORE) == (*right == IGNORE));
    runs.filter(|run| run[0] != IGNORE).map(decode).collect()
}

fn example(encoder: &Encoder, text: &str) -> Example {
    encode(encoder, text, &OPTIONS).unwrap().example(0).unwrap()
}

fn problem(encoder: &Encoder, text: &str, options: &EncodeOptions) -> Problem {
    match encode(encoder, text, options) {
        Err(Error::Row { place, problem }) if place.number == 1 => problem,
        other => panic!("expected a problem with line 1, got {other:?}"),
    }
}

const TWO_TURNS: &str = r#"{"messages": [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "I say 1"},
    {"role": "user", "content": "Two?"}, {"role": "assistant", "content": "and 2"}]}"#;

fn two_turns() -> String {
    TWO_TURNS.replace('\n', "")
}

#[test]
fn each_answer_is_learned_through_its_end_token() {
    for (template, eos, end) in [
        ("smollm2", "<|im_end|>", "<|im_end|>"),
        ("chatml", "<|im_end|>", "<|im_end|>"),
        ("llama3", "<|eot_id|>", "<|eot_id|>"),
        ("gemma", "</s>", "<end_of_turn>"),
        ("generation", "<|im_end|>", "<|im_end|>"),
    ] {
        let answers = [format!("I say 1{end}"), format!("and 2{end}")];
        assert_eq!(learned(&example(&encoder(template, eos), &two_turns())), answers, "{template}");
    }
    assert_eq!(
        learned(&example(&encoder("mistral", "</s>"), &two_turns())),
        [" I say 1</s>", " and 2</s>"]
    );
}

#[test]
fn an_answer_that_depends_on_later_turns_is_found_by_its_text() {
    let learned = learned(&example(&encoder("qwen3", "<|im_end|>"), &two_turns()));
    assert_eq!(learned, ["I say 1<|im_end|>", "<think>\n\n</think>\n\nand 2<|im_end|>"]);
}

#[test]
fn an_answer_that_the_template_rewrites_is_an_error() {
    let row = two_turns().replace("I say 1", "<think>hm</think>I say 1");
    let problem = problem(&encoder("qwen3", "<|im_end|>"), &row, &OPTIONS);
    assert!(matches!(problem, Problem::Unlocated { message: 1, .. }), "{problem}");
    let skipped = row.replace(r#"I say 1"}"#, r#"I say 1", "train": false}"#);
    let learned = learned(&example(&encoder("qwen3", "<|im_end|>"), &skipped));
    assert_eq!(learned, ["<think>\n\n</think>\n\nand 2<|im_end|>"]);
}

#[test]
fn a_template_that_does_not_begin_with_its_own_prompt_is_an_error() {
    let template = "{% for m in messages %}{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}?{% endif %}";
    let problem = problem(&encoder_of(template, "</s>"), &two_turns(), &OPTIONS);
    assert!(problem.to_string().contains("{% generation %}"), "{problem}");
}

#[test]
fn an_end_is_added_to_each_answer_when_the_template_writes_none() {
    let example = example(&encoder("plain", "</s>"), &two_turns());
    assert_eq!(
        decode(&example.input_ids),
        "User: One?\nAssistant: I say 1</s>\nUser: Two?\nAssistant: and 2</s>"
    );
    // The token " I" also holds the prompt's last space.
    assert_eq!(learned(&example), [" I say 1</s>", " and 2</s>"]);
}

#[test]
fn a_generation_block_is_extended_over_the_end_of_the_turn() {
    let template = "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\
        {% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}\
        {% else %}{{ m.content }}{% endif %}<|eot_id|>{% endfor %}";
    let learned = learned(&example(&encoder_of(template, "</s>"), &two_turns()));
    assert_eq!(learned, ["I say 1<|eot_id|>", "and 2<|eot_id|>"]);
}

#[test]
fn the_end_of_a_turn_is_the_template_s() {
    for (template, end) in [
        ("smollm2", Some("<|im_end|>")),
        ("llama3", Some("<|eot_id|>")),
        ("gemma", Some("<end_of_turn>")),
        ("mistral", Some("</s>")),
        ("plain", None),
    ] {
        let end = end.map(|end| tokenizer().token_to_id(end).unwrap());
        assert_eq!(encoder(template, "</s>").turn_end(), end, "{template}");
    }
}

#[test]
fn generation_blocks_are_where_transformers_puts_them() {
    let fixture = fixture();
    let encoder = encoder("generation", "<|im_end|>");
    let with_answers =
        |case: &&Value| case["spans"].as_array().is_some_and(|spans| !spans.is_empty());
    for case in fixture["cases"].as_array().unwrap().iter().filter(with_answers) {
        let messages = &fixture["conversations"][case["conversation"].as_str().unwrap()];
        let text: Vec<char> = case["text"].as_str().unwrap().chars().collect();
        let spans: Vec<(usize, usize)> = serde_json::from_value(case["spans"].clone()).unwrap();
        let expected: Vec<String> =
            spans.iter().map(|(start, end)| text[*start..*end].iter().collect()).collect();
        let row = serde_json::json!({ "messages": messages }).to_string();
        assert_eq!(learned(&example(&encoder, &row)), expected);
    }
}

#[test]
fn turns_can_be_left_out() {
    let row = two_turns().replace(r#"I say 1"}"#, r#"I say 1", "train": false}"#);
    for template in ["smollm2", "generation"] {
        assert_eq!(learned(&example(&encoder(template, "<|im_end|>"), &row)), ["and 2<|im_end|>"]);
    }
}

#[test]
fn a_special_token_in_the_question_is_not_learned() {
    let row = r#"{"messages": [{"role": "user", "content": "a<|im_end|>b"}, {"role": "assistant", "content": "c"}]}"#;
    assert_eq!(learned(&example(&encoder("smollm2", "<|im_end|>"), row)), ["c<|im_end|>"]);
}

#[test]
fn completions_are_learned_with_one_end() {
    let encoder = encoder("smollm2", "</s>");
    let plain = example(&encoder, r#"{"prompt": "Question: the", "completion": " Paris"}"#);
    assert_eq!(decode(&plain.input_ids), "Question: the Paris</s>");
    assert_eq!(learned(&plain), [" Paris</s>"]);
    let closed = example(&encoder, r#"{"prompt": "Question:", "completion": " Paris</s>"}"#);
    assert_eq!(learned(&closed), [" Paris</s>"]);
    let options = EncodeOptions { prompt_format: PromptFormat::Chat, ..OPTIONS };
    let chat =
        encode(&encoder, r#"{"prompt": "Question", "completion": "Paris"}"#, &options).unwrap();
    let chat = chat.example(0).unwrap();
    let text = decode(&chat.input_ids);
    assert!(
        text.ends_with(
            "<|im_start|>user\nQuestion<|im_end|>\n<|im_start|>assistant\nParis<|im_end|>\n"
        ),
        "{text}"
    );
    assert_eq!(learned(&chat), ["Paris<|im_end|>"]);
}

#[test]
fn a_completion_goes_on_where_the_prompt_stops() {
    let tokenizer = tokenizer_with_prefix();
    let special = SpecialTokens::new(&tokenizer, [("eos_token", "</s>")]).unwrap();
    let encoder = Encoder::new(&tokenizer, special, None);
    for (prompt, completion, pieces) in [
        ("ab", "ba", ["▁", "a", "b", "b", "a", "</s>"].as_slice()),
        ("ab", " ba", &["▁", "a", "b", "▁", "b", "a", "</s>"]),
        ("", "ba", &["▁", "b", "a", "</s>"]),
    ] {
        let row = serde_json::json!({"prompt": prompt, "completion": completion}).to_string();
        let ids = example(&encoder, &row).input_ids;
        let found: Vec<String> = ids.iter().map(|id| tokenizer.id_to_token(*id).unwrap()).collect();
        assert_eq!(found, pieces, "{row}");
    }
}

#[test]
fn text_begins_with_one_bos() {
    let tokenizer = tokenizer_with_bos();
    let special =
        SpecialTokens::new(&tokenizer, [("bos_token", "<s>"), ("eos_token", "</s>")]).unwrap();
    assert!(special.add_bos());
    let llama = data::ChatTemplate::new(
        "{{ bos_token }}{% for m in messages %}{{ m.content }}</s>{% endfor %}",
        &special,
    );
    let encoder = Encoder::new(&tokenizer, special, Some(llama.unwrap()));
    let texts = [
        r#"{"prompt": "a", "completion": "b"}"#,
        r#"{"prompt": "<s>a", "completion": "b"}"#,
        r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#,
    ];
    let decoded = texts.map(|text| decode(&example(&encoder, text).input_ids));
    assert_eq!(decoded, ["<s>ab</s>", "<s>ab</s>", "<s>a</s>b</s>"]);
    assert_eq!(decode(&encoder.text_ids("x").unwrap()), "<s>x");
}

#[test]
fn given_ids_and_labels_are_kept() {
    let encoder = encoder("smollm2", "</s>");
    let all = example(&encoder, r#"{"input_ids": [5, 6, 7]}"#);
    assert_eq!((all.input_ids, all.labels), (vec![5, 6, 7], vec![5, 6, 7]));
    let some = example(&encoder, r#"{"input_ids": [5, 6, 7, 8], "labels": [-100, null, 7, 8]}"#);
    assert_eq!(some.labels, [IGNORE, IGNORE, 7, 8]);
    assert_eq!(some.trained_tokens(), 2);
    let outside = problem(&encoder, r#"{"input_ids": [5, 100000]}"#, &OPTIONS);
    assert!(
        outside.to_string().contains("input_ids[1]") && outside.to_string().contains("100000"),
        "{outside}"
    );
}

#[test]
fn rows_with_nothing_to_learn_are_errors() {
    let encoder = encoder("smollm2", "<|im_end|>");
    for row in [
        r#"{"messages": [{"role": "user", "content": "a"}]}"#,
        r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "train": false}]}"#,
        r#"{"input_ids": [5, 6], "labels": [-100, -100]}"#,
        r#"{"input_ids": [5, 6], "labels": [5, -100]}"#,
    ] {
        let problem = problem(&encoder, row, &OPTIONS);
        assert!(problem.to_string().starts_with("all labels are masked"), "{problem}");
    }
}

#[test]
fn long_rows_follow_the_policy() {
    use data::Overlength::{Drop, Error as Stop, TruncateLeft, TruncateRight};
    let encoder = encoder("smollm2", "<|im_end|>");
    let long: Vec<String> = (0..20).map(|id| id.to_string()).collect();
    let text = format!("{{\"input_ids\": [{}]}}\n{{\"input_ids\": [1, 2]}}", long.join(","));
    let with = |max_seq_len, context, overlength| {
        encode(&encoder, &text, &EncodeOptions { max_seq_len, context, overlength, ..OPTIONS })
    };
    let error = with(Some(8), 4096, Stop).unwrap_err().to_string();
    assert!(error.contains("line 1: 20 tokens, more than max_seq_len = 8"), "{error}");
    let error = with(None, 16, Stop).unwrap_err().to_string();
    assert!(error.contains("line 1: 20 tokens, more than the model's context of 16"), "{error}");
    let error = with(Some(32), 16, Stop).unwrap_err().to_string();
    assert!(error.contains("max_seq_len: 32 is more than the model's context of 16"), "{error}");
    let dropped = with(Some(8), 4096, Drop).unwrap();
    let number = dropped.example(0).unwrap().place.number;
    assert_eq!((dropped.len(), dropped.dropped(), number), (1, 1, 2));
    let cut = |policy| {
        let cut = with(Some(8), 4096, policy).unwrap();
        (cut.example(0).unwrap(), cut.truncated())
    };
    let (right, count) = cut(TruncateRight);
    assert_eq!((&right.input_ids, count), (&(0..8).collect(), 1));
    assert_eq!(right.labels, right.input_ids);
    let (left, count) = cut(TruncateLeft);
    assert_eq!((&left.input_ids, count), (&(12..20).collect(), 1));
    let masked = r#"{"input_ids": [1, 2, 3, 4], "labels": [null, null, null, 4]}"#;
    let options = EncodeOptions { max_seq_len: Some(3), overlength: TruncateRight, ..OPTIONS };
    assert!(matches!(problem(&encoder, masked, &options), Problem::AllMasked { .. }));
}

#[test]
fn a_chat_without_a_template_is_an_error() {
    let tokenizer = tokenizer();
    let special = SpecialTokens::new(&tokenizer, [("eos_token", "</s>")]).unwrap();
    let problem = problem(&Encoder::new(&tokenizer, special, None), &two_turns(), &OPTIONS);
    assert!(problem.to_string().contains("no chat template"), "{problem}");
}

#[test]
fn generation_prompts_stop_before_the_answer() {
    let cases_of = |encoder: &Encoder, text: &str| {
        let rows = crate::common::read(text, None).unwrap();
        encoder.generation_cases(&rows, PromptFormat::Plain)
    };
    let llama3 = encoder("llama3", "<|eot_id|>");
    let cases = |text: &str| cases_of(&llama3, text);
    let chat = cases(&two_turns()).unwrap().remove(0);
    assert_eq!((chat.expected.as_str(), chat.prompt.as_str()), ("and 2", "Two?"));
    assert!(
        decode(&chat.prompt_ids)
            .ends_with("Two?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n")
    );
    let qwen3 = cases_of(&encoder("qwen3", "<|im_end|>"), &two_turns()).unwrap().remove(0);
    assert_eq!(qwen3.expected, "<think>\n\n</think>\n\nand 2");
    let plain = cases(r#"{"prompt": "a", "completion": "b"}"#).unwrap().remove(0);
    assert_eq!((decode(&plain.prompt_ids).as_str(), plain.expected.as_str()), ("a", "b"));
    let tokens = cases(r#"{"input_ids": [1, 2]}"#).unwrap_err();
    assert!(tokens.to_string().contains("line 1: no answer to generate"), "{tokens}");
}

proptest! {
    #[test]
    fn exactly_the_answers_are_learned(
        turns in prop::collection::vec(("\\PC{0,12}", " ?\\PC{1,12}"), 1..4),
        system in prop::option::of("\\PC{0,8}"),
    ) {
        let mut messages: Vec<_> = system.iter().map(|text| message(Role::System, text)).collect();
        for (question, answer) in &turns {
            messages.extend([message(Role::User, question), message(Role::Assistant, answer)]);
        }
        let row = Row { place: Place::default(), content: Content::Chat(messages.into()), copies: 1 };
        let rows = Rows {
            path: "memory".into(),
            format: Format::Chat,
            rows: vec![row],
            bad: BadRows::default(),
            left_out: 0,
        };
        for template in ["smollm2", "generation"] {
            let dataset = encoder(template, "<|im_end|>").encode(&rows, &OPTIONS).unwrap();
            let expected: Vec<String> = turns.iter().map(|(_, answer)| format!("{answer}<|im_end|>")).collect();
            prop_assert_eq!(learned(&dataset.example(0).unwrap()), expected);
        }
    }
}
