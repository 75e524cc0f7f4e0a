//! Learning-rate schedules, as in Hugging Face's `optimization.py`.

use std::f64::consts::PI;

use crate::recipe::{Scheduler, TrainSection};

/// The learning rate of every step of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    scheduler: Scheduler,
    peak: f64,
    warmup_steps: usize,
    total_steps: usize,
}

impl Schedule {
    /// The schedule of a run of `total_steps` optimizer steps.
    pub fn new(train: &TrainSection, total_steps: usize) -> Self {
        let warmup_steps = match train.warmup_steps {
            0 => (train.warmup_ratio * total_steps as f64).ceil() as usize,
            steps => steps,
        };
        Self { scheduler: train.lr_scheduler, peak: train.learning_rate, warmup_steps, total_steps }
    }

    /// Learning rate of optimizer step `step`, counted from 0.
    pub fn learning_rate(&self, step: usize) -> f64 {
        self.peak * self.factor(step)
    }

    fn factor(&self, step: usize) -> f64 {
        let warmup = self.warmup_steps;
        if step < warmup {
            return step as f64 / warmup as f64;
        }
        let decay_steps = self.total_steps.saturating_sub(warmup).max(1) as f64;
        let progress = (step - warmup) as f64 / decay_steps;
        match self.scheduler {
            Scheduler::Constant => 1.0,
            Scheduler::Linear => (1.0 - progress).max(0.0),
            Scheduler::Cosine => (0.5 * (1.0 + (PI * progress).cos())).max(0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(scheduler: Scheduler, warmup_steps: usize, total: usize) -> Vec<f64> {
        let train = TrainSection {
            lr_scheduler: scheduler,
            warmup_steps,
            learning_rate: 0.5,
            ..TrainSection::default()
        };
        let schedule = Schedule::new(&train, total);
        (0..total).map(|step| schedule.learning_rate(step)).collect()
    }

    /// Values of `get_scheduler(name, ..., num_warmup_steps=2, num_training_steps=6)` of transformers
    /// 5.23.0 with a base rate of 0.5.
    #[test]
    fn agrees_with_transformers() {
        let cases = [
            (Scheduler::Constant, [0.0, 0.25, 0.5, 0.5, 0.5, 0.5]),
            (Scheduler::Linear, [0.0, 0.25, 0.5, 0.375, 0.25, 0.125]),
            (
                Scheduler::Cosine,
                [0.0, 0.25, 0.5, 0.426_776_695_296_636_9, 0.25, 0.073_223_304_703_363_12],
            ),
        ];
        for (scheduler, expected) in cases {
            for (rate, expected) in rates(scheduler, 2, 6).iter().zip(expected) {
                assert!((rate - expected).abs() < 1e-12, "{scheduler:?}: {rate} {expected}");
            }
        }
    }

    #[test]
    fn without_warmup_the_first_step_has_the_peak() {
        for scheduler in [Scheduler::Constant, Scheduler::Linear, Scheduler::Cosine] {
            assert_eq!(rates(scheduler, 0, 3)[0], 0.5);
        }
    }

    #[test]
    fn a_ratio_rounds_up_and_a_warmup_may_outlast_the_run() {
        let train = TrainSection { warmup_ratio: 0.21, ..TrainSection::default() };
        assert_eq!(Schedule::new(&train, 10).warmup_steps, 3);
        assert_eq!(rates(Scheduler::Linear, 8, 4), [0.0, 0.0625, 0.125, 0.1875]);
    }
}
