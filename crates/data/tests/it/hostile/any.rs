//! Files and templates of anything at all.

use data::rows::Role;
use data::{ChatTemplate, SpecialTokens};
use proptest::prelude::*;
use serde_json::Value;

use super::outcome;
use crate::common::{message, tokenizer};

/// Any JSON value, with names of fields that mean something more often than not.
fn value() -> impl Strategy<Value = Value> {
    let name = || {
        prop::sample::select(vec![
            "messages",
            "role",
            "content",
            "tools",
            "tool_calls",
            "function",
            "name",
            "arguments",
            "train",
            "weight",
            "conversations",
            "from",
            "value",
            "instruction",
            "input",
            "output",
            "history",
            "prompt",
            "completion",
            "text",
            "input_ids",
            "labels",
            "chosen",
            "rejected",
            "system",
            "type",
            "other",
        ])
    };
    let word = prop::sample::select(vec![
        "user",
        "assistant",
        "system",
        "tool",
        "human",
        "gpt",
        "text",
        "[1]",
        "{}",
        "",
        "a",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-200_i64..500).prop_map(Value::from),
        word.prop_map(Value::from),
        "\\PC{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name(), inner), 0..5).prop_map(|fields| fields
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect()),
        ]
    })
}

/// Pieces that templates are made of.
const PIECES: [&str; 28] = [
    "{{ messages }}",
    "{{ messages[0].content }}",
    "{% for m in messages %}",
    "{% endfor %}",
    "{% if m %}",
    "{% else %}",
    "{% endif %}",
    "{{ m.content | trim }}",
    "{{ m['content'][1:] }}",
    "{% set x = [1, 2] %}",
    "{{ x | tojson }}",
    "{{- x -}}",
    "{% macro f(a) %}",
    "{% endmacro %}",
    "{{ f(1) }}",
    "{% generation %}",
    "{% endgeneration %}",
    "{%- set ns = namespace(a=1) -%}",
    "{% set ns.a = ns.a ~ ns %}",
    "{{ bos_token + 1 }}",
    "{{",
    "}}",
    "{%",
    "text",
    "{{ loop.index0 }}",
    "{% break %}",
    "{{ x * 3 }}",
    "{{ strftime_now('%Y') }}",
];

proptest! {
    #[test]
    fn any_bytes_are_rows_or_errors(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for name in ["any.jsonl", "any.json", "any.csv"] {
            let _ = outcome(name, &bytes);
        }
    }

    #[test]
    fn any_json_is_a_row_or_an_error(value in value()) {
        let _ = outcome("any.jsonl", value.to_string().as_bytes());
    }

    #[test]
    fn any_template_renders_or_fails(pieces in prop::collection::vec(prop::sample::select(PIECES.to_vec()), 0..14)) {
        let special = SpecialTokens::new(&tokenizer(), [("bos_token", "<s>")]).unwrap();
        let messages = [message(Role::User, "Hi"), message(Role::Assistant, "Ho")];
        let _ = ChatTemplate::new(&pieces.concat(), &special).and_then(|t| t.render(&messages, &[], false));
    }
}
