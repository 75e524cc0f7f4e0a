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
//! What is ordered, [`order`] says.

mod exact;
mod order;
#[cfg(test)]
mod tests;

use std::{
    ops::Range,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use self::{
    exact::Exact,
    order::{Blocks, MOVED, SEVERAL, WHO_BITS, is_several, several},
};
use super::{LINE, racy::Bytes};

pub(crate) use self::order::BlockOrder;

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

/// The record of one launch.
pub(crate) struct Races {
    tag: u64,
    /// Who enters, passes fences and gives signals.
    pub(crate) blocks: Blocks,
    exact: Exact,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn who_of(entry: u64) -> u32 {
    (entry >> WHO_SHIFT) as u32 & WHO_BITS
}

impl Races {
    /// Of launch number `launch` with `blocks` blocks.
    pub(crate) fn new(launch: u32, blocks: u64) -> Self {
        Self {
            tag: u64::from(launch) & 0xff_ffff,
            blocks: Blocks::new(blocks),
            exact: Exact::default(),
        }
    }

    fn pack(&self, who: u32, mask: u64) -> u64 {
        self.tag << TAG_SHIFT | u64::from(who) << WHO_SHIFT | mask
    }

    fn is_current(&self, entry: u64) -> bool {
        entry >> TAG_SHIFT == self.tag
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
        if mask == u64::MAX && self.whole(touches.lines.u64(line * 8), kind, me) {
            return None;
        }
        self.split(touches, line);
        let mut conflict = None;
        for part in 0..GRANULES {
            let (granule, mask) = (line * GRANULES + part, mask >> (part * GRANULE) & 0xffff);
            if mask != 0 && !self.alone(touches, granule, mask, kind, me) {
                let found = self.exact((base, granule), touches, mask, kind, me);
                conflict = conflict.or(found);
            }
        }
        conflict
    }

    /// Records an access to all bytes of these lines, up to the first that someone else is involved in or
    /// that is split; false if there is one.
    #[inline(always)]
    pub(crate) fn touch_whole(
        &self,
        touches: &Touches,
        lines: Range<usize>,
        kind: Kind,
        me: &BlockOrder,
    ) -> bool {
        let words = touches.lines.u64_run(lines.start * 8, lines.len());
        words.iter().all(
            #[inline(always)]
            |word| self.whole(word, kind, me),
        )
    }

    /// Records an access to the bytes of `part` of every 16 bytes of these lines, up to the first 16 that someone else
    /// is involved in; false if there are some.
    #[inline(always)]
    pub(crate) fn touch_alike(
        &self,
        touches: &Touches,
        lines: Range<usize>,
        part: u64,
        kind: Kind,
        me: &BlockOrder,
    ) -> bool {
        for line in lines.clone() {
            self.split(touches, line);
        }
        let (start, count) = (lines.start * GRANULES, lines.len() * GRANULES);
        let reads = touches.reads.u64_run(start * 8, count);
        let writes = touches.writes.u64_run(start * 8, count);
        for granule in 0..count {
            let (write, read) = (&writes[granule], &reads[granule]);
            let (w, r) = (write.load(Relaxed), read.load(Relaxed));
            let (w_now, r_now) = (self.is_current(w), self.is_current(r));
            if w_now && who_of(w) != me.who || r_now && who_of(r) != me.who {
                return false;
            }
            let (entry, before, now) = match kind {
                Kind::Read => (read, r, r_now),
                Kind::Write => (write, w, w_now),
                Kind::Atomic | Kind::StrongRead => return false,
            };
            let mine = if now { before & 0xffff } else { 0 };
            entry.store(self.pack(me.who, mine | part), Relaxed);
        }
        true
    }

    /// Records an access to a whole line if nobody else is involved and the line is not split.
    #[inline(always)]
    fn whole(&self, word: &AtomicU64, kind: Kind, me: &BlockOrder) -> bool {
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
        if is_several(who) || (who < self.blocks.count() && me.fences == 0) {
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
                if !w_now
                    && r & 0xffff == mask
                    && who_of(r) < self.blocks.count()
                    && me.fences == 0 =>
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

    /// Moves what is known of 16 bytes to the exact table, and asks that.
    #[cold]
    fn exact(
        &self,
        (base, granule): (u64, usize),
        touches: &Touches,
        mask: u64,
        kind: Kind,
        me: &BlockOrder,
    ) -> Option<Conflict> {
        let (writes, reads) = (touches.writes.u64(granule * 8), touches.reads.u64(granule * 8));
        self.exact.with(base, granule, |bytes| {
            for (entry, is_write) in [(writes.load(Relaxed), true), (reads.load(Relaxed), false)] {
                if self.is_current(entry) && who_of(entry) != MOVED {
                    bytes.take_over(entry, is_write, who_of(entry));
                }
            }
            let found = bytes.touch(&self.blocks, mask, kind, me);
            let found = found.map(|(byte, other, kind)| Conflict {
                offset: granule * GRANULE + byte,
                other,
                kind,
            });
            // What many blocks only read, many more may read: without the table.
            if let Some((who, mask)) = bytes.only_read() {
                writes.store(0, Relaxed);
                reads.store(self.pack(who, mask), Relaxed);
                return (found, false);
            }
            writes.store(self.pack(MOVED, 0), Relaxed);
            reads.store(self.pack(MOVED, 0), Relaxed);
            (found, true)
        })
    }
}
