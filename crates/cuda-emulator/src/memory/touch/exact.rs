//! The exact table: for each byte, who last did what.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Mutex,
};

use super::{
    BlockOrder, GRANULE, Kind, lock,
    order::{Blocks, NOBODY, is_several, several},
};

/// Locks of the exact table.
const SHARDS: usize = 64;

#[derive(Clone, Copy)]
struct ByteState {
    writer: u32,
    reader: u32,
    atomic: u32,
    strong: u32,
}

impl ByteState {
    const EMPTY: Self = Self { writer: NOBODY, reader: NOBODY, atomic: NOBODY, strong: NOBODY };

    /// The unordered access of another block that an access of `kind` collides with.
    fn check(self, blocks: &Blocks, kind: Kind, me: &BlockOrder) -> Option<(Option<u32>, Kind)> {
        let all = [
            (self.writer, Kind::Write),
            (self.atomic, Kind::Atomic),
            (self.reader, Kind::Read),
            (self.strong, Kind::StrongRead),
        ];
        let colliding = match kind {
            Kind::Read => &all[..2],
            Kind::Write => &all[..],
            Kind::Atomic => &[all[0], all[2]],
            Kind::StrongRead => &all[..1],
        };
        colliding
            .iter()
            .find(|(who, _)| !blocks.ordered(*who, me))
            .map(|&(who, kind)| (blocks.block_of(who), kind))
    }

    fn record(&mut self, blocks: &Blocks, kind: Kind, me: &BlockOrder) {
        let slot = match kind {
            Kind::Read => &mut self.reader,
            Kind::Write => &mut self.writer,
            Kind::Atomic => &mut self.atomic,
            Kind::StrongRead => &mut self.strong,
        };
        *slot = match *slot {
            _ if kind == Kind::Write => me.who,
            NOBODY => me.who,
            who if who == me.who => who,
            who if is_several(who) => who.max(several(me.fences)),
            who if blocks.ordered(who, me) => me.who,
            who => several(me.fences.max(blocks.fences_of(who))),
        };
    }
}

/// What is known of 16 bytes.
pub(super) struct State([ByteState; GRANULE]);

impl State {
    /// The bytes of `mask` were last written, or read, by `who`.
    pub(super) fn take_over(&mut self, mask: u64, is_write: bool, who: u32) {
        for (_, byte) in self.0.iter_mut().enumerate().filter(|(i, _)| mask >> i & 1 != 0) {
            *(if is_write { &mut byte.writer } else { &mut byte.reader }) = who;
        }
    }

    /// Records an access to the bytes of `mask`: the first that collides, with whom, and with what.
    pub(super) fn touch(
        &mut self,
        blocks: &Blocks,
        mask: u64,
        kind: Kind,
        me: &BlockOrder,
    ) -> Option<(usize, Option<u32>, Kind)> {
        let mut conflict = None;
        for (i, byte) in self.0.iter_mut().enumerate().filter(|(i, _)| mask >> i & 1 != 0) {
            let found = byte.check(blocks, kind, me);
            conflict = conflict.or(found.map(|(other, kind)| (i, other, kind)));
            byte.record(blocks, kind, me);
        }
        conflict
    }

    /// Of bytes of which all that is known is that several read them: who these are, and the bytes.
    pub(super) fn only_read(&self) -> Option<(u32, u64)> {
        let mut found = None;
        for (i, byte) in self.0.iter().enumerate() {
            let ByteState { writer, reader, atomic, strong } = *byte;
            let known = [writer, reader, atomic, strong] != [NOBODY; 4];
            if known && (!is_several(reader) || [writer, atomic, strong] != [NOBODY; 3]) {
                return None;
            }
            if known {
                let (who, mask) = found.unwrap_or((reader, 0));
                if who != reader {
                    return None;
                }
                found = Some((who, mask | 1 << i));
            }
        }
        found
    }
}

/// By allocation and 16 bytes of it.
type Shard = HashMap<(u64, usize), State>;

/// The states of all bytes that need one.
pub(super) struct Exact(Vec<Mutex<Shard>>);

impl Default for Exact {
    fn default() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }
}

impl Exact {
    /// Calls `body` with the state of 16 bytes of the allocation at `base`, which nobody else then has;
    /// it says with the second of its results whether the table must remember it.
    pub(super) fn with<R>(
        &self,
        base: u64,
        granule: usize,
        body: impl FnOnce(&mut State) -> (R, bool),
    ) -> R {
        let mut shard = lock(&self.0[granule % SHARDS]);
        match shard.entry((base, granule)) {
            Entry::Occupied(mut entry) => {
                let (result, stays) = body(entry.get_mut());
                if !stays {
                    entry.remove();
                }
                result
            }
            Entry::Vacant(entry) => {
                let mut state = State([ByteState::EMPTY; GRANULE]);
                let (result, stays) = body(&mut state);
                if stays {
                    entry.insert(state);
                }
                result
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|shard| lock(shard).len()).sum()
    }
}
