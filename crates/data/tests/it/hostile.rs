//! Damaged and hostile files: each is an error that names the file and the place, none a panic or a hang.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::LazyLock;

use data::rows::{Role, Rows};
use data::{ChatTemplate, Encoder, SpecialTokens};
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use serde_json::Value;

use crate::common::{OPTIONS, encoder, message, tokenizer};

const GOOD: &str =
    r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;

static ENCODER: LazyLock<Encoder> = LazyLock::new(|| encoder("chatml", "<|im_end|>"));

/// What becomes of a file that is read and encoded.
fn outcome(name: &str, bytes: &[u8]) -> Result<usize, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    let result = Rows::read(&path, None)
        .and_then(Rows::strict)
        .and_then(|rows| ENCODER.encode(&rows, &OPTIONS)?.strict())
        .map(|dataset| dataset.len())
        .map_err(|error| error.to_string());
    if let Err(message) = &result {
        assert!(message.contains(name), "{message} does not name {name}");
        assert!(message.len() < 2000, "{} bytes of message for {name}", message.len());
    }
    result
}

/// The second line of a file is bad; the error says so, and what is wrong.
fn second_line(row: &[u8], expected: &str) {
    let bytes = [GOOD.as_bytes(), b"\n", row, b"\n", GOOD.as_bytes()].concat();
    let shown = String::from_utf8_lossy(&row[..row.len().min(80)]).into_owned();
    match outcome("rows.jsonl", &bytes) {
        Ok(rows) => panic!("{shown}: {rows} rows"),
        Err(message) => {
            assert!(
                message.contains("line 2: ") && message.contains(expected),
                "{shown}: {message}"
            );
        }
    }
}

#[test]
fn broken_json_names_its_line() {
    for row in [
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
    ] {
        second_line(row.as_bytes(), "not valid JSON");
    }
    for row in ["[]", "[1]", "1", "-0", "1.5", "\"text\"", "true", "null", "[{}]", "\"\""] {
        second_line(row.as_bytes(), "not valid JSON (found ");
    }
    let deep = format!("{{\"a\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    second_line(deep.as_bytes(), "recursion limit");
    let deep = format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
    second_line(deep.as_bytes(), "recursion limit");
}

#[test]
fn broken_text_names_its_line() {
    for bytes in [
        b"\xff".as_slice(),
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
    ] {
        second_line(bytes, "not valid UTF-8");
    }
    let utf16: Vec<u8> =
        std::iter::once(0xfeff).chain(GOOD.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    let error = outcome("utf16.jsonl", &utf16).unwrap_err();
    assert!(error.contains("line 1: not valid UTF-8 (byte 1, it looks like UTF-16)"), "{error}");
}

#[test]
fn wrong_values_name_their_field() {
    let wrong = ["null", "1", "true", "1.5", "{}", "[]", "[1]", "{\"a\": 1}", "\"x\""];
    for value in wrong {
        if value != "[]" {
            second_line(format!("{{\"messages\": {value}}}").as_bytes(), "`messages");
        }
        second_line(format!("{{\"messages\": [{value}]}}").as_bytes(), "`messages[0]");
        let role = format!("{{\"messages\": [{{\"role\": {value}, \"content\": \"a\"}}]}}");
        second_line(role.as_bytes(), "`messages[0].role`");
        if !["\"x\"", "[]"].contains(&value) {
            let content =
                format!("{{\"messages\": [{{\"role\": \"user\", \"content\": {value}}}]}}");
            second_line(content.as_bytes(), "`messages[0].content");
        }
        if !["true", "null"].contains(&value) {
            let train = GOOD.replace("\"b\"}", &format!("\"b\", \"train\": {value}}}"));
            second_line(train.as_bytes(), "`messages[1].train`");
        }
        if !["1", "null"].contains(&value) {
            let weight = GOOD.replace("\"b\"}", &format!("\"b\", \"weight\": {value}}}"));
            second_line(weight.as_bytes(), "`messages[1].weight`");
        }
        if !["null", "[]"].contains(&value) {
            let calls = GOOD.replace("\"b\"}", &format!("\"b\", \"tool_calls\": {value}}}"));
            second_line(calls.as_bytes(), "`messages[1].tool_calls");
            let tools = GOOD.replace("}]}", &format!("}}], \"tools\": {value}}}"));
            second_line(tools.as_bytes(), "tools");
        }
    }
    for (row, expected) in [
        (r#"{"messages": []}"#, "`messages`: is empty"),
        (r#"{"messages": [{}]}"#, "`messages[0].role`: is missing"),
        (r#"{"messages": [{"role": "USER", "content": "a"}]}"#, "unknown role"),
        (r#"{"messages": [{"role": "assistant", "content": ""}]}"#, "is empty"),
        (r#"{"messages": [{"role": "user", "content": "a"}]}"#, "all labels are masked"),
        (r#"{"messages": [{"role": "tool", "content": "a"}]}"#, "all labels are masked"),
        (
            r#"{"messages": [{"role": "assistant", "content": "a", "train": false}]}"#,
            "all labels are masked",
        ),
        (r#"{"text": "a"}"#, "text row in a file of chat rows"),
        (r#"{"Messages": []}"#, "no known format"),
        ("{}", "no known format: found no fields"),
    ] {
        second_line(row.as_bytes(), expected);
    }
}

#[test]
fn other_formats_name_their_field_too() {
    for (row, expected) in [
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
    ] {
        let error = outcome("other.jsonl", row.as_bytes()).unwrap_err();
        assert!(error.contains("line 1: ") && error.contains(expected), "{row}: {error}");
    }
}

#[test]
fn long_rows_are_rows() {
    let long = "word ".repeat(100_000);
    let row = GOOD.replace("\"a\"", &format!("\"{long}\""));
    let error = outcome("long.jsonl", row.as_bytes()).unwrap_err();
    assert!(
        error.contains("line 1: ") && error.contains("more than the model's context"),
        "{error}"
    );
    let role = "x".repeat(10 << 20);
    second_line(GOOD.replace("user", &role).as_bytes(), "unknown role");
    second_line(format!("{{\"{role}\": 1}}").as_bytes(), "no known format");
    let many = format!(
        "{{\"messages\": [{}]}}",
        vec![r#"{"role": "user", "content": "a"}"#; 100_000].join(",")
    );
    second_line(many.as_bytes(), "");
    let keys = (0..100_000).map(|key| format!("\"k{key}\": 1,")).collect::<Vec<_>>().concat();
    assert_eq!(
        outcome("keys.jsonl", GOOD.replacen('{', &format!("{{{keys}"), 1).as_bytes()),
        Ok(1)
    );
}

#[test]
fn harmless_oddities_are_read() {
    for text in [
        format!("\u{feff}{GOOD}"),
        format!("{GOOD}\r\n{GOOD}\r\n"),
        format!("\n\n{GOOD}\n\n\t \n"),
        GOOD.replace("\"a\"", "\"\""),
        GOOD.replace("\"a\"", "\"\\u0000\""),
        GOOD.replace("\"a\"", "\"\\u202e\\ufdd0\\uffff\""),
        GOOD.replace("\"role\": \"user\"", "\"role\": \"system\", \"role\": \"user\""),
    ] {
        assert!(outcome("odd.jsonl", text.as_bytes()).is_ok(), "{text}");
    }
    for empty in [&b""[..], b"\n\n", b"\xef\xbb\xbf", b"   ", b"\r\n"] {
        let error = outcome("empty.jsonl", empty).unwrap_err();
        assert!(error.contains("no rows"), "{error}");
    }
}

#[test]
fn damaged_lists_and_tables_name_their_place() {
    for (name, text, expected) in [
        ("list.json", "[", "line 1: not valid JSON"),
        ("list.json", "[{},", "line 1: not valid JSON"),
        ("list.json", "[\n{\"text\": \"a\"}\n{\"text\": \"b\"}]", "line 3: not valid JSON"),
        ("list.json", "[]", "no rows"),
        ("list.json", "[1]", "row 1: not valid JSON (found a number)"),
        ("list.json", "[{\"text\": \"a\"}, []]", "row 2: not valid JSON (found a list)"),
        ("list.json", "[{\"text\": \"a\"}] x", "line 1: not valid JSON"),
        ("list.json", "{\n\"text\": \"a\"\n}", "line 1: not valid JSON"),
        ("table.csv", "text\n", "no rows"),
        ("table.csv", "text,id\na\n", "line 2: the record has 1 fields, the header 2"),
        ("table.csv", "text\r\na\r\nb,c\r\n", "line 3: the record has 2 fields, the header 1"),
        ("table.csv", "text,text\na,b\n", "line 1: the header names the field `text` twice"),
        ("table.csv", "other\na\n", "line 2: no known format: found `other`"),
        ("table.csv", "messages\nhello\n", "line 2: field `messages`: must be a list"),
        (
            "table.csv",
            "messages\n[1\n",
            "line 2: field `messages`: is text, but not a list in JSON",
        ),
        ("table.tsv", "prompt,completion\na,b\n", "line 2: no known format"),
    ] {
        let error = outcome(name, text.as_bytes()).unwrap_err();
        assert!(error.contains(expected), "{text:?}: {error}");
    }
    let latin1 = outcome("table.csv", b"text\na\n\xe9\n").unwrap_err();
    assert!(latin1.contains("line 3: not valid UTF-8"), "{latin1}");
    assert_eq!(outcome("table.csv", b"text\n\"a\nb\"\n"), Ok(1), "a line end within quotes");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn rows(count: usize) -> Vec<u8> {
    (0..count)
        .flat_map(|i| {
            GOOD.replace("\"a\"", &format!("\"{i}\"")).into_bytes().into_iter().chain([b'\n'])
        })
        .collect()
}

#[test]
fn archives_that_are_cut_or_changed_are_errors() {
    for (name, whole) in [
        ("rows.jsonl.gz", gzip(&rows(200))),
        ("rows.jsonl.zst", zstd::encode_all(rows(200).as_slice(), 3).unwrap()),
    ] {
        assert_eq!(outcome(name, &whole), Ok(200));
        for part in 1..12 {
            let cut = &whole[..5 + (whole.len() - 6) * part / 12];
            let error = outcome(name, cut).unwrap_err();
            assert!(error.contains("line ") || error.contains(name), "{error}");
        }
    }
    // gzip ends with a checksum, so that a changed byte never goes unnoticed.
    let whole = gzip(&rows(200));
    for at in (10..whole.len()).step_by(whole.len() / 12) {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        outcome("rows.jsonl.gz", &changed).unwrap_err();
    }
    // A gigabyte of nothing in a megabyte.
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    let zeros = vec![b' '; 1 << 20];
    for _ in 0..300 {
        bomb.write_all(&zeros).unwrap();
    }
    let error = outcome("bomb.jsonl.gz", &bomb.finish().unwrap()).unwrap_err();
    assert!(error.contains("line 1: the line has more than 256 MB"), "{error}");
}

#[test]
fn tables_that_are_cut_or_changed_do_not_panic() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/rows/chat.parquet");
    let whole = fs::read(path).unwrap();
    for length in (4..whole.len()).step_by(97) {
        let error = outcome("cut.parquet", &whole[..length]).unwrap_err();
        assert!(error.contains("row 1: the Parquet file is damaged"), "{error}");
    }
    for at in (4..whole.len()).step_by(13) {
        for flip in [0x01, 0xff] {
            let mut changed = whole.clone();
            changed[at] ^= flip;
            // What is changed may be a letter of a text, which is no damage that can be told.
            let _ = outcome("changed.parquet", &changed);
        }
    }
}

#[test]
fn hostile_templates_end_in_errors() {
    let special = SpecialTokens::new(&tokenizer(), [("bos_token", "<s>")]).unwrap();
    let messages = [message(Role::User, "Hi"), message(Role::Assistant, "Ho")];
    for source in [
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{{ g(n) }}{% endmacro %}{% macro g(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999999999) %}{% endfor %}",
        "{{ 'a' * 10000000000 }}",
        "{{ ('a' * 100000) * 100000 }}",
        "{{ [1] * 10000000000 }}",
        "{{ 'a'.ljust(10000000000) }}",
        "{{ 'a'.center(10000000000) }}",
        "{{ 'a'.zfill(10000000000) }}",
        "{{ 'x' | indent(10000000000) }}",
        "{{ '%10000000000d' | format(1) }}",
        "{% set ns = namespace(s='aaaaaaaa') %}{% for a in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s=[1]) %}{% for a in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s='ab') %}{% for a in range(60) %}{% set ns.s = ns.s | replace('a', ns.s) %}{% endfor %}{{ ns.s }}",
        "{% include 'x' %}",
        "{% import 'x' as x %}",
        "{% extends 'x' %}",
        "{{ self.x() }}",
        "{{ super() }}",
        "{{ 1 / 0 }}",
        "{{ 1 // 0 }}",
        "{{ 1 % 0 }}",
        "{{ 9 ** 999999999 }}",
        "{{ -9223372036854775808 - 1 - 9223372036854775807 }}",
        "{% if %}",
        "{% for %}",
        "{{",
        "{%",
        "{#",
        "{% endif %}",
        "{{ }}",
        "{{ a b }}",
        "{% raw %}",
        "{% generation %}",
        "{% endgeneration %}",
        "{{ messages[99].content.x }}",
        "{{ messages[0]['content']['x']['y'] }}",
        "{{ none.x }}",
        "{{ messages + 1 }}",
        "{{ messages() }}",
        "{{ unknown() }}",
        "{{ 'a' | unknown }}",
        "{{ 'a' is unknown }}",
        "{{ raise_exception() }}",
        "{{ raise_exception('no') }}",
        "{{ strftime_now('%Q%') }}",
        "{{ strftime_now(1) }}",
        "{{ messages | tojson(indent='x') }}",
        "{{ messages[0].content.__class__.__mro__ }}",
        "{{ ''.join(messages) }}",
    ] {
        let result =
            ChatTemplate::new(source, &special).and_then(|t| t.render(&messages, &[], false));
        match result {
            Err(error) => assert!(error.to_string().len() < 2000, "{source}: {error}"),
            Ok(text) => assert!(text.len() < 1000, "{source}: {} bytes", text.len()),
        }
    }
    let deep = format!("{}x{}", "{% if true %}".repeat(5000), "{% endif %}".repeat(5000));
    let _ = ChatTemplate::new(&deep, &special).map(|t| t.render(&messages, &[], false));
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(50_000), ")".repeat(50_000));
    let _ = ChatTemplate::new(&deep, &special).map(|t| t.render(&messages, &[], false));
}

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
