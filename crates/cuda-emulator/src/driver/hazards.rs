//! Accesses of asynchronous operations that nothing orders.

use std::{collections::BTreeMap, sync::Arc};

use crate::driver::timeline::{Clock, Lane, Point};

/// Bytes that an operation reads or writes: first and one past the last, as addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) range: (u64, u64),
    pub(crate) write: bool,
}

#[derive(Debug)]
struct Past {
    lane: Lane,
    tick: u64,
    access: Access,
    label: Arc<str>,
}

/// What was accessed, by the start of the allocation.
#[derive(Debug, Default)]
pub(crate) struct Hazards {
    past: BTreeMap<u64, Vec<Past>>,
}

/// Accesses remembered for each allocation. Beyond it the oldest are forgotten, so a hazard over
/// more operations than these without any host synchronisation may go unseen.
const REMEMBERED: usize = 512;

impl Hazards {
    /// Records an access and says which earlier one it is not ordered with, if any.
    pub(crate) fn access(
        &mut self,
        base: u64,
        access: Access,
        point: &Point,
        label: &Arc<str>,
    ) -> Option<Conflict> {
        if access.range.0 >= access.range.1 {
            return None;
        }
        let past = self.past.entry(base).or_default();
        let ordered = |p: &Past| point.clock.of(p.lane) >= p.tick;
        let overlaps = |a: Access| a.range.0 < access.range.1 && access.range.0 < a.range.1;
        let conflict = past
            .iter()
            .find(|p| !ordered(p) && (p.access.write || access.write) && overlaps(p.access))
            .map(|p| Conflict {
                other: Arc::clone(&p.label),
                other_writes: p.access.write,
                address: p.access.range.0.max(access.range.0),
            });
        // What follows this access follows the earlier one too, so that one has no more to tell.
        past.retain(|p| {
            let covered = access.range.0 <= p.access.range.0 && p.access.range.1 <= access.range.1;
            !(ordered(p) && covered && (access.write || !p.access.write))
        });
        if past.len() >= REMEMBERED {
            past.remove(0);
        }
        past.push(Past { lane: point.lane, tick: point.tick, access, label: Arc::clone(label) });
        conflict
    }

    /// Forgets an allocation that is gone.
    pub(crate) fn forget(&mut self, base: u64) {
        self.past.remove(&base);
    }

    /// Forgets what the host waited for. Only sound while no operation submitted before is pending.
    pub(crate) fn forget_before(&mut self, host: &Clock) {
        self.past.retain(|_, past| {
            past.retain(|p| host.of(p.lane) < p.tick);
            !past.is_empty()
        });
    }
}

/// The other party of a hazard.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    pub(crate) other: Arc<str>,
    pub(crate) other_writes: bool,
    pub(crate) address: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::timeline::Timeline;

    fn access(range: (u64, u64), write: bool) -> Access {
        Access { range, write }
    }

    #[test]
    fn unordered_overlaps_with_a_write_conflict() {
        // The second access, and whether it conflicts with a write of bytes 10 to 20.
        for (range, write, event, host, expected) in [
            ((10, 20), false, false, false, true),
            ((19, 30), false, false, false, true),
            ((20, 30), true, false, false, false),
            ((0, 10), true, false, false, false),
            ((10, 20), true, true, false, false),
            ((10, 20), true, false, true, false),
        ] {
            let mut timeline = Timeline::<()>::new(false, 0);
            let (a, b) = (timeline.add_lane(), timeline.add_lane());
            let mut hazards = Hazards::default();
            let first = timeline.submit(a, vec![], ());
            assert_eq!(hazards.access(0, access((10, 20), true), &first, &"first".into()), None);
            if host {
                timeline.host_waits(&first);
            }
            let after = if event { vec![first] } else { vec![] };
            let second = timeline.submit(b, after, ());
            let conflict = hazards.access(0, access(range, write), &second, &"second".into());
            assert_eq!(conflict.is_some(), expected, "{range:?} {write} {event} {host}");
            if let Some(conflict) = conflict {
                assert_eq!((&*conflict.other, conflict.other_writes), ("first", true));
            }
        }
    }

    #[test]
    fn reads_do_not_conflict_and_are_all_kept() {
        let mut timeline = Timeline::<()>::new(false, 0);
        let lanes: Vec<_> = (0..3).map(|_| timeline.add_lane()).collect();
        let mut hazards = Hazards::default();
        let reads: Vec<_> = (0..2).map(|i| timeline.submit(lanes[i], vec![], ())).collect();
        for read in &reads {
            assert_eq!(hazards.access(0, access((0, 8), false), read, &"read".into()), None);
        }
        // Ordered after the second read only.
        let write = timeline.submit(lanes[2], vec![Arc::clone(&reads[1])], ());
        let conflict = hazards.access(0, access((0, 8), true), &write, &"write".into());
        assert_eq!(conflict.map(|c| c.other_writes), Some(false));
    }

    #[test]
    fn the_host_clock_clears_the_past() {
        let mut timeline = Timeline::<()>::new(false, 0);
        let lane = timeline.add_lane();
        let mut hazards = Hazards::default();
        let point = timeline.submit(lane, vec![], ());
        hazards.access(0, access((0, 8), true), &point, &"write".into());
        hazards.forget_before(timeline.host());
        assert_eq!(hazards.past.len(), 1);
        timeline.host_waits(&point);
        hazards.forget_before(timeline.host());
        assert!(hazards.past.is_empty());
    }
}
