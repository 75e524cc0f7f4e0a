//! Which rows each optimizer step takes, and when evaluations come.

use data::{Dataset, Order, Result, Window};

use crate::recipe::{DataSection, TrainSection};

/// The steps of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    batch_size: usize,
    accumulation: usize,
    steps_per_epoch: usize,
    total_steps: usize,
    checkpoint_every: usize,
    order: Order,
}

impl Plan {
    /// Plans a run over `dataset`.
    pub fn new(train: &TrainSection, data: &DataSection, dataset: &Dataset) -> Self {
        let (batch_size, accumulation) = (train.batch_size, train.gradient_accumulation_steps);
        let groups = dataset.epoch(Order::Files, 0).len();
        let steps_per_epoch = groups.div_ceil(batch_size.saturating_mul(accumulation)).max(1);
        let by_epochs = (train.epochs * steps_per_epoch as f64).ceil() as usize;
        Self {
            batch_size,
            accumulation,
            steps_per_epoch,
            total_steps: train.max_steps.unwrap_or(by_epochs),
            checkpoint_every: train.eval_steps.unwrap_or(steps_per_epoch),
            order: match (data.shuffle, data.group_by_length) {
                (false, _) => Order::Files,
                (true, false) => Order::Shuffled { seed: train.seed },
                (true, true) => Order::ByLength { seed: train.seed, batch_size },
            },
        }
    }

    /// Optimizer steps of the run.
    pub fn total_steps(&self) -> usize {
        self.total_steps
    }

    /// Passes over the rows after `steps` steps.
    pub fn epochs(&self, steps: usize) -> f64 {
        steps as f64 / self.steps_per_epoch as f64
    }

    /// Whether the adapter is evaluated and stored after `steps` steps.
    pub fn is_checkpoint(&self, steps: usize) -> bool {
        steps == self.total_steps || steps.is_multiple_of(self.checkpoint_every)
    }

    /// The window of every step, in order.
    pub fn windows<'a>(
        &self,
        dataset: &'a Dataset,
    ) -> impl Iterator<Item = Result<Window>> + use<'a> {
        let Self { batch_size, accumulation, order, .. } = *self;
        let epoch = move |epoch: u64| {
            dataset.windows(dataset.epoch(order, epoch), batch_size, accumulation)
        };
        (0..).flat_map(epoch).take(self.total_steps)
    }
}

#[cfg(test)]
mod tests {
    use data::Example;

    use super::*;

    fn dataset(rows: u32) -> Dataset {
        let place = data::rows::Place::default;
        let example =
            |id| Example { input_ids: vec![id, id], labels: vec![id, id], place: place() };
        (0..rows).map(example).collect()
    }

    fn plan(train: &TrainSection, shuffle: bool, rows: u32) -> Plan {
        Plan::new(train, &DataSection { shuffle, ..DataSection::default() }, &dataset(rows))
    }

    fn first_ids(plan: &Plan, rows: u32) -> Vec<Vec<u32>> {
        let of = |w: &Window| {
            w.micro_batches.iter().flat_map(|b| b.input_ids.iter().step_by(2).copied()).collect()
        };
        plan.windows(&dataset(rows)).map(|w| of(&w.unwrap())).collect()
    }

    #[test]
    fn an_epoch_takes_every_row_once() {
        let train = TrainSection {
            epochs: 2.0,
            batch_size: 2,
            gradient_accumulation_steps: 2,
            ..TrainSection::default()
        };
        let plan = plan(&train, true, 7);
        assert_eq!(
            (plan.total_steps(), plan.is_checkpoint(2), plan.is_checkpoint(3)),
            (4, true, false)
        );
        let steps = first_ids(&plan, 7);
        for epoch in steps.chunks(2) {
            let mut rows = epoch.concat();
            rows.sort_unstable();
            assert_eq!(rows, [0, 1, 2, 3, 4, 5, 6]);
        }
        assert_ne!(steps[..2], steps[2..], "each epoch has its own order");
        assert_eq!(first_ids(&plan, 7), steps);
    }

    #[test]
    fn steps_win_over_epochs_and_order_can_be_kept() {
        let train = TrainSection { max_steps: Some(3), batch_size: 2, ..TrainSection::default() };
        let steps = first_ids(&plan(&train, false, 4), 4);
        assert_eq!(steps, [[0, 1], [2, 3], [0, 1]]);
        let half = TrainSection { epochs: 0.5, batch_size: 1, ..TrainSection::default() };
        assert_eq!(plan(&half, false, 5).total_steps(), 3);
    }

    #[test]
    fn a_run_grouped_by_length_begins_with_the_longest_rows() {
        let place = data::rows::Place::default;
        let row = |id| Example {
            input_ids: vec![id; 2 + id as usize],
            labels: vec![id; 2 + id as usize],
            place: place(),
        };
        let rows: Dataset = (0..40).map(row).collect();
        let train = TrainSection { epochs: 2.0, batch_size: 4, ..TrainSection::default() };
        let section = DataSection { group_by_length: true, ..DataSection::default() };
        let windows = Plan::new(&train, &section, &rows).windows(&rows);
        let lengths: Vec<_> =
            windows.map(|w| w.unwrap().micro_batches.remove(0).seq_lens).collect();
        assert_eq!((lengths.len(), &lengths[0]), (20, &vec![41, 40, 39, 38]));
        for epoch in lengths.chunks(10) {
            let mut epoch = epoch.concat();
            epoch.sort_unstable();
            assert_eq!(epoch, (2..42).collect::<Vec<_>>());
        }
    }
}
