//! Losses far above those before: a step on such rows can undo what many others did.
//!
//! As `SkipStepOptimizer` of OLMo-core, for the loss alone: the mean and the standard deviation of the last
//! [`WINDOW`] losses, spikes among them, so that a level that stays is soon the usual one.

use std::fmt;

use super::guard::Culprit;

/// Losses that a loss is compared with.
const WINDOW: usize = 128;

/// Losses before the first one that is judged. OLMo-core has half a window, which a fine-tune may end before.
const LEAST: usize = 32;

/// A finite loss that is too far above those before.
#[derive(Debug, Clone, PartialEq)]
pub struct Spike {
    /// Mean loss of the step.
    pub loss: f64,
    /// Mean of the losses before.
    pub mean: f64,
    /// Their standard deviation.
    pub deviation: f64,
    /// The micro-batch with the highest mean loss.
    pub at: Culprit,
}

impl fmt::Display for Spike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { loss, mean, deviation, at } = self;
        let far = (loss - mean) / deviation;
        write!(
            f,
            "the loss of {loss:.4} is {far:.1} standard deviations above the {mean:.4} of the steps before, \
             highest in {at}"
        )
    }
}

/// The last losses, and how far above them is too far.
#[derive(Debug, Clone)]
pub(super) struct Spikes {
    sigmas: f64,
    recent: Vec<f64>,
}

impl Spikes {
    /// With losses of an earlier part of the run; `None` where none are looked for.
    pub(super) fn new(sigmas: f64, recent: Vec<f64>) -> Option<Self> {
        (sigmas > 0.0).then_some(Self { sigmas, recent })
    }

    pub(super) fn recent(&self) -> &[f64] {
        &self.recent
    }

    /// Takes a finite loss in; mean and standard deviation of those before it where it is a spike.
    pub(super) fn judge(&mut self, loss: f64) -> Option<(f64, f64)> {
        let count = self.recent.len() as f64;
        let mean = self.recent.iter().sum::<f64>() / count;
        let squares: f64 = self.recent.iter().map(|x| (x - mean).powi(2)).sum();
        let deviation = (squares / (count - 1.0)).sqrt();
        let is_spike = self.recent.len() >= LEAST && loss > mean + self.sigmas * deviation;
        if self.recent.len() == WINDOW {
            self.recent.remove(0);
        }
        self.recent.push(loss);
        is_spike.then_some((mean, deviation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Losses around 2, 0.1 to either side.
    fn usual(i: usize) -> f64 {
        if i.is_multiple_of(2) { 1.9 } else { 2.1 }
    }

    #[test]
    fn a_spike_is_told_once_there_is_enough_to_compare_with() {
        let mut spikes = Spikes::new(3.0, Vec::new()).unwrap();
        for i in 0..LEAST {
            assert_eq!(spikes.judge(if i == 5 { 2.4 } else { usual(i) }), None, "{i}");
        }
        let before = spikes.clone();
        assert_eq!(spikes.judge(2.2), None);
        assert_eq!(before.clone().judge(0.1), None, "a low loss is none");
        let mut spikes = before;
        let (mean, deviation) = spikes.judge(2.6).unwrap();
        let expected = 2.0 + (2.4 - 2.1) / LEAST as f64;
        assert!((mean - expected).abs() < 1e-12 && (0.1..0.15).contains(&deviation));
        assert!(Spikes::new(0.0, Vec::new()).is_none());
    }

    #[test]
    fn a_level_that_stays_becomes_the_usual_one() {
        let mut spikes = Spikes::new(6.0, (0..WINDOW).map(usual).collect()).unwrap();
        let skipped = (0..20).take_while(|_| spikes.judge(9.0).is_some()).count();
        assert!((1..10).contains(&skipped), "{skipped}");
        assert_eq!(spikes.recent().len(), WINDOW);
    }

    #[test]
    fn a_guard_with_the_losses_of_another_goes_on_as_it() {
        let mut whole = Spikes::new(2.0, Vec::new()).unwrap();
        let loss = |i: usize| usual(i) + if i % 37 == 36 { 1.0 } else { 0.0 };
        let mut first = whole.clone();
        for i in 0..70 {
            first.judge(loss(i));
        }
        let mut second = Spikes::new(2.0, first.recent().to_vec()).unwrap();
        let all: Vec<_> = (0..300).map(|i| whole.judge(loss(i))).collect();
        let rest: Vec<_> = (70..300).map(|i| second.judge(loss(i))).collect();
        assert_eq!(all[70..], rest);
        assert!(rest.iter().any(Option::is_some));
    }
}
