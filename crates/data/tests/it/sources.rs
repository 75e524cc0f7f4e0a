//! Files of every kind, and several of them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use data::Order;
use data::rows::{Chat, Content, Format, Place, Preference, Role, Row, Rows, Source};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use crate::common::{OPTIONS, encoder, read};

fn parquet(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/rows").join(name)
}

fn chat(row: &Row) -> &Chat {
    match &row.content {
        Content::Chat(chat) => chat,
        other => panic!("{other:?} is no chat"),
    }
}

fn turns(row: &Row) -> Vec<(Role, &str)> {
    chat(row).messages.iter().map(|message| (message.role, message.text())).collect()
}

/// Writes a file and reads it.
fn file(name: &str, bytes: &[u8]) -> data::Result<Rows> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    Rows::read(&path, None)?.strict()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

const LINES: &str =
    "{\"prompt\": \"a\", \"completion\": \"b\"}\n\n{\"prompt\": \"c\", \"completion\": \"d, e\"}\n";

#[test]
fn the_same_rows_come_out_of_every_kind_of_file() {
    let list = "\u{feff} [\n{\"prompt\": \"a\", \"completion\": \"b\"},\n{\"prompt\": \"c\", \"completion\": \"d, e\"}]\n";
    let table = "\u{feff}id,prompt,completion\n1,a,b\n2,c,\"d, e\"\n";
    let tabs = "prompt\tcompletion\r\na\tb\r\nc\td, e\r\n";
    for (name, bytes, numbers) in [
        ("r.jsonl", LINES.as_bytes().to_vec(), [1, 3]),
        ("r.ndjson.gz", gzip(LINES.as_bytes()), [1, 3]),
        ("r.jsonl.zst", zstd::encode_all(LINES.as_bytes(), 1).unwrap(), [1, 3]),
        // Two gzip members, as `cat a.gz b.gz` leaves them, under a name that does not say so.
        (
            "r.jsonl",
            [
                gzip(b"{\"prompt\": \"a\", \"completion\": \"b\"}\n\n"),
                gzip(&LINES.as_bytes()[36..]),
            ]
            .concat(),
            [1, 3],
        ),
        ("r.json", LINES.as_bytes().to_vec(), [1, 3]),
        ("r.json", list.as_bytes().to_vec(), [1, 2]),
        ("r.json.gz", gzip(list.as_bytes()), [1, 2]),
        ("r.csv", table.as_bytes().to_vec(), [2, 3]),
        ("r.tsv.gz", gzip(tabs.as_bytes()), [2, 3]),
    ] {
        let rows = file(name, &bytes).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(rows.format, Format::Completion, "{name}");
        let found: Vec<usize> = rows.rows.iter().map(|row| row.place.number).collect();
        assert_eq!(found, numbers, "{name}");
        let json = serde_json::to_value([&rows.rows[0].content, &rows.rows[1].content]).unwrap();
        let expected =
            json!([{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d, e"}]);
        assert_eq!(json, expected, "{name}");
    }
}

#[test]
fn parquet_of_every_compression_is_read() {
    for name in ["chat.parquet", "chat-zstd.parquet", "chat-gzip.parquet"] {
        let rows = Rows::read(&parquet(name), None).unwrap().strict().unwrap();
        assert_eq!((rows.format, rows.rows.len()), (Format::Chat, 10), "{name}");
        assert_eq!(turns(&rows.rows[3]), [(Role::User, "Grüße 3"), (Role::Assistant, "answer 3")]);
        assert!(chat(&rows.rows[3]).messages[0].more.is_empty(), "nulls are no fields");
        let call = &chat(&rows.rows[9]).messages[1];
        assert_eq!(call.called().collect::<Vec<_>>(), ["add"]);
        assert_eq!(call.more["tool_calls"][0]["function"]["arguments"], json!({"a": 1, "b": 2}));
        assert!(rows.rows[9].place.to_string().ends_with("parquet, row 10"));
    }
    let tokens = Rows::read(&parquet("tokens.parquet"), None).unwrap();
    let Content::Tokens(row) = &tokens.rows[4].content else { panic!("{tokens:?}") };
    assert_eq!(
        (&row.input_ids, &row.labels),
        (&vec![1, 2, 7], &Some(vec![None, Some(2), Some(7)]))
    );
}

#[test]
fn a_directory_is_read_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let empty = Rows::read(dir.path(), None).unwrap_err().to_string();
    assert!(empty.contains("the directory has no file that ends in .jsonl"), "{empty}");
    for (name, text) in [
        ("b.csv", "text\nthree\n"),
        ("a.jsonl", "{\"text\": \"one\"}\n{\"text\": \"two\"}\n"),
        ("README.md", "# no data"),
        (".hidden.jsonl", "{"),
    ] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let rows = Rows::read(dir.path(), None).unwrap().strict().unwrap();
    let contents: Vec<_> = rows.rows.iter().map(|row| row.content.clone()).collect();
    assert_eq!(contents, ["one", "two", "three"].map(|text| Content::Text(text.to_owned())));
    assert!(rows.rows[2].place.file().ends_with("b.csv"));
}

#[test]
fn fields_are_renamed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.jsonl");
    fs::write(
        &path,
        "{\"question\": \"q\", \"answer\": \"a\", \"prompt\": \"old\"}\n{\"question\": \"q\"}\n",
    )
    .unwrap();
    let fields = [("prompt", "question"), ("completion", "answer")];
    let fields: BTreeMap<String, String> = fields.map(|(a, b)| (a.to_owned(), b.to_owned())).into();
    let rows = Rows::read_all(&[Source { fields, ..Source::new(&path) }]).unwrap();
    assert_eq!(
        serde_json::to_value(&rows.rows[0].content).unwrap(),
        json!({"prompt": "q", "completion": "a"})
    );
    assert_eq!(rows.bad.count, 1);
    let error = rows.strict().unwrap_err().to_string();
    assert!(
        error.contains("line 2: field `answer`: is missing, which the recipe names"),
        "{error}"
    );
}

#[test]
fn weights_repeat_rows_and_leave_rows_out() {
    let dir = tempfile::tempdir().unwrap();
    let source = |name: &str, rows: std::ops::Range<u32>, weight| {
        let path = dir.path().join(name);
        let lines: Vec<String> = rows.map(|id| format!("{{\"input_ids\": [{id}, 1]}}")).collect();
        fs::write(&path, lines.join("\n")).unwrap();
        Source { weight, ..Source::new(path) }
    };
    let sources = [source("a", 0..100, 1.0), source("b", 100..200, 2.5), source("c", 0..100, 0.5)];
    let rows = Rows::read_all(&sources).unwrap();
    let of = |name: &str| {
        rows.rows
            .iter()
            .filter(|row| row.place.file().ends_with(name))
            .map(|row| row.copies)
            .collect::<Vec<_>>()
    };
    assert_eq!(of("a"), [1; 100]);
    assert!(of("b").iter().all(|copies| [2, 3].contains(copies)));
    let threes = of("b").iter().filter(|copies| **copies == 3).count();
    assert!((30..70).contains(&threes), "{threes}");
    assert_eq!(of("c").len() + rows.left_out, 100);
    assert!((30..70).contains(&rows.left_out), "{}", rows.left_out);

    let dataset = encoder("smollm2", "</s>").encode(&rows, &OPTIONS).unwrap();
    for order in [Order::Shuffled { seed: 3 }, Order::ByLength { seed: 3, batch_size: 7 }] {
        let windows = dataset.windows(dataset.epoch(order, 0), 7, 1);
        let mut learned: Vec<Place> =
            windows.flat_map(|window| window.unwrap().micro_batches.remove(0).places).collect();
        let times = rows.rows.iter().map(|row| std::iter::repeat_n(row.place.clone(), row.copies));
        let mut given: Vec<Place> = times.flatten().collect();
        for places in [&mut learned, &mut given] {
            places.sort_by_key(ToString::to_string);
        }
        assert_eq!(learned, given, "each row as often as its weight says");
    }
    let judged: usize = dataset.batches(9).map(|batch| batch.unwrap().tokens()).sum();
    assert_eq!(judged, dataset.stats().tokens, "each row once");

    for weight in [0.0, -1.0, f64::NAN, 1e9] {
        let error = Rows::read_all(&[source("a", 0..1, weight)]).unwrap_err().to_string();
        assert!(error.contains("weight"), "{error}");
    }
}

#[test]
fn sharegpt_and_alpaca_are_conversations() {
    let rows = read(
        r#"{"system": "S", "tools": "[{\"name\": \"f\"}]", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "weight": 0}, {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {}}"}, {"from": "observation", "value": "c"}, {"from": "gpt", "value": "d"}]}"#,
        None,
    )
    .unwrap();
    let expected = [
        (Role::System, "S"),
        (Role::User, "a"),
        (Role::Assistant, "b"),
        (Role::Assistant, ""),
        (Role::Tool, "c"),
        (Role::Assistant, "d"),
    ];
    assert_eq!(turns(&rows.rows[0]), expected);
    let chat = chat(&rows.rows[0]);
    assert_eq!((chat.tools.len(), chat.messages[2].train), (1, Some(false)));
    assert_eq!(chat.messages[3].called().collect::<Vec<_>>(), ["f"]);

    let rows = read(
        "{\"instruction\": \"i\", \"input\": \"\", \"output\": \"o\", \"text\": \"rendered\"}\n\
         {\"instruction\": \"i\", \"input\": \"x\", \"output\": \"o\", \"history\": [[\"q\", \"a\"]]}",
        None,
    )
    .unwrap();
    assert_eq!(rows.format, Format::Alpaca);
    assert_eq!(turns(&rows.rows[0]), [(Role::User, "i"), (Role::Assistant, "o")]);
    let second =
        [(Role::User, "q"), (Role::Assistant, "a"), (Role::User, "i\n\nx"), (Role::Assistant, "o")];
    assert_eq!(turns(&rows.rows[1]), second);
}

#[test]
fn preference_rows_are_read_in_both_forms() {
    let text = read(r#"{"prompt": "p", "chosen": "a", "rejected": "b"}"#, None).unwrap();
    assert_eq!(text.format, Format::Preference);
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let question = turn("user", "q");
    let (good, bad) = (turn("assistant", "good"), turn("assistant", "bad"));
    for row in [
        json!({"prompt": [question], "chosen": [good], "rejected": [bad]}),
        json!({"prompt": "q", "chosen": [question, good], "rejected": [question, bad]}),
        json!({"chosen": [question, good], "rejected": [question, bad]}),
    ] {
        let rows = read(&row.to_string(), None).unwrap();
        let Content::Preference(Preference::Chat { prompt, chosen, rejected, .. }) =
            &rows.rows[0].content
        else {
            panic!("{rows:?}");
        };
        let said = [prompt, chosen, rejected]
            .map(|turns| turns.iter().map(data::rows::Message::text).collect::<Vec<_>>());
        assert_eq!(said, [["q"], ["good"], ["bad"]]);
    }
    let error = encoder("smollm2", "</s>").encode(&text, &OPTIONS).unwrap().strict().unwrap_err();
    assert!(error.to_string().contains("data.fields = { completion = \"chosen\" }"), "{error}");
}
