//! Encoded rows, the held-out split and the order of an epoch.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::encode::{EncodedRow, Example};
use crate::error::{Error, Problem, Result};
use crate::length::Fitted;
use crate::rows::{BadRows, Content, Place, Row, Rows};
use crate::unseen::Unseen;

/// Encoded rows, in file order.
#[derive(Debug, Default)]
pub struct Dataset {
    /// The rows.
    pub examples: Vec<Example>,
    /// How often each of them is learned in one pass; empty where that is once for all.
    pub copies: Vec<usize>,
    /// Rows left out because they were too long.
    pub dropped: Vec<Place>,
    /// Rows of which a part was cut off.
    pub truncated: Vec<Place>,
    /// Rows of which the template leaves a part out.
    pub unseen: Vec<(Place, Unseen)>,
    /// Rows that cannot be used.
    pub bad: BadRows,
    /// Tokens of the bins that rows are packed into; `None` where each row stays for itself.
    pub packing: Option<usize>,
}

/// Sizes of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Rows.
    pub rows: usize,
    /// Tokens of all rows.
    pub tokens: usize,
    /// Tokens the loss covers.
    pub trained_tokens: usize,
    /// Tokens of the longest row.
    pub longest: usize,
}

impl Dataset {
    /// These rows, or the first bad one as an error.
    ///
    /// # Errors
    /// [`Error::Row`].
    pub fn strict(mut self) -> Result<Self> {
        std::mem::take(&mut self.bad).strict()?;
        Ok(self)
    }

    pub(crate) fn add(&mut self, row: &Row, encoded: Result<EncodedRow, Problem>) {
        let EncodedRow { fitted, unseen } = match encoded {
            Ok(encoded) => encoded,
            Err(problem) => return self.bad.push(row.place.clone(), problem),
        };
        let place = || row.place.clone();
        let example = match fitted {
            Fitted::Dropped => return self.dropped.push(place()),
            Fitted::Cut(example) => {
                self.truncated.push(place());
                example
            }
            Fitted::Whole(example) => example,
        };
        self.unseen.extend(unseen.map(|part| (place(), part)));
        if row.copies != 1 && self.copies.is_empty() {
            self.copies = vec![1; self.examples.len()];
        }
        if row.copies != 1 || !self.copies.is_empty() {
            self.copies.push(row.copies);
        }
        self.examples.push(example);
    }

    /// Counts rows and tokens.
    pub fn stats(&self) -> Stats {
        let lengths = || self.examples.iter().map(|example| example.input_ids.len());
        Stats {
            rows: self.examples.len(),
            tokens: lengths().sum(),
            trained_tokens: self.examples.iter().map(Example::trained_tokens).sum(),
            longest: lengths().max().unwrap_or(0),
        }
    }
}

/// How many rows to hold out for evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum HeldOut {
    /// Each row with this probability, by its content: adding rows moves no other row.
    Fraction(f64),
    /// The rows whose content hashes lowest; equal rows stay together, so there may be a few more.
    Rows(usize),
}

/// Splits into training and held-out rows, both in file order; bad rows stay with the first. Equal rows always fall on the same side. A fraction of
/// few rows may hold none of them out.
///
/// # Errors
/// [`Error::Setting`] when no row would be left to train on, or the number of rows cannot be held out.
pub fn split(rows: Rows, held_out: HeldOut, seed: u64) -> Result<(Rows, Rows)> {
    let keys: Vec<u64> = rows.rows.iter().map(|row| content_hash(&row.content, seed)).collect();
    let (name, threshold) = match held_out {
        HeldOut::Fraction(fraction) => ("eval_fraction", fraction_threshold(fraction)?),
        HeldOut::Rows(count) => ("eval_rows", rows_threshold(&keys, count)?),
    };
    let Rows { path, format, rows, bad, left_out } = rows;
    let (mut train, mut eval) = (Vec::new(), Vec::new());
    for (row, key) in rows.into_iter().zip(keys) {
        if u128::from(key) < threshold {
            // A row is judged by once, however often others like it are learned.
            eval.push(Row { copies: 1, ..row });
        } else {
            train.push(row);
        }
    }
    if train.is_empty() {
        let message = format!("holds out all {} rows; hold out fewer", eval.len());
        return Err(Error::Setting { name, message });
    }
    let eval =
        Rows { path: path.clone(), format, rows: eval, bad: BadRows::default(), left_out: 0 };
    Ok((Rows { path, format, rows: train, bad, left_out }, eval))
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
