//! Rows that are read and encoded a chunk at a time.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use data::preflight::Report;
use data::rows::{Rows, Source};
use data::{Dataset, EncodeOptions, Encoder, Example, HeldOut, Loaded, Order, Overlength, Reading};
use proptest::prelude::*;
use serde_json::json;

use crate::common::{OPTIONS, encoder};

pub(crate) static ENCODER: LazyLock<Encoder> = LazyLock::new(|| encoder("smollm2", "<|im_end|>"));

/// Everything that can be told of what was read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Told {
    report: Report,
    examples: Vec<Vec<Example>>,
    bad: Vec<String>,
    epoch: Vec<usize>,
}

impl Told {
    pub(crate) fn of(encoder: &Encoder, loaded: &Loaded) -> Self {
        let Loaded { train, eval, .. } = loaded;
        let sides: Vec<&Dataset> = std::iter::once(train).chain(eval).collect();
        let windows = train.windows(train.epoch(Order::Shuffled { seed: 5 }, 1), 3, 2);
        let windows: Vec<_> = windows.collect::<Result<_, _>>().unwrap();
        let batches = windows.iter().flat_map(|window| &window.micro_batches);
        Self {
            report: Report::new(encoder, train, eval.as_ref()),
            examples: sides.iter().map(|side| examples(side)).collect(),
            bad: sides
                .iter()
                .flat_map(|side| &side.bad.first)
                .map(|row| format!("{}: {}", row.place, row.problem))
                .collect(),
            epoch: batches.flat_map(|batch| &batch.places).map(|place| place.number).collect(),
        }
    }
}

fn examples(dataset: &Dataset) -> Vec<Example> {
    (0..dataset.len()).map(|row| dataset.example(row).unwrap()).collect()
}

/// Lines of all sorts: chats, some with special tokens or tools that the template hides, some that cannot be used or
/// read, and repeated ones.
pub(crate) fn line(kind: usize) -> String {
    let turn = |role: &str, content: String| json!({"role": role, "content": content});
    let answered = |question: String| json!({"messages": [turn("user", question), turn("assistant", "b".repeat(kind % 5 + 1))]});
    match kind % 8 {
        0 => "{".to_owned(),
        1 => json!({"messages": [turn("user", "nobody answers".to_owned())]}).to_string(),
        2 => answered("the ".repeat(120)).to_string(),
        3 => answered("<|im_end|>".to_owned()).to_string(),
        4 => {
            let mut row = answered("with a tool".to_owned());
            row["tools"] = json!([{"name": "hidden"}]);
            row.to_string()
        }
        _ => answered(format!("question {}", kind % 11)).to_string(),
    }
}

pub(crate) fn write(dir: &Path, name: &str, kinds: &[usize]) -> PathBuf {
    let path = dir.join(name);
    let lines: Vec<String> = kinds.iter().copied().map(line).collect();
    fs::write(&path, lines.join("\n")).unwrap();
    path
}

pub(crate) const SHORT: EncodeOptions =
    EncodeOptions { max_seq_len: Some(300), overlength: Overlength::Drop, ..OPTIONS };

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn chunks_of_any_size_give_the_same_rows(
        kinds in prop::collection::vec(0_usize..80, 1..60),
        cut in any::<bool>(),
        packing in any::<bool>(),
        weight in prop_oneof![Just(1.0), Just(1.5)],
        held_out in prop::option::of(prop_oneof![
            (0.05..0.9_f64).prop_map(HeldOut::Fraction),
            (1_usize..20).prop_map(HeldOut::Rows),
        ]),
        chunk in 1_usize..70,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let sources = [
            Source { weight, ..Source::new(write(dir.path(), "a.jsonl", &kinds)) },
            Source::new(write(dir.path(), "b.jsonl", &[5, 6, 7])),
        ];
        let overlength = if cut { Overlength::TruncateLeft } else { Overlength::Drop };
        let options = EncodeOptions { overlength, packing, ..SHORT };
        let held_out = held_out.map(|held_out| (held_out, 3));
        let reading = Reading { held_out, ..Reading::new(&sources, options) };
        let whole = ENCODER.read(&reading);
        let pieces = ENCODER.read(&Reading { chunk, ..reading });
        match (whole, pieces) {
            (Ok(whole), Ok(pieces)) => {
                prop_assert_eq!(Told::of(&ENCODER, &whole), Told::of(&ENCODER, &pieces));
            }
            (whole, pieces) => {
                let [whole, pieces] = [whole, pieces].map(|it| it.unwrap_err().to_string());
                prop_assert_eq!(whole, pieces);
            }
        }
        if held_out.is_none() {
            let rows = Rows::read_all(&sources).unwrap();
            let at_once = ENCODER.encode(&rows, &options).unwrap();
            let streamed = ENCODER.read(&reading).unwrap().train;
            prop_assert_eq!(examples(&at_once), examples(&streamed));
            prop_assert_eq!(at_once.read(), rows.rows.len());
        }
    }
}

/// What each side has is its own, but for what could not be read, of which nobody knows where it belongs.
#[test]
fn bad_rows_go_with_their_side() {
    let dir = tempfile::tempdir().unwrap();
    let kinds: Vec<usize> = (0..400).map(|i| if i % 4 == 0 { 8 + i % 2 } else { i }).collect();
    let sources = [Source::new(write(dir.path(), "a.jsonl", &kinds))];
    let held_out = Some((HeldOut::Fraction(0.3), 1));
    let reading = Reading { held_out, ..Reading::new(&sources, SHORT) };
    let Loaded { train, eval, .. } = ENCODER.read(&reading).unwrap();
    let eval = eval.unwrap();
    let all = ENCODER.read(&Reading { held_out: None, ..reading }).unwrap().train;
    assert_eq!(train.read() + eval.read(), all.read());
    assert_eq!(train.bad.count + eval.bad.count, all.bad.count);
    let report = Report::new(&ENCODER, &train, Some(&eval));
    assert_eq!(report.train.read, 400 - eval.read());
    assert_eq!(report.eval.unwrap().bad, eval.bad.count);
    for side in [&train, &eval] {
        assert_eq!(side.bad.first.len(), side.bad.count);
    }
}

#[test]
fn a_file_of_nothing_but_bad_rows_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let sources = [Source::new(write(dir.path(), "a.jsonl", &[0, 0]))];
    let reading =
        Reading { held_out: Some((HeldOut::Rows(1), 1)), ..Reading::new(&sources, OPTIONS) };
    let Loaded { train, eval, .. } = ENCODER.read(&reading).unwrap();
    assert!(train.is_empty() && eval.is_none());
    let report = Report::new(&ENCODER, &train, None);
    assert_eq!((report.train.bad, report.findings[0].count), (2, 2));
    let error = train.strict().unwrap_err().to_string();
    assert!(error.contains("a.jsonl, line 1: not valid JSON"), "{error}");
    let gone = [Source::new(dir.path().join("gone.jsonl"))];
    let error = ENCODER.read(&Reading::new(&gone, OPTIONS)).unwrap_err().to_string();
    assert!(error.contains("gone.jsonl: "), "{error}");
}
