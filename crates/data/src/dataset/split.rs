//! The held-out split.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Dataset, Entry, Note, What};
use crate::error::{Error, Result};
use crate::rows::{BadRow, BadRows, Content};

/// How many rows to hold out for evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum HeldOut {
    /// Each row with this probability, by its content: adding rows moves no other row.
    Fraction(f64),
    /// The rows whose content hashes lowest; equal rows stay together, so there may be a few more.
    Rows(usize),
}

/// Splits into training and held-out rows, both in file order; rows that could not be read stay with the first. Equal
/// rows always fall on the same side. A fraction of few rows may hold none of them out. `keys` are the entries' hashes.
pub(crate) fn split(all: Dataset, keys: &[u64], held_out: HeldOut) -> Result<(Dataset, Dataset)> {
    let unused = |note: &&Note| matches!(note.what, What::Dropped | What::Bad);
    let unused = all.notes.iter().filter(unused).map(|note| note.key);
    let every: Vec<u64> = keys.iter().copied().chain(unused).collect();
    let (name, threshold) = match held_out {
        HeldOut::Fraction(fraction) => ("eval_fraction", fraction_threshold(fraction)?),
        HeldOut::Rows(count) => ("eval_rows", rows_threshold(&every, count)?),
    };
    let is_held_out = |key: u64| u128::from(key) < threshold;
    if every.iter().all(|key| is_held_out(*key)) {
        let message = format!("holds out all {} rows; hold out fewer", every.len());
        return Err(Error::Setting { name, message });
    }
    let Dataset { entries, store, notes, path, format, left_out, unread, bad, packing } = all;
    let sides = notes.iter().filter(|note| note.what == What::Bad);
    let [bad, eval_bad] = divided(bad, sides.map(|note| is_held_out(note.key)));
    let (mut train, mut eval) = (Vec::new(), Vec::new());
    for (entry, key) in entries.into_iter().zip(keys) {
        if is_held_out(*key) {
            // A row is judged by once, however often others like it are learned.
            eval.push(Entry { copies: 1, ..entry });
        } else {
            train.push(entry);
        }
    }
    let (eval_notes, notes) = notes.into_iter().partition(|note| is_held_out(note.key));
    let eval = Dataset {
        entries: eval,
        store: Arc::clone(&store),
        notes: eval_notes,
        path: path.clone(),
        format,
        left_out: 0,
        unread: BadRows::default(),
        bad: eval_bad,
        packing,
    };
    let entries = train;
    Ok((Dataset { entries, store, notes, path, format, left_out, unread, bad, packing }, eval))
}

/// Bad rows of both sides; `sides` says of each whether it is held out.
fn divided(bad: BadRows, sides: impl Iterator<Item = bool>) -> [BadRows; 2] {
    let mut divided = [BadRows::default(), BadRows::default()];
    let mut first = bad.first.into_iter();
    for side in sides {
        let of_side = &mut divided[usize::from(side)];
        match first.next() {
            Some(BadRow { place, problem }) => of_side.push(place, problem),
            None => of_side.count += 1,
        }
    }
    divided
}

/// Hashes below the returned number are held out.
fn fraction_threshold(fraction: f64) -> Result<u128> {
    if fraction > 0.0 && fraction < 1.0 {
        return Ok((fraction * 2f64.powi(64)) as u128);
    }
    let message = format!("must lie between 0 and 1, not {fraction}");
    Err(Error::Setting { name: "eval_fraction", message })
}

fn rows_threshold(keys: &[u64], count: usize) -> Result<u128> {
    if count == 0 || count >= keys.len() {
        let message = format!(
            "{count} held-out rows of {} in the file; give 1 to {}",
            keys.len(),
            keys.len().max(2) - 1
        );
        return Err(Error::Setting { name: "eval_rows", message });
    }
    let mut sorted = keys.to_vec();
    let (_, last, _) = sorted.select_nth_unstable(count - 1);
    Ok(u128::from(*last) + 1)
}

/// Of the parsed row, so that spacing and unused fields do not matter.
pub(crate) fn content_hash(content: &Content, seed: u64) -> u64 {
    let content = serde_json::to_vec(content).expect("rows always serialise");
    let digest = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(content).finalize();
    u64::from_le_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
}
