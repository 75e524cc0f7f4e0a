//! What is found in data before it is trained on.

use data::preflight::{Check, Report};
use data::{EncodeOptions, Encoder, Overlength};

use crate::common::{OPTIONS, encoder, encoder_of, read};

/// The findings in training rows, and whether each stops a run.
fn found(encoder: &Encoder, text: &str, options: &EncodeOptions) -> Vec<(Check, bool)> {
    let dataset = encoder.encode(&read(text, None).unwrap(), options).unwrap();
    let report = Report::new(encoder, &dataset, None);
    report.findings.iter().map(|finding| (finding.check, finding.fatal)).collect()
}

fn chat(question: &str, answer: &str) -> String {
    let messages = serde_json::json!([
        {"role": "user", "content": question},
        {"role": "assistant", "content": format!("{answer} is what follows")},
    ]);
    serde_json::json!({ "messages": messages }).to_string()
}

#[test]
fn good_rows_have_no_findings() {
    let rows = [chat("a", "b"), chat("c", "d")].join("\n");
    for template in ["smollm2", "llama3", "mistral", "generation"] {
        assert_eq!(found(&encoder(template, "</s>"), &rows, &OPTIONS), [], "{template}");
    }
}

#[test]
fn a_second_begin_token_is_fatal() {
    let doubled =
        "{{ bos_token }}{{ bos_token }}{% for m in messages %}{{ m.content }}</s>{% endfor %}";
    let findings = found(&encoder_of(doubled, "</s>"), &chat("a", "b"), &OPTIONS);
    assert_eq!(findings, [(Check::DoubleBos, true)]);
    // By the user's own rows.
    let ids = r#"{"input_ids": [264, 264, 5, 265]}"#;
    assert_eq!(found(&encoder("smollm2", "</s>"), ids, &OPTIONS), [(Check::DoubleBos, true)]);
}

#[test]
fn an_end_that_is_not_learned_is_told() {
    let encoder = encoder("smollm2", "</s>");
    // Whoever makes ids may know better, so that these are warnings.
    assert_eq!(
        found(&encoder, r#"{"input_ids": [5, 6, 7]}"#, &OPTIONS),
        [(Check::MissingEnd, false)]
    );
    let masked = r#"{"input_ids": [5, 6, 265], "labels": [5, 6, -100]}"#;
    assert_eq!(found(&encoder, masked, &OPTIONS), [(Check::MissingEnd, false)]);
    assert_eq!(found(&encoder, r#"{"input_ids": [5, 6, 265]}"#, &OPTIONS), []);
    // A cut row is told as such.
    let cut =
        EncodeOptions { max_seq_len: Some(160), overlength: Overlength::TruncateRight, ..OPTIONS };
    let long = found(&encoder, &chat("a", &"long ".repeat(40)), &cut);
    assert_eq!(long, [(Check::Overlength, false)]);
}

#[test]
fn what_a_template_hides_and_what_is_written_in_messages_is_told() {
    let encoder = encoder("smollm2", "</s>");
    let tools = chat("a", "b").replacen('{', r#"{"tools": [{"name": "weather"}], "#, 1);
    assert_eq!(found(&encoder, &tools, &OPTIONS), [(Check::HiddenTools, true)]);
    let special = chat("what is <|im_end|>?", "b");
    assert_eq!(found(&encoder, &special, &OPTIONS), [(Check::SpecialText, false)]);
    let deaf = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>{% endgeneration %}{% else %}?{% endif %}{% endfor %}";
    assert_eq!(
        found(&encoder_of(deaf, "</s>"), &chat("hidden?", "b"), &OPTIONS),
        [(Check::HiddenText, false)]
    );
}

#[test]
fn rows_that_are_learned_and_judged_by_are_compared() {
    let encoder = encoder("smollm2", "</s>");
    let side = |text: &str| encoder.encode(&read(text, None).unwrap(), &OPTIONS).unwrap();
    let train = side(&[chat("a", "b"), chat("c", "d"), chat("a", "b")].join("\n"));
    for (eval, expected) in [
        (chat("e", "f"), vec![]),
        (chat("c", "other"), vec![(Check::SharedPrompts, false)]),
        (chat("c", "d"), vec![(Check::Leakage, true)]),
        (
            [chat("c", "d"), chat("e", "f"), chat("g", "h")].join("\n"),
            vec![(Check::Leakage, false)],
        ),
    ] {
        let report = Report::new(&encoder, &train, Some(&side(&eval)));
        let found: Vec<_> = report.findings.iter().map(|f| (f.check, f.fatal)).collect();
        let of_train = found.iter().filter(|(check, _)| *check == Check::Duplicates).count();
        let compared: Vec<_> =
            found.into_iter().filter(|(check, _)| *check != Check::Duplicates).collect();
        assert_eq!((of_train, compared), (1, expected));
    }
}
