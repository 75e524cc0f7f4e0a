//! Every value that is wrong in every field of every format.

use serde_json::{Value, json};

use super::{Case, GOOD};

/// One value of each kind that JSON has, and lists and objects with something in them.
fn values() -> [Value; 9] {
    [
        Value::Null,
        json!(true),
        json!(1),
        json!(1.5),
        json!("x"),
        json!([]),
        json!({}),
        json!([1]),
        json!({"a": 1}),
    ]
}

/// A format: a good row, and for each field where it is, what the message calls it, and the values that are right.
type Format = (Value, Vec<(&'static str, &'static str, Vec<Value>)>);

fn formats() -> Vec<Format> {
    let null = || Value::Null;
    let text = || vec![json!("x")];
    let maybe_text = || vec![null(), json!("x")];
    let maybe_list = || vec![null(), json!([])];
    let good: Value = serde_json::from_str(GOOD).unwrap();
    let mut call = good.clone();
    call["messages"][1]["tool_calls"] =
        json!([{"type": "function", "function": {"name": "f", "arguments": {}}}]);
    call["tools"] = json!([{"type": "function", "function": {"name": "f"}}]);
    vec![
        (
            good,
            vec![
                ("/messages", "`messages", vec![]),
                ("/messages/0", "`messages[0]", vec![]),
                ("/messages/0/role", "`messages[0].role`", vec![]),
                ("/messages/0/content", "`messages[0].content", vec![json!("x"), json!([])]),
                ("/messages/1/content", "`messages[1].content", text()),
                ("/messages/1/train", "`messages[1].train`", vec![null(), json!(true)]),
                ("/messages/1/weight", "`messages[1].weight`", vec![null(), json!(1)]),
                ("/messages/1/tool_calls", "`messages[1].tool_calls", maybe_list()),
                ("/messages/1/function_call", "`messages[1].function_call`", vec![null()]),
                ("/tools", "`tools", maybe_list()),
            ],
        ),
        (
            call,
            vec![
                ("/messages/1/tool_calls/0", "`messages[1].tool_calls[0]", vec![]),
                (
                    // A call that is no `function` is the inner object alone.
                    "/messages/1/tool_calls/0/function",
                    "`messages[1].tool_calls[0].function",
                    vec![],
                ),
                (
                    "/messages/1/tool_calls/0/function/name",
                    "`messages[1].tool_calls[0].function.name`",
                    text(),
                ),
                (
                    "/messages/1/tool_calls/0/function/arguments",
                    "`messages[1].tool_calls[0].function.arguments`",
                    vec![null(), json!({}), json!({"a": 1})],
                ),
                ("/tools/0", "`tools[0]", vec![]),
                ("/tools/0/function/name", "`tools[0].function.name`", text()),
            ],
        ),
        (
            json!({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}),
            vec![
                ("/conversations", "`conversations", vec![]),
                ("/conversations/0", "`conversations[0]", vec![]),
                ("/conversations/1", "`conversations[1]", vec![]),
                ("/conversations/0/from", "`conversations[0].from`", vec![]),
                ("/conversations/0/value", "`conversations[0].value`", text()),
                ("/conversations/1/weight", "`conversations[1].weight`", vec![null(), json!(1)]),
                ("/system", "`system`", maybe_text()),
            ],
        ),
        (
            json!({"instruction": "a", "output": "b"}),
            vec![
                ("/instruction", "`instruction`", text()),
                ("/output", "`output`", text()),
                ("/input", "`input`", maybe_text()),
                ("/system", "`system`", maybe_text()),
                ("/history", "`history", maybe_list()),
            ],
        ),
        (
            json!({"prompt": "a", "completion": "b"}),
            vec![("/prompt", "`prompt`", text()), ("/completion", "`completion`", text())],
        ),
        (json!({"text": "a b"}), vec![("/text", "`text`", text())]),
        (
            json!({"input_ids": [1, 2], "labels": [1, 2]}),
            vec![
                ("/input_ids", "`input_ids", vec![json!([1])]),
                ("/input_ids/0", "`input_ids[0]`", vec![json!(1)]),
                ("/labels", "`labels`", vec![null()]),
                ("/labels/1", "`labels[1]`", vec![null(), json!(1)]),
            ],
        ),
        (
            json!({"prompt": "a", "chosen": "b", "rejected": "c"}),
            vec![
                ("/prompt", "`prompt`", text()),
                ("/chosen", "`chosen", text()),
                ("/rejected", "`rejected`", text()),
            ],
        ),
    ]
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (row, fields) in formats() {
        for (pointer, name, right) in fields {
            for value in values().into_iter().filter(|value| !right.contains(value)) {
                let bad = with(&row, pointer, value);
                // A good row first, so that the line of the bad one must be counted.
                let text = format!("{row}\n{bad}\n{row}\n");
                cases.push(Case::new("rows.jsonl", text, &["line 2: ", name]));
            }
        }
    }
    cases
}

/// The row with a field set, which need not be there.
fn with(row: &Value, pointer: &str, value: Value) -> Value {
    let mut row = row.clone();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match row.pointer_mut(parent).unwrap() {
        Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
        object => object[key] = value,
    }
    row
}
