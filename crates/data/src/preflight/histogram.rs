//! Rows by their length.

use std::fmt;

use serde::Serialize;

const BUCKETS: usize = 12;
const WIDTH: usize = 40;

/// How many rows have which length, in buckets of equal width.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Histogram {
    /// Lengths that one bucket spans.
    pub width: usize,
    /// Rows of each; bucket `i` holds the lengths from `i * width + 1` to `(i + 1) * width`.
    pub counts: Vec<usize>,
}

impl Histogram {
    /// Counts lengths, which are at least 1.
    pub fn new(lengths: impl Iterator<Item = usize> + Clone) -> Self {
        let longest = lengths.clone().max().unwrap_or(0);
        let width = round_up(longest.div_ceil(BUCKETS).max(1));
        let mut counts = vec![0; longest.div_ceil(width)];
        for length in lengths {
            counts[length.saturating_sub(1) / width] += 1;
        }
        Self { width, counts }
    }
}

/// To one digit that is 1, 2 or 5 and zeros, so that bounds read well.
fn round_up(number: usize) -> usize {
    let mut step = 1;
    loop {
        for factor in [1, 2, 5] {
            if step * factor >= number {
                return step * factor;
            }
        }
        step *= 10;
    }
}

impl fmt::Display for Histogram {
    /// A line of text for each bucket, with a bar as long as its share of the largest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = self.counts.iter().copied().max().unwrap_or(0).max(1);
        let digits = (self.width * self.counts.len()).to_string().len();
        for (index, count) in self.counts.iter().enumerate() {
            let (from, to) = (index * self.width + 1, (index + 1) * self.width);
            let eighths = (count * WIDTH * 8).div_ceil(most);
            let bar = "█".repeat(eighths / 8);
            let rest = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
            writeln!(f, "  {from:>digits$} to {to:<digits$}  {bar}{rest} {count}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_fall_into_round_buckets() {
        let histogram = Histogram::new([1, 20, 21, 230].into_iter());
        assert_eq!(histogram.width, 20);
        assert_eq!(histogram.counts, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(histogram.counts.iter().sum::<usize>(), 4);
        let text = histogram.to_string();
        assert!(
            text.starts_with(&format!(
                "    1 to 20   {} 2\n   21 to 40   {} 1\n",
                "█".repeat(40),
                "█".repeat(20)
            )),
            "{text}"
        );
        assert_eq!(Histogram::new(std::iter::empty()).to_string(), "");
    }
}
