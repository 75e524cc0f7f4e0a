//! Which parts of a device's memory are free.
//!
//! Best fit with neighbours joined, over chunks that the driver gave. A step takes and gives the same
//! sizes in the same order as the step before, so it finds the same places again, and sizes that vary
//! from batch to batch share what was cut for others.

use std::collections::{BTreeMap, BTreeSet};

/// Sizes are multiples of this: the driver's own alignment, and room for vector loads.
pub(crate) const ALIGN: usize = 256;

/// Free ranges of chunks. Addresses are numbers; nothing here touches memory.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    /// Bytes by address.
    chunks: BTreeMap<u64, usize>,
    /// Free bytes by address. No two ranges of a chunk touch.
    free: BTreeMap<u64, usize>,
    /// The same by size.
    by_size: BTreeSet<(usize, u64)>,
}

/// `bytes` as the arena counts them; `None` where there is no such number.
pub(crate) fn rounded(bytes: usize) -> Option<usize> {
    bytes.checked_next_multiple_of(ALIGN)
}

impl Arena {
    pub(crate) const fn new() -> Self {
        Self { chunks: BTreeMap::new(), free: BTreeMap::new(), by_size: BTreeSet::new() }
    }

    /// Adds a chunk, all of it free.
    pub(crate) fn grow(&mut self, address: u64, bytes: usize) {
        self.chunks.insert(address, bytes);
        self.insert(address, bytes);
    }

    /// Bytes of all chunks.
    pub(crate) fn reserved(&self) -> usize {
        self.chunks.values().sum()
    }

    /// Takes `bytes`, rounded by [`rounded`], from the smallest range that has them.
    pub(crate) fn take(&mut self, bytes: usize) -> Option<u64> {
        let &(size, address) = self.by_size.range((bytes, 0)..).next()?;
        self.remove(address, size);
        if size > bytes {
            self.insert(address + bytes as u64, size - bytes);
        }
        Some(address)
    }

    /// Gives back what [`take`](Self::take) gave.
    pub(crate) fn give(&mut self, address: u64, bytes: usize) {
        let (mut start, mut size) = (address, bytes);
        let before = self.free.range(..address).next_back().map(|(&start, &size)| (start, size));
        if let Some((first, len)) = before
            && first + len as u64 == address
            && !self.chunks.contains_key(&address)
        {
            self.remove(first, len);
            (start, size) = (first, len + size);
        }
        let end = address + bytes as u64;
        if let Some(&len) = self.free.get(&end)
            && !self.chunks.contains_key(&end)
        {
            self.remove(end, len);
            size += len;
        }
        self.insert(start, size);
    }

    /// Takes the chunks out of which nothing is in use; the caller gives them back to the driver.
    pub(crate) fn shrink(&mut self) -> Vec<u64> {
        let idle = |(address, size): (&u64, &usize)| {
            (self.free.get(address) == Some(size)).then_some((*address, *size))
        };
        let idle: Vec<(u64, usize)> = self.chunks.iter().filter_map(idle).collect();
        for &(address, size) in &idle {
            self.chunks.remove(&address);
            self.remove(address, size);
        }
        idle.into_iter().map(|(address, _)| address).collect()
    }

    fn insert(&mut self, address: u64, size: usize) {
        self.free.insert(address, size);
        self.by_size.insert((size, address));
    }

    fn remove(&mut self, address: u64, size: usize) {
        self.free.remove(&address);
        self.by_size.remove(&(size, address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHUNK: usize = 64 * ALIGN;

    /// Two chunks that touch, as a driver may place them.
    fn arena() -> Arena {
        let mut arena = Arena::default();
        arena.grow(4096, CHUNK);
        arena.grow(4096 + CHUNK as u64, CHUNK);
        arena
    }

    #[test]
    fn sizes_are_rounded_up() {
        assert_eq!([1, 256, 257].map(rounded), [Some(256), Some(256), Some(512)]);
        assert_eq!(rounded(usize::MAX), None);
    }

    #[test]
    fn the_smallest_range_is_cut() {
        let mut arena = arena();
        let [a, b, c] = [8, 2, 4].map(|n| arena.take(n * ALIGN).unwrap());
        let _last = arena.take(ALIGN).unwrap();
        arena.give(a, 8 * ALIGN);
        arena.give(c, 4 * ALIGN);
        assert_eq!(arena.take(3 * ALIGN), Some(c));
        arena.give(b, 2 * ALIGN);
        assert_eq!(arena.take(10 * ALIGN), Some(a), "neighbours are joined");
    }

    #[test]
    fn chunks_are_never_joined() {
        let mut arena = arena();
        assert_eq!(arena.take(CHUNK + ALIGN), None);
        let whole = arena.take(CHUNK).unwrap();
        arena.give(whole, CHUNK);
        assert_eq!(arena.take(CHUNK + ALIGN), None);
        let used = arena.take(ALIGN).unwrap();
        let idle = if used == 4096 { 4096 + CHUNK as u64 } else { 4096 };
        assert_eq!(arena.shrink(), [idle]);
        assert_eq!(arena.reserved(), CHUNK);
    }

    proptest! {
        /// What is in use never overlaps, and all of it given back is all there was.
        #[test]
        fn ranges_are_handed_out_once(sizes in prop::collection::vec((1..20_usize, any::<prop::sample::Index>()), 1..200)) {
            let mut arena = arena();
            let mut used: Vec<(u64, usize)> = Vec::new();
            for (size, give) in sizes {
                match arena.take(size * ALIGN) {
                    Some(address) => {
                        let end = address + (size * ALIGN) as u64;
                        let clash = used.iter().any(|&(start, len)| start < end && address < start + len as u64);
                        prop_assert!(!clash);
                        used.push((address, size * ALIGN));
                    }
                    None => prop_assert!(!used.is_empty()),
                }
                if size % 2 == 0 && !used.is_empty() {
                    let (address, len) = used.swap_remove(give.index(used.len()));
                    arena.give(address, len);
                }
            }
            for (address, len) in used {
                arena.give(address, len);
            }
            prop_assert_eq!(arena.free.values().copied().collect::<Vec<_>>(), [CHUNK, CHUNK]);
            prop_assert_eq!(arena.shrink().len(), 2);
            prop_assert_eq!(arena.by_size.len(), 0);
        }
    }
}
