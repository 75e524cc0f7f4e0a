//! Which block's accesses are ordered before which.
//!
//! Blocks are ordered by a device-wide fence with an atomic or volatile store after it: what a block did
//! before the fence is ordered before what another does after an atomic or volatile access that came
//! after that store. Which location carried the signal is not tracked.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{Kind, lock};

/// Bits of an identity.
pub(super) const WHO_BITS: u32 = 0xff_ffff;
/// Identities above stand for "several", plus the most fences any of them had passed.
pub(super) const SEVERAL: u32 = 0xf0_0000;
/// The exact table knows more.
pub(super) const MOVED: u32 = WHO_BITS;
/// No one, in the exact table.
pub(super) const NOBODY: u32 = u32::MAX;

/// A block, as the record knows it: a new identity after each fence that published something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockOrder {
    block: u32,
    pub(super) who: u32,
    pub(super) fences: u32,
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

pub(super) fn is_several(who: u32) -> bool {
    (SEVERAL..MOVED).contains(&who)
}

pub(super) fn several(fences: u32) -> u32 {
    SEVERAL + fences.min(MOVED - SEVERAL - 1)
}

/// The blocks of a launch.
pub(crate) struct Blocks {
    count: u32,
    order: Mutex<Order>,
    last_release: AtomicU64,
}

impl Blocks {
    pub(super) fn new(count: u64) -> Self {
        Self {
            count: count.min(u64::from(SEVERAL / 2)) as u32,
            order: Mutex::default(),
            last_release: AtomicU64::new(0),
        }
    }

    /// How many; smaller identities are those of a block that passed no fence.
    #[inline(always)]
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// The identity of block number `block` at its start. In grids of many millions of blocks
    /// some share one, and races between these are missed.
    pub(crate) fn enter(&self, block: u64) -> BlockOrder {
        let block = (block % u64::from(self.count.max(1))) as u32;
        BlockOrder { block, who: block, fences: 0, acquired: 0, dirty: false, closed: NOBODY }
    }

    /// A device-wide fence of the block.
    pub(crate) fn fence(&self, me: &mut BlockOrder) {
        let mut order = lock(&self.order);
        if order.identities.is_empty() {
            order.identities = (0..self.count)
                .map(|block| Identity { block, fences: 0, released: None, before: NOBODY })
                .collect();
            order.fences = vec![0; self.count as usize];
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

    /// Whether what `who` did happened before what `me` does now.
    pub(super) fn ordered(&self, who: u32, me: &BlockOrder) -> bool {
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

    pub(super) fn fences_of(&self, who: u32) -> u32 {
        lock(&self.order).identities.get(who as usize).map_or(0, |identity| identity.fences)
    }

    pub(super) fn block_of(&self, who: u32) -> Option<u32> {
        if is_several(who) {
            None
        } else if who < self.count {
            Some(who)
        } else {
            lock(&self.order).identities.get(who as usize).map(|identity| identity.block)
        }
    }
}
