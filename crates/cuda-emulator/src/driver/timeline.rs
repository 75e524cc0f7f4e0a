//! The order of asynchronous work: what must come before what, what has run, and which of the
//! legal orders comes next.
//!
//! Each operation belongs to a lane (a stream) and names the operations that it waits for. Its
//! vector clock holds, for every lane, how many of that lane's operations surely came before; the
//! host's clock grows when the host waits. Two operations of which neither knows the other are
//! unordered, however they happened to run.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

/// A lane of operations that run one after the other.
pub(crate) type Lane = usize;

/// For each lane, how many of its operations came before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Clock(Vec<u64>);

impl Clock {
    /// How many operations of `lane` came before.
    pub(crate) fn of(&self, lane: Lane) -> u64 {
        self.0.get(lane).copied().unwrap_or(0)
    }

    fn set(&mut self, lane: Lane, tick: u64) {
        if self.0.len() <= lane {
            self.0.resize(lane + 1, 0);
        }
        self.0[lane] = tick;
    }

    fn join(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (a, b) in self.0.iter_mut().zip(&other.0) {
            *a = (*a).max(*b);
        }
    }
}

/// An operation's place in the order.
#[derive(Debug)]
pub(crate) struct Point {
    pub(crate) lane: Lane,
    /// Number within the lane, from 1.
    pub(crate) tick: u64,
    /// What came before, itself included.
    pub(crate) clock: Clock,
    done: AtomicBool,
    end: AtomicU64,
}

impl Point {
    /// Whether it has run.
    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    /// Virtual time of its end in nanoseconds, once it has run.
    pub(crate) fn end(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Pending<T> {
    point: Arc<Point>,
    after: Vec<Arc<Point>>,
    submitted: u64,
    work: T,
}

/// An operation that is to run now.
#[derive(Debug)]
pub(crate) struct Ready<T> {
    pub(crate) point: Arc<Point>,
    pub(crate) work: T,
    start: u64,
}

/// The asynchronous work of a process.
#[derive(Debug)]
pub(crate) struct Timeline<T> {
    /// Whether to choose among the legal orders; else work runs as submitted.
    reorder: bool,
    pending: Vec<Pending<T>>,
    ticks: Vec<u64>,
    priorities: Vec<u64>,
    random: u64,
    host: Clock,
    host_time: u64,
    latest_end: u64,
}

impl<T> Timeline<T> {
    /// No work yet. `seed` chooses the order when `reorder` is set.
    pub(crate) fn new(reorder: bool, seed: u64) -> Self {
        Self {
            reorder,
            pending: Vec::new(),
            ticks: Vec::new(),
            priorities: Vec::new(),
            random: seed ^ 0x9e37_79b9_7f4a_7c15,
            host: Clock::default(),
            host_time: 0,
            latest_end: 0,
        }
    }

    /// A new lane.
    pub(crate) fn add_lane(&mut self) -> Lane {
        let priority = self.draw();
        self.ticks.push(0);
        self.priorities.push(priority);
        self.ticks.len() - 1
    }

    /// Appends work to a lane, after the points of `after`. The caller names the lane's own last
    /// point among them.
    pub(crate) fn submit(&mut self, lane: Lane, after: Vec<Arc<Point>>, work: T) -> Arc<Point> {
        self.ticks[lane] += 1;
        let mut clock = self.host.clone();
        for point in &after {
            clock.join(&point.clock);
        }
        clock.set(lane, self.ticks[lane]);
        let point = Arc::new(Point {
            lane,
            tick: self.ticks[lane],
            clock,
            done: AtomicBool::new(false),
            end: AtomicU64::new(0),
        });
        let submitted = self.host_time;
        self.pending.push(Pending { point: Arc::clone(&point), after, submitted, work });
        point
    }

    /// Takes an operation all of whose predecessors have run.
    pub(crate) fn next(&mut self) -> Option<Ready<T>> {
        let ready = |entry: &Pending<T>| entry.after.iter().all(|point| point.is_done());
        let index = if self.reorder {
            // Priorities of lanes rather than fair draws, so that one lane overtakes another by
            // many operations now and then.
            if self.draw().is_multiple_of(4) && !self.priorities.is_empty() {
                let lane = self.draw() as usize % self.priorities.len();
                self.priorities[lane] = self.draw();
            }
            let candidates = self.pending.iter().enumerate().filter(|(_, entry)| ready(entry));
            candidates.max_by_key(|(_, entry)| self.priorities[entry.point.lane])?.0
        } else {
            self.pending.iter().position(ready)?
        };
        let entry = self.pending.remove(index);
        let ends = entry.after.iter().map(|point| point.end());
        let start = ends.max().unwrap_or(0).max(entry.submitted);
        Some(Ready { point: entry.point, work: entry.work, start })
    }

    /// Marks an operation as run, having taken `duration` nanoseconds.
    pub(crate) fn finish(&mut self, point: &Point, start: Start, duration: u64) {
        let end = start.0 + duration;
        self.latest_end = self.latest_end.max(end);
        point.end.store(end, Ordering::Relaxed);
        point.done.store(true, Ordering::Relaxed);
    }

    /// The host waits for `point`: what it submits from now on comes after it.
    pub(crate) fn host_waits(&mut self, point: &Point) {
        self.host.join(&point.clock);
        self.host_time = self.host_time.max(point.end());
    }

    /// The host waits for every operation, all of which have run.
    pub(crate) fn host_waits_for_all(&mut self) {
        for (lane, tick) in self.ticks.iter().enumerate() {
            self.host.set(lane, *tick);
        }
        self.host_time = self.host_time.max(self.latest_end);
    }

    /// Number of operations that have not run.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// What the host knows to have finished.
    pub(crate) fn host(&self) -> &Clock {
        &self.host
    }

    /// The next number of a `SplitMix64` sequence.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Virtual time at which an operation starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start(u64);

impl<T> Ready<T> {
    /// When it starts.
    pub(crate) fn start(&self) -> Start {
        Start(self.start)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn run_all(timeline: &mut Timeline<u32>) -> Vec<u32> {
        let mut order = Vec::new();
        while let Some(ready) = timeline.next() {
            timeline.finish(&ready.point, ready.start(), 10);
            order.push(ready.work);
        }
        order
    }

    #[test]
    fn every_legal_order_of_two_streams_occurs() {
        let mut seen = HashSet::new();
        for seed in 0..4000 {
            let mut timeline = Timeline::new(true, seed);
            let (a, b) = (timeline.add_lane(), timeline.add_lane());
            let first = timeline.submit(a, vec![], 1);
            timeline.submit(a, vec![first], 2);
            let first = timeline.submit(b, vec![], 3);
            timeline.submit(b, vec![first], 4);
            seen.insert(run_all(&mut timeline));
        }
        assert_eq!(seen.len(), 6, "{seen:?}");
        assert!(seen.iter().all(|order| {
            let at = |n| order.iter().position(|&x| x == n);
            at(1) < at(2) && at(3) < at(4)
        }));
    }

    #[test]
    fn clocks_know_streams_events_and_the_host() {
        let mut timeline = Timeline::new(false, 0);
        let (a, b) = (timeline.add_lane(), timeline.add_lane());
        let x = timeline.submit(a, vec![], 0);
        let y = timeline.submit(b, vec![], 1);
        assert_eq!((x.clock.of(b), y.clock.of(a)), (0, 0));
        let waits = timeline.submit(b, vec![Arc::clone(&y), Arc::clone(&x)], 2);
        assert_eq!((waits.clock.of(a), waits.clock.of(b)), (1, 2));
        run_all(&mut timeline);
        assert_eq!((x.end(), y.end(), waits.end()), (10, 10, 20));
        let before = timeline.submit(a, vec![], 3);
        assert_eq!(before.clock.of(b), 0);
        timeline.host_waits(&waits);
        let after = timeline.submit(a, vec![Arc::clone(&before)], 4);
        assert_eq!(after.clock.of(b), 2);
    }

    proptest! {
        /// Whatever the dependencies, order and seed, everything runs once, after all it waits for,
        /// and virtual times do not depend on the order.
        #[test]
        fn orders_are_legal(
            seed: u64,
            work in prop::collection::vec((0usize..4, prop::option::of(0usize..40)), 1..40),
        ) {
            let mut ends = Vec::new();
            for reorder in [false, true] {
                let mut timeline = Timeline::new(reorder, seed);
                for _ in 0..4 {
                    timeline.add_lane();
                }
                let mut last: Vec<Option<Arc<Point>>> = vec![None; 4];
                let mut points: Vec<Arc<Point>> = Vec::new();
                for (i, (lane, event)) in work.iter().enumerate() {
                    let mut after: Vec<_> = last[*lane].iter().cloned().collect();
                    after.extend(event.and_then(|e| points.get(e)).cloned());
                    let point = timeline.submit(*lane, after, i as u32);
                    last[*lane] = Some(Arc::clone(&point));
                    points.push(point);
                }
                let order = run_all(&mut timeline);
                prop_assert_eq!(order.len(), work.len());
                for (at, &i) in order.iter().enumerate() {
                    for &j in &order[at + 1..] {
                        let (earlier, later) = (&points[i as usize], &points[j as usize]);
                        prop_assert!(earlier.clock.of(later.lane) < later.tick);
                    }
                }
                ends.push(points.iter().map(|p| p.end()).collect::<Vec<_>>());
            }
            prop_assert_eq!(&ends[0], &ends[1]);
        }
    }
}
