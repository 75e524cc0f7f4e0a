//! Which bytes are live, by what they are for.

use crate::Error;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What a buffer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemoryKind {
    /// Frozen weights of the decoder layers.
    Weights,
    /// Embedding and output head.
    Embeddings,
    /// Adapter weights.
    Adapters,
    /// Adapter gradients.
    Gradients,
    /// Optimizer state.
    Optimizer,
    /// Kept between forward and backward.
    Activations,
    /// Lives within one operation or one layer.
    Scratch,
    /// Token ids, labels, positions.
    Data,
    /// Keys and values of generated text.
    KvCache,
}

impl MemoryKind {
    /// Every kind, in report order.
    pub const ALL: [Self; 9] = [
        Self::Weights,
        Self::Embeddings,
        Self::Adapters,
        Self::Gradients,
        Self::Optimizer,
        Self::Activations,
        Self::Scratch,
        Self::Data,
        Self::KvCache,
    ];
}

/// Live and peak bytes of a backend, shared by all its buffers.
#[derive(Debug, Default)]
pub struct MemoryLedger {
    live: [AtomicUsize; MemoryKind::ALL.len()],
    total: AtomicUsize,
    peak: AtomicUsize,
}

/// A reading of a [`MemoryLedger`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryUsage {
    /// Live bytes by kind.
    pub live: Vec<(MemoryKind, usize)>,
    /// Most bytes live at once.
    pub peak: usize,
}

impl MemoryLedger {
    /// Counts a buffer in.
    pub fn add(&self, kind: MemoryKind, bytes: usize) {
        self.live[kind as usize].fetch_add(bytes, Relaxed);
        let total = self.total.fetch_add(bytes, Relaxed) + bytes;
        self.peak.fetch_max(total, Relaxed);
    }

    /// Counts a buffer out.
    pub fn remove(&self, kind: MemoryKind, bytes: usize) {
        self.live[kind as usize].fetch_sub(bytes, Relaxed);
        self.total.fetch_sub(bytes, Relaxed);
    }

    /// The error for `bytes` bytes that cannot be had.
    pub(crate) fn out_of_memory(&self, kind: MemoryKind, bytes: usize) -> Error {
        Error::OutOfMemory { kind, bytes, held: self.usage().live }
    }

    /// What is live now, and the peak so far.
    pub fn usage(&self) -> MemoryUsage {
        MemoryUsage {
            live: MemoryKind::ALL
                .iter()
                .map(|&kind| (kind, self.live[kind as usize].load(Relaxed)))
                .collect(),
            peak: self.peak.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_is_the_most_live_at_once() {
        let ledger = MemoryLedger::default();
        ledger.add(MemoryKind::Weights, 100);
        ledger.add(MemoryKind::Scratch, 50);
        ledger.remove(MemoryKind::Scratch, 50);
        ledger.add(MemoryKind::Activations, 20);
        let usage = ledger.usage();
        assert_eq!(usage.peak, 150);
        assert!(usage.live.contains(&(MemoryKind::Weights, 100)));
        assert!(usage.live.contains(&(MemoryKind::Scratch, 0)));
        assert!(usage.live.contains(&(MemoryKind::Activations, 20)));
    }
}
