//! Held-out rows and epoch orders.

use std::collections::HashSet;

use data::rows::{Row, Rows};
use data::{HeldOut, split};
use proptest::prelude::*;

use crate::common::{OPTIONS, encode, encoder, read};

fn rows(numbers: impl IntoIterator<Item = usize>) -> Rows {
    let lines: Vec<String> = numbers
        .into_iter()
        .map(|n| format!("{{\"prompt\": \"{n}\", \"completion\": \"x\"}}"))
        .collect();
    read(&lines.join("\n"), None).unwrap()
}

fn contents(rows: &Rows) -> HashSet<String> {
    rows.rows.iter().map(|row: &Row| serde_json::to_string(&row.content).unwrap()).collect()
}

#[test]
fn rows_do_not_move_when_others_are_added() {
    let (_, few) = split(rows(0..200), HeldOut::Fraction(0.2), 1).unwrap();
    let (train, many) = split(rows((0..400).rev()), HeldOut::Fraction(0.2), 1).unwrap();
    assert!(contents(&few).is_subset(&contents(&many)));
    assert!(contents(&train).is_disjoint(&contents(&many)));
    assert_eq!(train.rows.len() + many.rows.len(), 400);
    assert!(
        (50..110).contains(&many.rows.len()),
        "{} of 400 at a fraction of 0.2",
        many.rows.len()
    );
    assert_ne!(
        contents(&split(rows(0..200), HeldOut::Fraction(0.2), 2).unwrap().1),
        contents(&few)
    );
}

#[test]
fn equal_rows_stay_together() {
    let (train, eval) = split(rows((0..40).chain(0..40)), HeldOut::Rows(11), 3).unwrap();
    assert!(contents(&train).is_disjoint(&contents(&eval)));
    assert_eq!(eval.rows.len(), 12);
}

#[test]
fn a_split_leaves_rows_to_train_on() {
    let of = |held_out| split(rows(0..3), held_out, 1).unwrap_err().to_string();
    assert!(of(HeldOut::Rows(0)).starts_with("eval_rows: 0 held-out rows of 3"));
    assert!(of(HeldOut::Rows(3)).starts_with("eval_rows: 3 held-out rows of 3"));
    assert!(of(HeldOut::Fraction(1.0)).starts_with("eval_fraction: must lie between 0 and 1"));
    assert!(of(HeldOut::Fraction(1.0 - 1e-9)).contains("holds out all 3 rows"));
    let (train, eval) = split(rows(0..3), HeldOut::Fraction(1e-9), 1).unwrap();
    assert_eq!((train.rows.len(), eval.rows.len()), (3, 0));
    assert!(of(HeldOut::Fraction(f64::NAN)).starts_with("eval_fraction"));
}

#[test]
fn epoch_orders_are_fixed_for_ever() {
    let rows: Vec<String> = (0..10).map(|id| format!("{{\"input_ids\": [{id}, 2]}}")).collect();
    let text = rows.join("\n");
    let dataset = encode(&encoder("smollm2", "</s>"), &text, &OPTIONS).unwrap();
    let order = |seed, epoch| -> Vec<usize> {
        let epoch = dataset.epoch(Some(seed), epoch);
        let lines = dataset.windows(epoch, 1, 1).map(|window| window.micro_batches[0].input_ids[0]);
        lines.map(|id| id as usize).collect()
    };
    assert_eq!(order(42, 0), ORDER);
    assert_ne!(order(42, 1), ORDER);
    assert_ne!(order(43, 0), ORDER);
}

/// Printed once; a change here changes every run.
const ORDER: [usize; 10] = [8, 2, 6, 3, 4, 0, 9, 5, 1, 7];

proptest! {
    #[test]
    fn a_number_of_rows_is_met(total in 2_usize..60, seed: u64, pick in 0.0..1.0_f64) {
        let count = 1 + ((total - 1) as f64 * pick) as usize;
        let (train, eval) = split(rows(0..total), HeldOut::Rows(count), seed).unwrap();
        prop_assert_eq!((train.rows.len(), eval.rows.len()), (total - count, count));
    }
}
