//! The rows of one pass over the data, in order and in groups.

use crate::batch::{Batch, Window};
use crate::dataset::Dataset;
use crate::encode::Example;
use crate::error::Result;
use crate::grouping::group_by_length;
use crate::packing::best_fit_decreasing;
use crate::rng::Rng;

/// The order of the rows of each pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// That of the files.
    Files,
    /// Another in every pass.
    Shuffled {
        /// What it is drawn from, with the pass's number.
        seed: u64,
    },
    /// Another in every pass, in micro-batches of rows of about equal length. The first one of the run has the longest
    /// rows, and no other has more tokens. Bins, which are of about equal length as they are, are shuffled.
    ByLength {
        /// What it is drawn from, with the pass's number.
        seed: u64,
        /// Rows of a micro-batch; must be positive, and what [`Dataset::windows`] is asked for.
        batch_size: usize,
    },
}

/// The rows of one pass over a data set. A group is what a micro-batch counts: a bin of rows where they are packed,
/// else one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch {
    rows: Vec<usize>,
    /// Where groups end in `rows`.
    ends: Vec<usize>,
}

impl Epoch {
    fn of_rows(rows: Vec<usize>) -> Self {
        let ends = (1..=rows.len()).collect();
        Self { rows, ends }
    }

    fn of_bins(bins: &[Vec<usize>]) -> Self {
        let ends = bins.iter().scan(0, |end, bin| {
            *end += bin.len();
            Some(*end)
        });
        Self { ends: ends.collect(), rows: bins.concat() }
    }

    /// Groups.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The rows of groups `from..to`, as numbers of examples.
    fn rows(&self, from: usize, to: usize) -> &[usize] {
        let start = from.checked_sub(1).map_or(0, |before| self.ends[before]);
        let end = to.checked_sub(1).map_or(0, |last| self.ends[last]);
        &self.rows[start..end]
    }

    /// Numbers of the groups `from..to`, `size` at a time.
    fn chunks(from: usize, to: usize, size: usize) -> impl Iterator<Item = (usize, usize)> {
        (from..to).step_by(size).map(move |start| (start, to.min(start.saturating_add(size))))
    }
}

impl Dataset {
    /// Pass number `epoch`, counted from 0, each row as often as its source's weight says. The rows' number and lengths,
    /// `order` and `epoch` alone decide it. Every pass has as many groups.
    pub fn epoch(&self, order: Order, epoch: u64) -> Epoch {
        let rows = self.entries.iter().enumerate();
        let mut rows: Vec<usize> =
            rows.flat_map(|(row, entry)| std::iter::repeat_n(row, entry.copies as usize)).collect();
        match order {
            Order::Files => self.grouped(rows, None),
            Order::ByLength { seed, batch_size } if self.packing.is_none() => {
                let (length, rng) = (|row| self.length(row), Rng::new(seed, epoch));
                Epoch::of_rows(group_by_length(rows, length, batch_size, epoch == 0, rng))
            }
            Order::Shuffled { seed } | Order::ByLength { seed, .. } => {
                let mut rng = Rng::new(seed, epoch);
                rng.shuffle(&mut rows);
                self.grouped(rows, Some(rng))
            }
        }
    }

    /// Rows as groups, with bins in the order of the examples where there is no `rng`.
    fn grouped(&self, rows: Vec<usize>, rng: Option<Rng>) -> Epoch {
        let Some(capacity) = self.packing else {
            return Epoch::of_rows(rows);
        };
        let mut bins =
            best_fit_decreasing(rows.into_iter().map(|row| (row, self.length(row))), capacity);
        // Bins come with the longest rows first, which should not be learned first.
        if let Some(mut rng) = rng {
            rng.shuffle(&mut bins);
        } else {
            for bin in &mut bins {
                bin.sort_unstable();
            }
            bins.sort_unstable();
        }
        Epoch::of_bins(&bins)
    }

    /// Bins of a pass and the tokens that one holds, where rows are packed.
    pub fn bins(&self) -> Option<(usize, usize)> {
        self.packing.map(|capacity| (self.epoch(Order::Files, 0).len(), capacity))
    }

    /// Windows of `accumulation` micro-batches of `batch_size` groups. The last window holds what is left. Both
    /// numbers must be positive.
    ///
    /// # Errors
    /// [`Error::Read`](crate::Error::Read) when rows are in a file that cannot be read.
    pub fn windows(
        &self,
        epoch: Epoch,
        batch_size: usize,
        accumulation: usize,
    ) -> impl Iterator<Item = Result<Window>> + use<'_> {
        let (groups, size) = (epoch.len(), batch_size.saturating_mul(accumulation));
        Epoch::chunks(0, groups, size).map(move |(from, to)| {
            let batches = Epoch::chunks(from, to, batch_size);
            let batches = batches.map(|(from, to)| self.batch(epoch.rows(from, to)));
            let micro_batches: Vec<Batch> = batches.collect::<Result<_>>()?;
            let trained_tokens = micro_batches.iter().map(Batch::trained_tokens).sum();
            Ok(Window { micro_batches, trained_tokens })
        })
    }

    /// Micro-batches of `batch_size` groups of every row once, in file order, for evaluation.
    ///
    /// # Errors
    /// [`Error::Read`](crate::Error::Read) when rows are in a file that cannot be read.
    pub fn batches(&self, batch_size: usize) -> impl Iterator<Item = Result<Batch>> {
        let epoch = self.in_file_order();
        Epoch::chunks(0, epoch.len(), batch_size)
            .map(move |(from, to)| self.batch(epoch.rows(from, to)))
    }

    /// The one of [`batches`](Self::batches) with most tokens.
    ///
    /// # Errors
    /// [`Error::Read`](crate::Error::Read) when rows are in a file that cannot be read.
    pub fn largest_batch(&self, batch_size: usize) -> Result<Option<Batch>> {
        let epoch = self.in_file_order();
        let batches = Epoch::chunks(0, epoch.len(), batch_size);
        let tokens = |rows: &&[usize]| rows.iter().map(|row| self.length(*row)).sum::<usize>();
        let largest = batches.map(|(from, to)| epoch.rows(from, to)).max_by_key(tokens);
        largest.map(|rows| self.batch(rows)).transpose()
    }

    fn in_file_order(&self) -> Epoch {
        self.grouped((0..self.len()).collect(), None)
    }

    fn batch(&self, rows: &[usize]) -> Result<Batch> {
        let examples: Vec<Example> =
            rows.iter().map(|row| self.example(*row)).collect::<Result<_>>()?;
        Ok(Batch::new(&examples))
    }
}
