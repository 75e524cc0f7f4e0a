//! Lines that are no rows.

use super::{Case, GOOD};

const NOT_JSON: &[&str] = &[
    "{",
    "}",
    "[",
    "\"",
    "{]",
    "nul",
    "tru",
    "{\"messages\"",
    "{\"messages\":",
    "{\"messages\":[",
    "{\"messages\": [{]}",
    "{'messages': []}",
    "{messages: []}",
    "{\"messages\": [],}",
    "{\"a\": 01}",
    "{\"a\": +1}",
    "{\"a\": .5}",
    "{\"a\": NaN}",
    "{\"a\": Infinity}",
    "{\"a\": 1e999}",
    "{\"a\": \"\\x\"}",
    "{\"a\": \"\\ud800\"}",
    "{\"a\": \"\\ud800\\u0041\"}",
    "{\"a\": \"\t\"}",
    "{\"a\": \"\u{0}\"}",
    "{\"a\": 1} {\"b\": 2}",
    "{\"a\": 1}x",
    "// comment",
    "{\"a\": 1} // comment",
    "<xml/>",
    "a,b,c",
    "{\"a\" 1}",
    "{\"a\": 1 \"b\": 2}",
    "{,}",
    "{\"a\":}",
    "\\",
    "\u{0}",
    "\u{feff}{}",
    "{\"a\": \"",
    "{\"a\": tRue}",
    "{\"a\": -}",
    "{\"a\": 1.}",
    "{\"a\": 1e}",
    "{\"a\": \"\\u12\"}",
    "{\"a\": [1,]}",
    "{\"a\": [1 2]}",
];

const NO_OBJECT: &[&str] =
    &["[]", "[1]", "1", "-0", "1.5", "\"text\"", "true", "null", "[{}]", "\"\""];

const NOT_UTF8: &[&[u8]] = &[
    b"\xff",
    b"\xc3",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"\xf5\x80\x80\x80",
    b"\xe2\x82",
    b"\x80",
    b"{\"messages\": \"\xff\"}",
    b"{\"m\xe9ssages\": []}",
    b"\xfe\xff\x00{",
    b"\xff\xfe{\x00",
    b"\xf0\x9f\x98",
];

/// Rows that are objects, and what is said about them among chats.
const NO_ROWS: &[(&str, &str)] = &[
    (r#"{"messages": []}"#, "`messages`: is empty"),
    (r#"{"messages": [{}]}"#, "`messages[0].role`: is missing"),
    (r#"{"messages": [{"content": "a"}]}"#, "`messages[0].role`: is missing"),
    (r#"{"messages": [{"role": "user"}]}"#, "`messages[0].content`: is missing"),
    (r#"{"messages": [{"role": "USER", "content": "a"}]}"#, "unknown role"),
    (r#"{"messages": [{"role": "", "content": "a"}]}"#, "unknown role"),
    (r#"{"messages": [{"role": "assistant", "content": ""}]}"#, "is empty"),
    (r#"{"messages": [{"role": "user", "content": "a"}]}"#, "all labels are masked"),
    (r#"{"messages": [{"role": "system", "content": ""}]}"#, "all labels are masked"),
    (r#"{"messages": [{"role": "tool", "content": "a"}]}"#, "all labels are masked"),
    (
        r#"{"messages": [{"role": "assistant", "content": "a", "train": false}]}"#,
        "all labels are masked",
    ),
    (
        r#"{"messages": [{"role": "assistant", "content": "a", "train": true, "weight": 0}]}"#,
        "contradicts `train`",
    ),
    (
        r#"{"messages": [{"role": "user", "content": "a", "train": true}]}"#,
        "only assistant messages can be trained",
    ),
    (
        r#"{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}"#,
        "only parts of type",
    ),
    (r#"{"messages": [{"role": "user", "content": [{"type": "text"}]}]}"#, "must be a string"),
    (r#"{"messages": "[1"}"#, "is text, but not a list in JSON"),
    (r#"{"text": "a"}"#, "text row in a file of chat rows"),
    (r#"{"input_ids": [1, 2]}"#, "pre-tokenised row in a file of chat rows"),
    (r#"{"prompt": "a", "completion": "b"}"#, "row in a file of chat rows"),
    (r#"{"Messages": []}"#, "no known format"),
    ("{}", "no known format: found no fields"),
    (r#"{"": ""}"#, "no known format"),
];

/// Rows of other formats, alone in their file.
const ALONE: &[(&str, &str)] = &[
    (r#"{"input_ids": "x"}"#, "`input_ids`"),
    (r#"{"input_ids": [1, null]}"#, "`input_ids[1]`"),
    (r#"{"input_ids": [1, 1.5]}"#, "`input_ids[1]`"),
    (r#"{"input_ids": [1, -2]}"#, "`input_ids[1]`"),
    (r#"{"input_ids": [1, 99999999999999999999]}"#, "`input_ids[1]`"),
    (r#"{"input_ids": [1, [2]]}"#, "`input_ids[1]`"),
    (r#"{"input_ids": [1, 70000]}"#, "outside the tokenizer's vocabulary"),
    (r#"{"input_ids": [1]}"#, "all labels are masked"),
    (r#"{"input_ids": [1, 2], "labels": [1, 70000]}"#, "`labels[1]`"),
    (r#"{"input_ids": [1, 2], "labels": {}}"#, "`labels`"),
    (r#"{"input_ids": [1, 2], "labels": [-1, 2]}"#, "`labels[0]`"),
    (r#"{"prompt": null, "completion": "a"}"#, "`prompt`"),
    (r#"{"prompt": "a", "completion": ["b"]}"#, "`completion`"),
    (r#"{"instruction": "a", "output": ""}"#, "`output`: is empty"),
    (r#"{"instruction": "a", "output": "b", "input": 1}"#, "`input`"),
    (r#"{"instruction": "a", "output": "b", "history": [1]}"#, "`history[0]`"),
    (r#"{"conversations": [1]}"#, "`conversations[0]`"),
    (r#"{"conversations": [{"from": "human"}]}"#, "`conversations[0].value`"),
    (r#"{"conversations": [{"from": "function_call", "value": "x"}]}"#, "no tool call in JSON"),
    (r#"{"conversations": [{"from": "function_call", "value": "[]"}]}"#, "`conversations[0]"),
    (r#"{"chosen": 1, "rejected": 2}"#, "`chosen`"),
    (r#"{"chosen": [], "rejected": []}"#, "`chosen`: is empty"),
    (r#"{"prompt": "a", "chosen": "b", "rejected": 1}"#, "`rejected`"),
];

pub(super) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut second = |row: &[u8], says: &str| {
        let bytes = [GOOD.as_bytes(), b"\n", row, b"\n", GOOD.as_bytes()].concat();
        cases.push(Case::new("rows.jsonl", bytes, &["line 2: ", says]));
    };
    for row in NOT_JSON {
        second(row.as_bytes(), "not valid JSON");
    }
    for row in NO_OBJECT {
        second(row.as_bytes(), "not valid JSON (found ");
    }
    for row in NOT_UTF8 {
        second(row, "not valid UTF-8");
    }
    for (row, says) in NO_ROWS {
        second(row.as_bytes(), says);
    }
    let lists = format!("{{\"a\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let objects = format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
    for deep in [lists, objects] {
        second(deep.as_bytes(), "recursion limit");
    }
    let ten_megabytes = "x".repeat(10 << 20);
    second(GOOD.replace("user", &ten_megabytes).as_bytes(), "unknown role");
    second(format!("{{\"{ten_megabytes}\": 1}}").as_bytes(), "no known format");
    let turns = vec![r#"{"role": "user", "content": "a"}"#; 100_000].join(",");
    second(format!("{{\"messages\": [{turns}]}}").as_bytes(), "all labels are masked");
    let words = "word ".repeat(2 << 20);
    let long = GOOD.replace("\"a\"", &format!("\"{words}\""));
    second(long.as_bytes(), "more than the model's context");
    cases.extend(
        ALONE.iter().map(|(row, says)| Case::new("other.jsonl", *row, &["line 1: ", says])),
    );
    let utf16 = |order: fn(u16) -> [u8; 2]| -> Vec<u8> {
        std::iter::once(0xfeff).chain(GOOD.encode_utf16()).flat_map(order).collect()
    };
    let says = ["line 1: ", "not valid UTF-8 (byte 1, it looks like UTF-16)"];
    cases.push(Case::new("utf16.jsonl", utf16(u16::to_le_bytes), &says));
    cases.push(Case::new("utf16.jsonl", utf16(u16::to_be_bytes), &says));
    for empty in [&b""[..], b"\n\n", b"\xef\xbb\xbf", b"   ", b"\r\n", b"\t"] {
        cases.push(Case::new("empty.jsonl", empty, &["no rows"]));
    }
    cases
}
