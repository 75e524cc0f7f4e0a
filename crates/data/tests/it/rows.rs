//! Reading data files, and what bad ones say.

use data::rows::{Chat, Content, Format, Rows};

use crate::common::read;

const CHAT: &str = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "id": 7}"#;
const COMPLETION: &str = r#"{"prompt": "a", "completion": "b"}"#;
const TOKENS: &str = r#"{"input_ids": [1, 2]}"#;

fn error(text: &str) -> String {
    read(text, None).unwrap_err().to_string()
}

#[test]
fn formats_are_told_by_their_fields() {
    for (text, format) in
        [(CHAT, Format::Chat), (COMPLETION, Format::Completion), (TOKENS, Format::Tokens)]
    {
        let rows = read(&format!("\u{feff}{text}\r\n\n  \n{text}"), None).unwrap();
        assert_eq!(rows.format, format);
        assert_eq!(rows.rows.iter().map(|row| row.place.number).collect::<Vec<_>>(), [1, 4]);
    }
    assert!(matches!(read(TOKENS, None).unwrap().rows[0].content, Content::Tokens(_)));
}

#[test]
fn a_given_format_is_insisted_on() {
    assert!(read(CHAT, Some(Format::Chat)).is_ok());
    let error = read(CHAT, Some(Format::Tokens)).unwrap_err().to_string();
    assert!(error.contains("line 1: field `input_ids`: is missing"), "{error}");
}

#[test]
fn malformed_json_names_the_line() {
    let mut lines = vec![CHAT; 40];
    lines[36] = r#"{"messages": [{"role": "user" "content": "a"}]}"#;
    let error = error(&lines.join("\n"));
    assert!(
        error.contains("rows.jsonl, line 37: not valid JSON (expected `,` or `}`, column 31)"),
        "{error}"
    );
}

#[test]
fn bad_rows_name_line_and_field() {
    let role =
        r#"{"messages": [{"role": "user", "content": "a"}, {"role": "bot", "content": "b"}]}"#;
    for (row, expected) in [
        ("[1]", "not valid JSON (found a list)"),
        ("{}", "no known format: found no fields"),
        (r#"{"question": "a", "id": 1}"#, "no known format: found `question`, `id`"),
        (r#"{"prompt": "a", "messages": []}"#, "field `messages`: is empty"),
        (
            r#"{"prompt": "a", "completion": "b", "messages": []}"#,
            "fit several formats (chat, prompt/completion)",
        ),
        (r#"{"text": 1}"#, "field `text`: must be a string, not a number"),
        (r#"{"messages": []}"#, "field `messages`: is empty"),
        (r#"{"messages": "a"}"#, "field `messages`: must be a list, not a string"),
        (r#"{"messages": ["a"]}"#, "field `messages[0]`: must be an object"),
        (role, "field `messages[1].role`: unknown role \"bot\""),
        (r#"{"messages": [{"role": "user"}]}"#, "field `messages[0].content`: is missing"),
        (
            r#"{"messages": [{"role": "user", "content": null}]}"#,
            "`messages[0].content`: must be a string, not null",
        ),
        (
            r#"{"messages": [{"role": "user", "content": "a", "train": true}]}"#,
            "only assistant messages",
        ),
        (
            r#"{"messages": [{"role": "assistant", "content": "a", "weight": 0.5}]}"#,
            "`messages[0].weight`: must be 0 (not learned) or 1",
        ),
        (
            r#"{"messages": [{"role": "assistant", "content": "a", "weight": 0, "train": true}]}"#,
            "`messages[0].weight`: contradicts `train`",
        ),
        (
            r#"{"messages": [{"role": "assistant", "content": ""}]}"#,
            "`messages[0].content`: is empty; an answer to learn needs text",
        ),
        (
            r#"{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}"#,
            "`messages[0].content[0]`: only parts of type \"text\"",
        ),
        (
            r#"{"messages": [{"role": "assistant", "function_call": {"name": "f"}}]}"#,
            "`messages[0].function_call`: is OpenAI's old form",
        ),
        (
            r#"{"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": {}}}]}]}"#,
            "`messages[0].tool_calls[0].function.name`: is missing",
        ),
        (
            r#"{"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]}"#,
            "`messages[0].tool_calls[0].function.arguments`: is text, but not an object in JSON",
        ),
        (
            r#"{"messages": [{"role": "user", "content": "a"}], "tools": [{"type": "function"}]}"#,
            "field `tools[0].function.name`: is missing",
        ),
        (
            r#"{"conversations": [{"from": "alien", "value": "a"}]}"#,
            "field `conversations[0].from`: unknown speaker \"alien\"",
        ),
        (
            r#"{"conversations": [{"from": "gpt", "value": 1}]}"#,
            "field `conversations[0].value`: must be a string",
        ),
        (r#"{"instruction": "a"}"#, "field `output`: is missing"),
        (
            r#"{"instruction": "a", "output": "b", "history": [["c"]]}"#,
            "field `history[0]`: must be a pair of strings",
        ),
        (
            r#"{"prompt": "a", "chosen": "b", "rejected": "b"}"#,
            "field `rejected`: is the same as `chosen`",
        ),
        (
            r#"{"chosen": [{"role": "user", "content": "a"}], "rejected": [{"role": "user", "content": "b"}]}"#,
            "field `chosen`: has no turn in common with `rejected`",
        ),
        (r#"{"prompt": "a"}"#, "field `completion`: is missing"),
        (
            r#"{"prompt": "a", "completion": 1}"#,
            "field `completion`: must be a string, not a number",
        ),
        (r#"{"input_ids": []}"#, "field `input_ids`: is empty"),
        (r#"{"input_ids": [1, -1]}"#, "field `input_ids[1]`: must be a token id, not -1"),
        (r#"{"input_ids": [1, 4294967295]}"#, "field `input_ids[1]`: must be a token id"),
        (
            r#"{"input_ids": [1, 2], "labels": [1]}"#,
            "field `labels`: has 1 entries but input_ids has 2",
        ),
        (
            r#"{"input_ids": [1, 2], "labels": [1, "x"]}"#,
            "field `labels[1]`: must be a token id, -100 or null",
        ),
    ] {
        let error = error(&format!("\n{row}\n"));
        assert!(error.contains("line 2: ") && error.contains(expected), "{row}: {error}");
    }
}

#[test]
fn files_that_cannot_be_used() {
    assert!(error("").contains("the file has no rows"));
    assert!(error("\n \n").contains("the file has no rows"));
    assert!(
        error(&format!("{CHAT}\n{COMPLETION}"))
            .contains("line 2: prompt/completion row in a file of chat rows")
    );
    let missing = Rows::read("no/such/file.jsonl".as_ref(), None).unwrap_err().to_string();
    assert!(missing.contains("no/such/file.jsonl"), "{missing}");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("latin1.jsonl");
    std::fs::write(&path, b"{\"prompt\": \"\xe9\"}").unwrap();
    let latin1 = Rows::read(&path, None).unwrap().strict().unwrap_err().to_string();
    assert!(latin1.contains("line 1: not valid UTF-8"), "{latin1}");
}

#[test]
fn a_conversation_is_a_list_or_a_row() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.json");
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        Chat::read(&path)
    };
    let list = r#"[{"role": "user", "content": "hi"}]"#;
    let row = format!("\u{feff}{{\"messages\": {list}}}");
    assert_eq!(read(list).unwrap(), read(&row).unwrap());
    for (bad, part) in [
        ("[]", "`messages`: is empty"),
        ("{}", "`messages`: is missing"),
        (r#"[{"role": "bot", "content": "hi"}]"#, "`messages[0].role`: unknown role \"bot\""),
        (r#"[{"role": "user"}]"#, "`messages[0].content`: is missing"),
        ("hi", "not a conversation"),
        ("3", "found a number"),
    ] {
        let error = read(bad).unwrap_err().to_string();
        assert!(error.contains("m.json: ") && error.contains(part), "{error}");
    }
}
