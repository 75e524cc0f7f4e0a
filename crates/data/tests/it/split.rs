//! Held-out rows and epoch orders.

use std::collections::HashSet;
use std::fs;

use data::rows::{Rows, Source};
use data::{Dataset, HeldOut, Loaded, Order, Reading, Result};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

use crate::common::{OPTIONS, encode, encoder};

/// Rows that say these numbers, split.
fn split(
    numbers: impl IntoIterator<Item = usize>,
    held_out: HeldOut,
    seed: u64,
) -> Result<(Dataset, Option<Dataset>)> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    let lines: Vec<String> = numbers
        .into_iter()
        .map(|n| format!("{{\"prompt\": \"{n}\", \"completion\": \"x\"}}"))
        .collect();
    fs::write(&path, lines.join("\n")).unwrap();
    let sources = [Source::new(path)];
    let held_out = Some((held_out, seed));
    let reading = Reading { held_out, ..Reading::new(&sources, OPTIONS) };
    let Loaded { train, eval, .. } = encoder("smollm2", "</s>").read(&reading)?;
    Ok((train, eval))
}

fn contents(rows: &Dataset) -> HashSet<Vec<u32>> {
    (0..rows.len()).map(|row| rows.example(row).unwrap().input_ids).collect()
}

#[test]
fn rows_do_not_move_when_others_are_added() {
    let held_out = |numbers: &mut dyn Iterator<Item = usize>, seed| {
        let (train, eval) = split(numbers, HeldOut::Fraction(0.2), seed).unwrap();
        (train, eval.unwrap())
    };
    let (_, few) = held_out(&mut (0..200), 1);
    let (train, many) = held_out(&mut (0..400).rev(), 1);
    assert!(contents(&few).is_subset(&contents(&many)));
    assert!(contents(&train).is_disjoint(&contents(&many)));
    assert_eq!(train.len() + many.len(), 400);
    assert!((50..110).contains(&many.len()), "{} of 400 at a fraction of 0.2", many.len());
    assert_ne!(contents(&held_out(&mut (0..200), 2).1), contents(&few));
}

/// A change of the hash would make a resumed run learn rows that it judges by.
#[test]
fn rows_are_held_out_by_their_hash() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    let lines: Vec<String> = (0..100)
        .map(|n| format!("{{\"id\": {n}, \"completion\": \"{n}\", \"prompt\": \"a\"}}"))
        .collect();
    fs::write(&path, lines.join("\n")).unwrap();
    let rows = Rows::read(&path, None).unwrap();
    let is_held_out = |content: &data::rows::Content| {
        let text = serde_json::to_string(content).unwrap();
        let digest = Sha256::digest([&7_u64.to_le_bytes(), text.as_bytes()].concat());
        u64::from_le_bytes(digest[..8].try_into().unwrap()) < u64::MAX / 4
    };
    let expected = rows.rows.iter().filter(|row| is_held_out(&row.content));
    let expected: Vec<usize> = expected.map(|row| row.place.number).collect();
    let sources = [Source::new(path)];
    let held_out = Some((HeldOut::Fraction(0.25), 7));
    let reading = Reading { held_out, ..Reading::new(&sources, OPTIONS) };
    let eval = encoder("smollm2", "</s>").read(&reading).unwrap().eval.unwrap();
    assert_eq!(eval.places().map(|place| place.number).collect::<Vec<_>>(), expected);
}

#[test]
fn equal_rows_stay_together() {
    let (train, eval) = split((0..40).chain(0..40), HeldOut::Rows(11), 3).unwrap();
    let eval = eval.unwrap();
    assert!(contents(&train).is_disjoint(&contents(&eval)));
    assert_eq!(eval.len(), 12);
}

#[test]
fn a_split_leaves_rows_to_train_on() {
    let of = |held_out| split(0..3, held_out, 1).unwrap_err().to_string();
    assert!(of(HeldOut::Rows(0)).starts_with("eval_rows: 0 held-out rows of 3"));
    assert!(of(HeldOut::Rows(3)).starts_with("eval_rows: 3 held-out rows of 3"));
    assert!(of(HeldOut::Fraction(1.0)).starts_with("eval_fraction: must lie between 0 and 1"));
    assert!(of(HeldOut::Fraction(1.0 - 1e-9)).contains("holds out all 3 rows"));
    let (train, eval) = split(0..3, HeldOut::Fraction(1e-9), 1).unwrap();
    assert_eq!((train.len(), eval.map(|eval| eval.len())), (3, None));
    assert!(of(HeldOut::Fraction(f64::NAN)).starts_with("eval_fraction"));
}

/// First ids of the rows of a pass over `rows`, in their order.
fn ids(rows: &[String], order: Order, epoch: u64) -> Vec<u32> {
    let dataset = encode(&encoder("smollm2", "</s>"), &rows.join("\n"), &OPTIONS).unwrap();
    let windows = dataset.windows(dataset.epoch(order, epoch), 1, 1);
    windows.map(|window| window.unwrap().micro_batches[0].input_ids[0]).collect()
}

#[test]
fn epoch_orders_are_fixed_for_ever() {
    let rows: Vec<String> = (0..10).map(|id| format!("{{\"input_ids\": [{id}, 2]}}")).collect();
    let order = |seed, epoch| ids(&rows, Order::Shuffled { seed }, epoch);
    assert_eq!(order(42, 0), ORDER);
    assert_ne!(order(42, 1), ORDER);
    assert_ne!(order(43, 0), ORDER);
    assert_eq!(ids(&rows, Order::Files, 1), (0..10).collect::<Vec<_>>());

    // Row 0 has 2 tokens, row 18 has 20.
    let longer = |id: usize| format!("{{\"input_ids\": [{id}, 2{}]}}", ", 2".repeat(id));
    let rows: Vec<String> = (0..19).map(longer).collect();
    let order = |epoch| ids(&rows, Order::ByLength { seed: 42, batch_size: 2 }, epoch);
    assert_eq!([order(0), order(1)], BY_LENGTH);
}

/// Printed once; a change here changes every run.
const ORDER: [u32; 10] = [8, 2, 6, 3, 4, 0, 9, 5, 1, 7];
const BY_LENGTH: [[u32; 19]; 2] = [
    [18, 17, 6, 14, 2, 8, 5, 7, 15, 16, 9, 12, 0, 4, 1, 10, 11, 13, 3],
    [4, 9, 3, 6, 11, 18, 2, 5, 14, 17, 0, 10, 12, 16, 1, 13, 8, 15, 7],
];

proptest! {
    #[test]
    fn a_number_of_rows_is_met(total in 2_usize..60, seed: u64, pick in 0.0..1.0_f64) {
        let count = 1 + ((total - 1) as f64 * pick) as usize;
        let (train, eval) = split(0..total, HeldOut::Rows(count), seed).unwrap();
        prop_assert_eq!((train.len(), eval.unwrap().len()), (total - count, count));
    }
}
