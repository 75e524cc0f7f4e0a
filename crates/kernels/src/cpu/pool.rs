//! Idle host memory, kept for the next buffer of about the same size.

use std::collections::VecDeque;

use super::buffer::Storage;
use crate::DType;

/// Bytes that the pool keeps: a step frees and asks for about the same sizes again, and the first
/// touch of fresh pages (some 0.2 s for this much) can cost more than the arithmetic on them.
const LIMIT: usize = 512 << 20;

/// Elements to allocate for `len`: up to an eighth more, so that batches of slightly different
/// lengths share blocks. The excess costs address space only until a longer buffer touches it.
pub(super) fn capacity_for(len: usize) -> usize {
    let step = (1 << len.checked_ilog2().unwrap_or(0)) / 8;
    len.checked_next_multiple_of(step.max(1)).unwrap_or(len)
}

/// Blocks in the order in which they came back.
#[derive(Debug)]
pub(super) struct Pool {
    idle: VecDeque<Storage>,
    bytes: usize,
    limit: usize,
}

impl Default for Pool {
    fn default() -> Self {
        Self { idle: VecDeque::new(), bytes: 0, limit: LIMIT }
    }
}

impl Pool {
    /// The block last used among those that hold `len` elements and little more; content
    /// unspecified.
    pub(super) fn take(&mut self, dtype: DType, len: usize) -> Option<Storage> {
        let fits = len..=capacity_for(len);
        let fits = |x: &Storage| x.dtype() == dtype && fits.contains(&x.capacity());
        let mut storage = self.idle.remove(self.idle.iter().rposition(fits)?)?;
        self.bytes -= storage.capacity_bytes();
        storage.resize(len);
        Some(storage)
    }

    /// Keeps a block; those unused for longest make room for it.
    pub(super) fn give_back(&mut self, storage: Storage) {
        let bytes = storage.capacity_bytes();
        if bytes == 0 || bytes > self.limit {
            return;
        }
        self.bytes += bytes;
        self.idle.push_back(storage);
        while self.bytes > self.limit {
            let oldest = self.idle.pop_front();
            self.bytes -= oldest.map_or(0, |x| x.capacity_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage(len: usize) -> Storage {
        Storage::zeros(DType::F32, len).expect("a little memory")
    }

    fn pool(limit: usize) -> Pool {
        Pool { limit, ..Pool::default() }
    }

    #[test]
    fn capacity_is_at_most_an_eighth_more() {
        for len in [0, 1, 7, 8, 9, 15, 16, 17, 1_000, 1_025, 1_000_003] {
            let capacity = capacity_for(len);
            assert!((len..=len + len / 8).contains(&capacity), "{len}: {capacity}");
            assert_eq!(capacity_for(capacity), capacity);
        }
        assert_eq!(capacity_for(1_025), capacity_for(1_152));
        assert_eq!(capacity_for(usize::MAX), usize::MAX);
    }

    #[test]
    fn a_block_serves_slightly_different_lengths() {
        let mut pool = pool(1 << 20);
        pool.give_back(storage(1_030));
        assert!(pool.take(DType::Bf16, 1_030).is_none());
        assert!(pool.take(DType::F32, 900).is_none());
        assert!(pool.take(DType::F32, 1_200).is_none());
        for len in [1_100, 1_026, 1_152] {
            let block = pool.take(DType::F32, len).expect("the block fits");
            assert_eq!(block.len(), len);
            pool.give_back(block);
        }
        assert_eq!(pool.idle.len(), 1);
    }

    #[test]
    fn sizes_out_of_use_give_way_and_the_limit_holds() {
        let mut pool = pool(100_000);
        for len in (1_000..10_000).step_by(500) {
            pool.give_back(storage(len));
            assert!(pool.bytes <= pool.limit);
        }
        let dead = pool.idle.len();
        for len in [20_000, 20_100, 20_200] {
            pool.give_back(storage(len));
            assert!(pool.take(DType::F32, len).is_some(), "{len} is not reused");
        }
        assert!(pool.idle.len() < dead);
        pool.give_back(storage(30_000));
        assert!(pool.take(DType::F32, 30_000).is_none(), "larger than the limit");
        let bytes: usize = pool.idle.iter().map(Storage::capacity_bytes).sum();
        assert_eq!(pool.bytes, bytes);
    }

    #[test]
    fn the_block_unused_for_longest_goes_first() {
        let mut pool = pool(3 * 4_096);
        for len in [1_024, 512, 1_024] {
            pool.give_back(storage(len));
        }
        let used = pool.take(DType::F32, 512).expect("kept");
        pool.give_back(used);
        pool.give_back(storage(1_024));
        assert!(pool.take(DType::F32, 512).is_some());
    }
}
