//! How often the rows of a source are learned.

use super::{Content, Source};
use crate::dataset::content_hash;
use crate::error::{Error, Result};

/// Sets the draw of rows apart from that of held-out rows.
const SEED: u64 = 0x77_65_69_67_68_74;

/// A source's weight: whole copies of every row, and one more for a share of them.
pub(super) struct Weight {
    whole: usize,
    /// Rows whose hash lies below get one more.
    threshold: u128,
}

impl Weight {
    pub(super) fn new(source: &Source) -> Result<Self> {
        let weight = source.weight;
        if !(weight > 0.0 && weight <= 1000.0) {
            let message = format!(
                "{}: weight {weight}; it must be above 0 and at most 1000",
                source.path.display()
            );
            return Err(Error::Setting { name: "sources", message });
        }
        Ok(Self {
            whole: weight.floor() as usize,
            threshold: (weight.fract() * 2f64.powi(64)) as u128,
        })
    }

    /// Of a row, by its content: others that come or go change nothing for it.
    pub(super) fn copies(&self, content: &Content) -> usize {
        if self.threshold == 0 {
            return self.whole;
        }
        self.whole + usize::from(u128::from(content_hash(content, SEED)) < self.threshold)
    }
}
