//! Rendering against transformers, and what a broken template says.

use data::rows::{Message, Role};
use data::{ChatTemplate, SpecialTokens, TemplateError};

use crate::common::{fixture, message, tokenizer};

fn special() -> SpecialTokens {
    SpecialTokens::new(&tokenizer(), [("bos_token", "<s>"), ("eos_token", "</s>")]).unwrap()
}

fn template(source: &str) -> Result<ChatTemplate, TemplateError> {
    ChatTemplate::new(source, &special())
}

fn render(source: &str) -> Result<String, TemplateError> {
    template(source)?.render(&[message(Role::User, "Hi")], &[], false)
}

#[test]
fn renders_what_transformers_renders() {
    let fixture = fixture();
    for case in fixture["cases"].as_array().unwrap() {
        let name = case["template"].as_str().unwrap();
        let conversation = case["conversation"].as_str().unwrap();
        let messages: Vec<Message> =
            serde_json::from_value(fixture["conversations"][conversation].clone()).unwrap();
        let template = template(fixture["templates"][name].as_str().unwrap()).unwrap();
        let rendered =
            template.render(&messages, &[], case["add_generation_prompt"].as_bool().unwrap());
        if let Some(expected) = case["text"].as_str() {
            assert_eq!(rendered.unwrap(), expected, "{name}, {conversation}");
        } else {
            let error = rendered.unwrap_err().to_string();
            assert!(
                error.ends_with(case["error"].as_str().unwrap()),
                "{name}, {conversation}: {error}"
            );
        }
    }
}

#[test]
fn differences_between_the_engine_and_jinja_are_bridged() {
    // Of Python 3 with Jinja 3.1 as transformers sets it up.
    let cases = [
        ("{{ none is iterable }} {{ gone is iterable }} {{ 'a' is iterable }}", "False True True"),
        ("{{ [] is iterable }} {{ {} is iterable }} {{ 1 is iterable }}", "True True False"),
        (
            "{{ 1e-7 | string }} {{ none | string }} {{ ['a', 1.0] | string }}",
            "1e-07 None ['a', 1.0]",
        ),
        ("a\r\nb\rc {%- if true %}\r\nd{% endif %}", "a\nb\ncd"),
    ];
    for (source, expected) in cases {
        assert_eq!(render(source).unwrap(), expected, "{source:?}");
    }
}

#[test]
fn tells_the_time_it_was_given() {
    let template = template("{{ strftime_now('%d %b %Y, %H:%M') }}").unwrap().at(1_721_995_200);
    assert_eq!(template.render(&[], &[], false).unwrap(), "26 Jul 2024, 12:00");
}

#[test]
fn errors_name_the_template_line() {
    let unknown = render("a\nb{{ messages[0].role | nonsense }}").unwrap_err();
    assert!(matches!(unknown, TemplateError::Failed { line: 2, .. }), "{unknown}");
    let refused = render("\n\n{{ raise_exception('no system turn, please') }}").unwrap_err();
    assert_eq!(
        refused.to_string(),
        "chat template, line 3: the template refuses the conversation: no system turn, please"
    );
    let unclosed = render("{% if messages %}\n").unwrap_err();
    assert!(matches!(unclosed, TemplateError::Failed { .. }), "{unclosed}");
}

#[test]
fn endless_work_ends_in_an_error() {
    let loops = "{% for a in range(9999) %}{% for b in range(9999) %}{% set c = a %}{% endfor %}{% endfor %}";
    assert!(matches!(render(loops), Err(TemplateError::TooMuchWork { .. })));
    let grows = "{% set ns = namespace(s='abcdefgh') %}{% for a in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}";
    assert!(matches!(render(grows), Err(TemplateError::TooMuchWork { .. })));
}
