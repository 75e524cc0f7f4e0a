//! Races between the blocks of one launch.
//!
//! A word for each line of 64 bytes says which block read or wrote all of it in which launch. A line
//! that is touched in part, or by blocks that may collide, splits: for each 16 bytes two words say
//! which block last wrote and read which of them. As long as one block has 16 bytes for itself, or
//! all blocks only read the same of them, that is enough; otherwise the 16 bytes move to an exact
//! table with a state for each byte.
//!
//! Host threads that meet at one word may lose one of two entries, so that a race goes unnoticed;
//! an entry always tells of an access that took place.
//!
//! Blocks are ordered by a device-wide fence with an atomic or volatile store after it: what a block did
//! before the fence is ordered before what another does after an atomic or volatile access that came
//! after that store. Which location carried the signal is not tracked.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::{LINE, racy::Bytes};

/// Bytes that share an entry of a split line.
const GRANULE: usize = 16;
const GRANULES: usize = LINE / GRANULE;
/// What happened to all bytes of a line, and that it is split.
const LINE_READ: u64 = 1;
const LINE_WRITTEN: u64 = 2;
const LINE_SPLIT: u64 = 4;
/// Launch number (24 bits), identity (24 bits), bytes (16 bits).
const TAG_SHIFT: u32 = 40;
const WHO_SHIFT: u32 = 16;
const WHO_BITS: u32 = 0xff_ffff;
/// Identities above stand for "several", plus the most fences any of them had passed.
const SEVERAL: u32 = 0xf0_0000;
/// The exact table knows more.
const MOVED: u32 = WHO_BITS;
/// No one, in the exact table.
const NOBODY: u32 = u32::MAX;
/// Locks of the exact table.
const SHARDS: usize = 64;

/// What an access does, as far as races go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An ordinary load.
    Read,
    /// An ordinary store.
    Write,
    /// An atomic, or a volatile, relaxed or release store.
    Atomic,
    /// A volatile, relaxed or acquire load.
    StrongRead,
}

/// Two unordered accesses of which one writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    /// Bytes from the start of the allocation.
    pub(crate) offset: usize,
    /// The other block, if it is known which.
    pub(crate) other: Option<u32>,
    /// What the other did.
    pub(crate) kind: Kind,
}

/// Entries of an allocation.
#[derive(Debug)]
pub(crate) struct Touches {
    lines: Bytes,
    writes: Bytes,
    reads: Bytes,
}

impl Touches {
    /// Untouched.
    pub(crate) fn new(len: usize) -> Self {
        let lines = len.div_ceil(LINE);
        let entries = |count: usize| Bytes::zeroed_or_abort(count * 8);
        Self {
            lines: entries(lines),
            writes: entries(lines * GRANULES),
            reads: entries(lines * GRANULES),
        }
    }
}

/// A block, as the record knows it: a new identity after each fence that published something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockOrder {
    block: u32,
    who: u32,
    fences: u32,
    acquired: u64,
    dirty: bool,
    /// Latest identity that a fence closed and no signal has published yet.
    closed: u32,
}

#[derive(Clone, Copy)]
struct Identity {
    block: u32,
    /// Fences that the block had passed when it took this identity.
    fences: u32,
    released: Option<u64>,
    /// The identity closed before it, also not published.
    before: u32,
}

#[derive(Default)]
struct Order {
    /// Filled at the first fence: one for each block, then one for each later identity.
    identities: Vec<Identity>,
    /// Fences that each block passed.
    fences: Vec<u32>,
}

#[derive(Clone, Copy)]
struct ByteState {
    writer: u32,
    reader: u32,
    atomic: u32,
    strong: u32,
}

impl ByteState {
    const EMPTY: Self = Self { writer: NOBODY, reader: NOBODY, atomic: NOBODY, strong: NOBODY };
}

type Shard = HashMap<(u64, usize), [ByteState; GRANULE]>;

/// The record of one launch.
pub(crate) struct Races {
    tag: u64,
    blocks: u32,
    order: Mutex<Order>,
    last_release: AtomicU64,
    exact: Vec<Mutex<Shard>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn who_of(entry: u64) -> u32 {
    (entry >> WHO_SHIFT) as u32 & WHO_BITS
}

fn is_several(who: u32) -> bool {
    (SEVERAL..MOVED).contains(&who)
}

fn several(fences: u32) -> u32 {
    SEVERAL + fences.min(MOVED - SEVERAL - 1)
}

impl Races {
    /// Of launch number `launch` with `blocks` blocks.
    pub(crate) fn new(launch: u32, blocks: u64) -> Self {
        Self {
            tag: u64::from(launch) & 0xff_ffff,
            blocks: blocks.min(u64::from(SEVERAL / 2)) as u32,
            order: Mutex::default(),
            last_release: AtomicU64::new(0),
            exact: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    /// The identity of block number `block` at its start. In grids of many millions of blocks
    /// some share one, and races between these are missed.
    pub(crate) fn enter(&self, block: u64) -> BlockOrder {
        let block = (block % u64::from(self.blocks.max(1))) as u32;
        BlockOrder { block, who: block, fences: 0, acquired: 0, dirty: false, closed: NOBODY }
    }

    /// A device-wide fence of the block.
    pub(crate) fn fence(&self, me: &mut BlockOrder) {
        let mut order = lock(&self.order);
        if order.identities.is_empty() {
            order.identities = (0..self.blocks)
                .map(|block| Identity { block, fences: 0, released: None, before: NOBODY })
                .collect();
            order.fences = vec![0; self.blocks as usize];
        }
        me.fences += 1;
        order.fences[me.block as usize] = me.fences;
        if me.dirty && order.identities.len() < SEVERAL as usize - 1 {
            order.identities[me.who as usize].before = me.closed;
            me.closed = me.who;
            me.who = order.identities.len() as u32;
            order.identities.push(Identity {
                block: me.block,
                fences: me.fences,
                released: None,
                before: NOBODY,
            });
            me.dirty = false;
        }
        me.acquired = self.last_release.load(Relaxed);
    }

    /// A signal of the block: all that its fences closed is published.
    #[cold]
    fn publish(&self, me: &mut BlockOrder) {
        let mut order = lock(&self.order);
        let time = self.last_release.fetch_add(1, Relaxed) + 1;
        while me.closed != NOBODY {
            let identity = &mut order.identities[me.closed as usize];
            identity.released = Some(time);
            me.closed = identity.before;
        }
    }

    fn pack(&self, who: u32, mask: u64) -> u64 {
        self.tag << TAG_SHIFT | u64::from(who) << WHO_SHIFT | mask
    }

    fn is_current(&self, entry: u64) -> bool {
        entry >> TAG_SHIFT == self.tag
    }

    /// Before the lines of an access are touched.
    #[inline(always)]
    pub(crate) fn begin(&self, kind: Kind, me: &mut BlockOrder) {
        if matches!(kind, Kind::Atomic | Kind::StrongRead) {
            if kind == Kind::Atomic && me.closed != NOBODY {
                self.publish(me);
            }
            me.acquired = self.last_release.load(Relaxed);
            me.dirty |= kind == Kind::Atomic;
        } else {
            me.dirty = true;
        }
    }

    /// Records an access to the bytes of `mask` of a line of the allocation at `base`.
    #[inline(always)]
    pub(crate) fn touch(
        &self,
        base: u64,
        touches: &Touches,
        (line, mask): (usize, u64),
        kind: Kind,
        me: &BlockOrder,
    ) -> Option<Conflict> {
        if mask == u64::MAX && self.whole(touches, line, kind, me) {
            return None;
        }
        self.split(touches, line);
        let mut conflict = None;
        for part in 0..GRANULES {
            let (granule, mask) = (line * GRANULES + part, mask >> (part * GRANULE) & 0xffff);
            if mask != 0 && !self.alone(touches, granule, mask, kind, me) {
                let found = self.exact(base, touches, granule, mask, kind, me);
                conflict = conflict.or(found);
            }
        }
        conflict
    }

    /// Records an access to a whole line if nobody else is involved and the line is not split.
    #[inline(always)]
    fn whole(&self, touches: &Touches, line: usize, kind: Kind, me: &BlockOrder) -> bool {
        let word = touches.lines.u64(line * 8);
        let entry = word.load(Relaxed);
        let flag = match kind {
            Kind::Read => LINE_READ,
            Kind::Write => LINE_WRITTEN,
            Kind::Atomic | Kind::StrongRead => return false,
        };
        if !self.is_current(entry) {
            word.store(self.pack(me.who, flag), Relaxed);
            return true;
        }
        let who = who_of(entry);
        if entry & LINE_SPLIT != 0 {
            return false;
        }
        if who == me.who {
            if entry & flag == 0 {
                word.store(entry | flag, Relaxed);
            }
            return true;
        }
        if kind == Kind::Write || entry & LINE_WRITTEN != 0 {
            return false;
        }
        // All read and nobody writes: no need to know who.
        if is_several(who) && who >= several(me.fences) {
            return true;
        }
        if is_several(who) || (who < self.blocks && me.fences == 0) {
            word.store(self.pack(several(me.fences), LINE_READ), Relaxed);
            return true;
        }
        false
    }

    /// Gives each 16 bytes of a line their own entries.
    #[inline(always)]
    fn split(&self, touches: &Touches, line: usize) {
        let word = touches.lines.u64(line * 8);
        let entry = word.load(Relaxed);
        if self.is_current(entry) && entry & LINE_SPLIT != 0 {
            return;
        }
        if self.is_current(entry) {
            let part = self.pack(who_of(entry), 0xffff);
            for granule in line * GRANULES..(line + 1) * GRANULES {
                for (flag, entries) in
                    [(LINE_READ, &touches.reads), (LINE_WRITTEN, &touches.writes)]
                {
                    if entry & flag != 0 {
                        entries.u64(granule * 8).store(part, Relaxed);
                    }
                }
            }
        }
        word.store(self.pack(0, LINE_SPLIT), Relaxed);
    }

    /// Records the access if nobody else is involved; false if the exact table must decide.
    #[inline(always)]
    fn alone(
        &self,
        touches: &Touches,
        granule: usize,
        mask: u64,
        kind: Kind,
        me: &BlockOrder,
    ) -> bool {
        let (writes, reads) = (touches.writes.u64(granule * 8), touches.reads.u64(granule * 8));
        let (w, r) = (writes.load(Relaxed), reads.load(Relaxed));
        let (w_now, r_now) = (self.is_current(w), self.is_current(r));
        let others_write = w_now && who_of(w) != me.who;
        match kind {
            Kind::Read if others_write => false,
            Kind::Read if !r_now => {
                reads.store(self.pack(me.who, mask), Relaxed);
                true
            }
            Kind::Read if who_of(r) == me.who => {
                if r & mask != mask {
                    reads.store(r | mask, Relaxed);
                }
                true
            }
            Kind::Read if is_several(who_of(r)) && who_of(r) >= several(me.fences) => {
                r & mask == mask
            }
            // All read the same bytes and nobody writes: no need to know who.
            Kind::Read
                if !w_now && r & 0xffff == mask && who_of(r) < self.blocks && me.fences == 0 =>
            {
                reads.store(self.pack(SEVERAL, mask), Relaxed);
                true
            }
            Kind::Read if !w_now && r & mask == mask && is_several(who_of(r)) => {
                reads.store(self.pack(several(me.fences), r & 0xffff), Relaxed);
                true
            }
            Kind::Write if others_write || (r_now && who_of(r) != me.who) => false,
            Kind::Write => {
                let mine = if w_now { w & 0xffff } else { 0 };
                writes.store(self.pack(me.who, mine | mask), Relaxed);
                true
            }
            Kind::Read | Kind::Atomic | Kind::StrongRead => false,
        }
    }

    #[cold]
    fn exact(
        &self,
        base: u64,
        touches: &Touches,
        granule: usize,
        mask: u64,
        kind: Kind,
        me: &BlockOrder,
    ) -> Option<Conflict> {
        let (writes, reads) = (touches.writes.u64(granule * 8), touches.reads.u64(granule * 8));
        let mut shard = lock(&self.exact[granule % SHARDS]);
        let bytes = shard.entry((base, granule)).or_insert([ByteState::EMPTY; GRANULE]);
        for (entry, is_write) in [(writes.load(Relaxed), true), (reads.load(Relaxed), false)] {
            if self.is_current(entry) && who_of(entry) != MOVED {
                for (_, byte) in bytes.iter_mut().enumerate().filter(|(i, _)| entry >> i & 1 != 0) {
                    *(if is_write { &mut byte.writer } else { &mut byte.reader }) = who_of(entry);
                }
            }
        }
        writes.store(self.pack(MOVED, 0), Relaxed);
        reads.store(self.pack(MOVED, 0), Relaxed);
        let mut conflict = None;
        for (i, byte) in bytes.iter_mut().enumerate().filter(|(i, _)| mask >> i & 1 != 0) {
            let found = self.check(byte, kind, me);
            conflict = conflict.or(found.map(|(other, kind)| Conflict {
                offset: granule * GRANULE + i,
                other,
                kind,
            }));
            self.record(byte, kind, me);
        }
        conflict
    }

    /// The unordered access of another block that an access of `kind` collides with.
    fn check(&self, byte: &ByteState, kind: Kind, me: &BlockOrder) -> Option<(Option<u32>, Kind)> {
        let all = [
            (byte.writer, Kind::Write),
            (byte.atomic, Kind::Atomic),
            (byte.reader, Kind::Read),
            (byte.strong, Kind::StrongRead),
        ];
        let colliding = match kind {
            Kind::Read => &all[..2],
            Kind::Write => &all[..],
            Kind::Atomic => &[all[0], all[2]],
            Kind::StrongRead => &all[..1],
        };
        colliding
            .iter()
            .find(|(who, _)| !self.ordered(*who, me))
            .map(|&(who, kind)| (self.block_of(who), kind))
    }

    fn record(&self, byte: &mut ByteState, kind: Kind, me: &BlockOrder) {
        let slot = match kind {
            Kind::Read => &mut byte.reader,
            Kind::Write => &mut byte.writer,
            Kind::Atomic => &mut byte.atomic,
            Kind::StrongRead => &mut byte.strong,
        };
        *slot = match *slot {
            _ if kind == Kind::Write => me.who,
            NOBODY => me.who,
            who if who == me.who => who,
            who if is_several(who) => who.max(several(me.fences)),
            who if self.ordered(who, me) => me.who,
            who => several(me.fences.max(self.fences_of(who))),
        };
    }

    /// Whether what `who` did happened before what `me` does now.
    fn ordered(&self, who: u32, me: &BlockOrder) -> bool {
        if who == NOBODY || who == me.who {
            return true;
        }
        let order = lock(&self.order);
        if order.identities.is_empty() {
            return false;
        }
        if is_several(who) {
            return order.fences.iter().all(|&fences| several(fences) > who);
        }
        let identity = order.identities[who as usize];
        identity.block == me.block || identity.released.is_some_and(|time| time <= me.acquired)
    }

    fn fences_of(&self, who: u32) -> u32 {
        lock(&self.order).identities.get(who as usize).map_or(0, |identity| identity.fences)
    }

    fn block_of(&self, who: u32) -> Option<u32> {
        if is_several(who) {
            None
        } else if who < self.blocks {
            Some(who)
        } else {
            lock(&self.order).identities.get(who as usize).map(|identity| identity.block)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::lines;

    struct Launch {
        races: Races,
        touches: Touches,
    }

    impl Launch {
        fn new(blocks: u64) -> Self {
            Self { races: Races::new(1, blocks), touches: Touches::new(256) }
        }

        fn touch(
            &self,
            me: &mut BlockOrder,
            range: (usize, usize),
            kind: Kind,
        ) -> Option<Conflict> {
            self.races.begin(kind, me);
            lines(range.0, range.1).fold(None, |found, line| {
                found.or(self.races.touch(0x1000, &self.touches, line, kind, me))
            })
        }
    }

    #[test]
    fn unordered_writes_collide_even_when_a_reader_came_between() {
        let launch = Launch::new(3);
        let (mut a, mut b, mut c) =
            (launch.races.enter(0), launch.races.enter(1), launch.races.enter(2));
        assert_eq!(launch.touch(&mut a, (4, 8), Kind::Write), None);
        let race = launch.touch(&mut b, (0, 16), Kind::Read).unwrap();
        assert_eq!(race, Conflict { offset: 4, other: Some(0), kind: Kind::Write });
        assert_eq!(launch.touch(&mut c, (7, 8), Kind::Write).unwrap().other, Some(0));
    }

    #[test]
    fn neighbours_in_one_word_do_not_collide() {
        let launch = Launch::new(2);
        let (mut a, mut b) = (launch.races.enter(0), launch.races.enter(1));
        assert_eq!(launch.touch(&mut a, (0, 2), Kind::Read), None);
        assert_eq!(launch.touch(&mut b, (2, 4), Kind::Read), None);
        assert_eq!(launch.touch(&mut a, (0, 2), Kind::Write), None);
        assert_eq!(launch.touch(&mut b, (2, 4), Kind::Write), None);
        assert!(launch.touch(&mut b, (1, 3), Kind::Write).is_some());
    }

    #[test]
    fn a_write_collides_with_one_of_many_readers() {
        let launch = Launch::new(8);
        for block in 0..8 {
            assert_eq!(launch.touch(&mut launch.races.enter(block), (0, 64), Kind::Read), None);
        }
        assert_eq!(
            launch.touch(&mut launch.races.enter(3), (20, 21), Kind::Write).unwrap().kind,
            Kind::Read
        );
    }

    #[test]
    fn a_line_splits_with_what_it_knows() {
        for kind in [Kind::Read, Kind::Write] {
            let launch = Launch::new(3);
            let (mut a, mut b) = (launch.races.enter(0), launch.races.enter(1));
            assert_eq!(launch.touch(&mut a, (64, 128), kind), None);
            assert_eq!(launch.touch(&mut a, (100, 104), Kind::Read), None, "its own");
            assert_eq!(launch.touch(&mut a, (64, 128), Kind::Write), None, "its own, split");
            let race = launch.touch(&mut b, (96, 100), Kind::Write).unwrap();
            assert_eq!((race.offset, race.other), (96, Some(0)));
        }
        let launch = Launch::new(3);
        let (mut a, mut b) = (launch.races.enter(0), launch.races.enter(1));
        launch.touch(&mut a, (0, 64), Kind::Read);
        let race = launch.touch(&mut b, (0, 64), Kind::Write).unwrap();
        assert_eq!((race.offset, race.other, race.kind), (0, Some(0), Kind::Read));
        launch.touch(&mut a, (128, 192), Kind::Write);
        let race = launch.touch(&mut b, (128, 192), Kind::Read).unwrap();
        assert_eq!((race.offset, race.other, race.kind), (128, Some(0), Kind::Write));
    }

    #[test]
    fn atomics_collide_only_with_ordinary_accesses() {
        let launch = Launch::new(3);
        let (mut a, mut b, mut c) =
            (launch.races.enter(0), launch.races.enter(1), launch.races.enter(2));
        assert_eq!(launch.touch(&mut a, (0, 4), Kind::Atomic), None);
        assert_eq!(launch.touch(&mut b, (0, 4), Kind::Atomic), None);
        assert_eq!(launch.touch(&mut b, (0, 4), Kind::StrongRead), None);
        assert_eq!(launch.touch(&mut c, (0, 4), Kind::Read).unwrap().kind, Kind::Atomic);
    }

    #[test]
    fn a_fence_and_a_signal_order_two_blocks() {
        let launch = Launch::new(2);
        let (mut a, mut b) = (launch.races.enter(0), launch.races.enter(1));
        launch.touch(&mut a, (0, 16), Kind::Write);
        launch.races.fence(&mut a);
        launch.touch(&mut a, (32, 36), Kind::Atomic);
        launch.touch(&mut b, (32, 36), Kind::Atomic);
        assert_eq!(launch.touch(&mut b, (0, 16), Kind::Read), None);
        launch.touch(&mut a, (16, 32), Kind::Write);
        launch.touch(&mut a, (32, 36), Kind::Atomic);
        launch.touch(&mut b, (32, 36), Kind::Atomic);
        assert!(launch.touch(&mut b, (16, 32), Kind::Read).is_some(), "no fence between");
    }

    #[test]
    fn a_fence_without_a_signal_after_it_publishes_nothing() {
        let launch = Launch::new(2);
        let (mut a, mut b) = (launch.races.enter(0), launch.races.enter(1));
        launch.races.fence(&mut a);
        launch.touch(&mut a, (32, 36), Kind::Atomic);
        launch.touch(&mut a, (0, 16), Kind::Write);
        launch.races.fence(&mut a);
        launch.touch(&mut b, (32, 36), Kind::StrongRead);
        launch.races.fence(&mut b);
        assert!(launch.touch(&mut b, (0, 16), Kind::Read).is_some());
    }

    #[test]
    fn a_grid_barrier_orders_many_readers_before_a_writer() {
        let launch = Launch::new(4);
        let mut blocks: Vec<_> = (0..4).map(|b| launch.races.enter(b)).collect();
        for me in &mut blocks {
            assert_eq!(launch.touch(me, (0, 16), Kind::Read), None);
            launch.races.fence(me);
            launch.touch(me, (64, 68), Kind::Atomic);
        }
        for me in &mut blocks {
            launch.touch(me, (64, 68), Kind::StrongRead);
        }
        assert_eq!(launch.touch(&mut blocks[2], (0, 16), Kind::Write), None);
        assert!(launch.touch(&mut blocks[1], (0, 16), Kind::Read).is_some());
    }

    #[test]
    fn the_next_launch_starts_clean() {
        let mut launch = Launch::new(2);
        launch.touch(&mut launch.races.enter(0), (0, 16), Kind::Write);
        launch.races = Races::new(2, 2);
        assert_eq!(launch.touch(&mut launch.races.enter(1), (0, 16), Kind::Write), None);
    }
}
