//! Lists, tables and archives that are damaged.

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::{Case, GOOD, outcome};

const TEXTS: &[(&str, &str, &str)] = &[
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
    ("table.csv", "messages\n[1\n", "line 2: field `messages`: is text, but not a list in JSON"),
    ("table.tsv", "prompt,completion\na,b\n", "line 2: no known format"),
    ("list.json", "[{\"text\": \"a\"},]", "line 1: not valid JSON"),
    ("list.json", "[{\"text\": \"a\"}", "line 1: not valid JSON"),
    ("list.json", "\u{feff}[1]", "row 1: not valid JSON (found a number)"),
    ("list.json", "[[]]", "row 1: not valid JSON (found a list)"),
    ("list.json", "[{\"text\": \"a\"}, null]", "row 2: not valid JSON (found null)"),
    ("list.json", "[{\"text\": \"a\"}, {\"text\": 1}]", "row 2: field `text`"),
    ("table.csv", "", "no rows"),
    ("table.csv", ",\na,b\n", "line 1: the header names the field `` twice"),
    ("table.csv", "text\n\"a\nb\"\nc,d\n", "line 4: the record has 2 fields"),
    ("table.csv", "input_ids\n\"[1, x]\"\n", "line 2: field `input_ids`: is text, but not a list"),
    ("table.csv", "instruction,output\na,\n", "line 2: field `output`: is empty"),
    ("table.tsv", "text\ta\tb\nx\n", "line 2: the record has 1 fields, the header 3"),
];

pub(super) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> =
        TEXTS.iter().map(|(name, text, says)| Case::new(name, *text, &[says])).collect();
    let says = ["line 3: not valid UTF-8"];
    cases.push(Case::new("table.csv", b"text\na\n\xe9\n", &says));
    for (name, whole) in [("rows.jsonl.gz", gzip(&rows(200))), ("rows.jsonl.zst", zstd(&rows(200)))]
    {
        assert_eq!(outcome(name, &whole), Ok(200));
        for part in 1..12 {
            let cut = &whole[..5 + (whole.len() - 6) * part / 12];
            cases.push(Case::new(name, cut, &[]));
        }
    }
    // gzip ends with a checksum, so that a changed byte never goes unnoticed.
    let whole = gzip(&rows(200));
    for at in (10..whole.len()).step_by(whole.len() / 12) {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        cases.push(Case::new("rows.jsonl.gz", changed, &[]));
    }
    let whole = parquet();
    for length in (4..whole.len()).step_by(97) {
        let says = ["row 1: the Parquet file is damaged"];
        cases.push(Case::new("cut.parquet", &whole[..length], &says));
    }
    // Hundreds of megabytes of nothing in one.
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    let spaces = vec![b' '; 1 << 20];
    for _ in 0..300 {
        bomb.write_all(&spaces).unwrap();
    }
    let says = ["line 1: the line has more than 256 MB"];
    cases.push(Case::new("bomb.jsonl.gz", bomb.finish().unwrap(), &says));
    cases
}

fn parquet() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/rows/chat.parquet");
    std::fs::read(path).unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

fn rows(count: usize) -> Vec<u8> {
    let row = |i: usize| GOOD.replace("\"a\"", &format!("\"{i}\"")) + "\n";
    (0..count).map(row).collect::<String>().into_bytes()
}

#[test]
fn changed_tables_do_not_panic() {
    let whole = parquet();
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
fn a_line_end_within_quotes_is_text() {
    assert_eq!(outcome("table.csv", b"text\n\"a\nb\"\n"), Ok(1));
}
