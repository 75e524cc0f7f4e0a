//! Which bytes are live, by what they are for, and how much is multiplied.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::Error;
use crate::trace::{self, Span};

/// What a buffer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemoryKind {
    /// Frozen weights of the decoder layers.
    Weights,
    /// Absmax of quantised weights.
    QuantState,
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
    /// What the backward computes again or brings back, until its last reader is done.
    Recomputed,
    /// Gradients of activations.
    ActivationGradients,
    /// Lives within one operation: panels, logits, partial sums.
    Workspace,
    /// Token ids, labels, positions.
    Data,
    /// Keys and values of generated text.
    KvCache,
}

impl MemoryKind {
    /// Every kind, in report order.
    pub const ALL: [Self; 12] = [
        Self::Weights,
        Self::QuantState,
        Self::Embeddings,
        Self::Adapters,
        Self::Gradients,
        Self::Optimizer,
        Self::Activations,
        Self::Recomputed,
        Self::ActivationGradients,
        Self::Workspace,
        Self::Data,
        Self::KvCache,
    ];
}

/// Bytes by kind, in the order of [`MemoryKind::ALL`].
type ByKind = [usize; MemoryKind::ALL.len()];

/// Live and peak bytes of a backend, shared by all its buffers, and the work of its operations.
#[derive(Debug, Default)]
pub struct MemoryLedger(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    live: ByKind,
    total: usize,
    peak: usize,
    at_peak: ByKind,
    /// The operation that runs, or ran last.
    operation: &'static str,
    running: bool,
    reached_by: Reached,
    host: usize,
    host_peak: usize,
    by_layer: Vec<usize>,
    flops: Vec<(&'static str, u64)>,
}

/// Where a peak was reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reached {
    /// Before any operation.
    #[default]
    Before,
    /// By the workspace of an operation.
    Within(&'static str),
    /// By a buffer that was made when this operation had ended.
    After(&'static str),
}

impl std::fmt::Display for Reached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Before => f.write_str("before the first operation"),
            Self::Within(operation) => write!(f, "within {operation}"),
            Self::After(operation) => write!(f, "after {operation}"),
        }
    }
}

/// A reading of a [`MemoryLedger`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryUsage {
    /// Live bytes by kind.
    pub live: Vec<(MemoryKind, usize)>,
    /// Most bytes live at once.
    pub peak: usize,
    /// Bytes of the backend's memory up to the last that was ever in use: the peak and the gaps between buffers.
    pub extent: usize,
    /// Bytes by kind when that was so for the first time.
    pub at_peak: Vec<(MemoryKind, usize)>,
    /// What made them so many.
    pub reached: Reached,
    /// Most bytes that were put away in the host's memory at once.
    pub host_peak: usize,
    /// Most bytes that each layer of a forward pass left for the backward, its output among them.
    pub by_layer: Vec<usize>,
    /// Floating-point operations of products so far, by operation: two for each product of two numbers that
    /// the mathematics asks for, however the backend goes about it.
    pub flops: Vec<(&'static str, u64)>,
}

impl MemoryUsage {
    /// All floating-point operations.
    pub fn total_flops(&self) -> u64 {
        self.flops.iter().map(|(_, flops)| flops).sum()
    }
}

impl MemoryLedger {
    fn state(&self) -> MutexGuard<'_, State> {
        // Numbers are all that changes under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a buffer in.
    pub fn add(&self, kind: MemoryKind, bytes: usize) {
        let state = &mut *self.state();
        state.live[kind as usize] += bytes;
        state.total += bytes;
        if state.total > state.peak {
            (state.peak, state.at_peak) = (state.total, state.live);
            state.reached_by = match (state.operation, state.running) {
                ("", _) => Reached::Before,
                (operation, true) => Reached::Within(operation),
                (operation, false) => Reached::After(operation),
            };
        }
    }

    /// Counts bytes in that were put away in the host's memory.
    #[cfg(any(feature = "cuda", test))]
    pub(crate) fn add_host(&self, bytes: usize) {
        let mut state = self.state();
        state.host += bytes;
        state.host_peak = state.host_peak.max(state.host);
    }

    /// Counts them out.
    #[cfg(any(feature = "cuda", test))]
    pub(crate) fn remove_host(&self, bytes: usize) {
        self.state().host -= bytes;
    }

    /// Bytes of a kind that are live now.
    pub(crate) fn live(&self, kind: MemoryKind) -> usize {
        self.state().live[kind as usize]
    }

    /// Counts a buffer out.
    pub fn remove(&self, kind: MemoryKind, bytes: usize) {
        let mut state = self.state();
        state.live[kind as usize] -= bytes;
        state.total -= bytes;
    }

    /// Counts floating-point operations.
    pub(crate) fn count(&self, operation: &'static str, flops: u64) {
        if flops == 0 {
            return;
        }
        let mut state = self.state();
        match state.flops.iter_mut().find(|(name, _)| *name == operation) {
            Some((_, sum)) => *sum += flops,
            None => state.flops.push((operation, flops)),
        }
    }

    /// Begins an operation, which ends when what is returned is dropped.
    pub(crate) fn begin(&self, operation: &'static str) -> Operation<'_> {
        let mut state = self.state();
        (state.operation, state.running) = (operation, true);
        drop(state);
        Operation { ledger: self, _span: trace::span(|| operation) }
    }

    /// Begins a layer of a forward pass, which ends when what is returned is dropped.
    pub(crate) fn layer(&self, index: usize) -> LayerMemory<'_> {
        LayerMemory { ledger: self, index, before: self.live(MemoryKind::Activations) }
    }

    /// Forgets the peak and the work so far.
    pub fn reset_peak(&self) {
        let state = &mut *self.state();
        (state.peak, state.at_peak) = (state.total, state.live);
        (state.reached_by, state.operation) = (Reached::Before, "");
        state.host_peak = state.host;
        state.by_layer.clear();
        state.flops.clear();
    }

    /// The error for `bytes` bytes that cannot be had.
    pub(crate) fn out_of_memory(&self, kind: MemoryKind, bytes: usize) -> Error {
        Error::OutOfMemory { kind, bytes, held: self.usage(0).live }
    }

    /// What is live now, and the peak so far, in memory of this `extent`.
    pub fn usage(&self, extent: usize) -> MemoryUsage {
        let state = self.state();
        let named = |bytes: &ByKind| MemoryKind::ALL.into_iter().zip(*bytes).collect();
        MemoryUsage {
            live: named(&state.live),
            peak: state.peak,
            extent,
            at_peak: named(&state.at_peak),
            reached: state.reached_by,
            host_peak: state.host_peak,
            by_layer: state.by_layer.clone(),
            flops: state.flops.clone(),
        }
    }
}

/// An operation that runs: a span of a profile, and the name under which its workspace is counted.
#[must_use = "the operation ends at once"]
pub(crate) struct Operation<'a> {
    ledger: &'a MemoryLedger,
    _span: Span,
}

impl Drop for Operation<'_> {
    fn drop(&mut self) {
        self.ledger.state().running = false;
    }
}

/// A layer that runs.
#[derive(Debug)]
#[must_use = "the layer ends at once"]
pub struct LayerMemory<'a> {
    ledger: &'a MemoryLedger,
    index: usize,
    /// Bytes of activations when it began.
    before: usize,
}

impl Drop for LayerMemory<'_> {
    fn drop(&mut self) {
        let mut state = self.ledger.state();
        let left = state.live[MemoryKind::Activations as usize].saturating_sub(self.before);
        if state.by_layer.len() <= self.index {
            state.by_layer.resize(self.index + 1, 0);
        }
        let most = &mut state.by_layer[self.index];
        *most = left.max(*most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_is_the_most_live_at_once() {
        let ledger = MemoryLedger::default();
        ledger.add(MemoryKind::Weights, 100);
        assert_eq!(ledger.usage(0).reached, Reached::Before);
        let operation = ledger.begin("linear");
        ledger.add(MemoryKind::Workspace, 50);
        ledger.remove(MemoryKind::Workspace, 50);
        drop(operation);
        ledger.add(MemoryKind::Activations, 20);
        let usage = ledger.usage(0);
        assert_eq!((usage.peak, usage.reached), (150, Reached::Within("linear")));
        assert!(usage.live.contains(&(MemoryKind::Weights, 100)));
        assert!(usage.live.contains(&(MemoryKind::Workspace, 0)));
        assert!(usage.live.contains(&(MemoryKind::Activations, 20)));
        assert!(usage.at_peak.contains(&(MemoryKind::Workspace, 50)));
        assert!(usage.at_peak.contains(&(MemoryKind::Activations, 0)));
        ledger.add(MemoryKind::Activations, 40);
        assert_eq!(ledger.usage(0).reached, Reached::After("linear"));
        ledger.remove(MemoryKind::Activations, 60);
        ledger.reset_peak();
        assert_eq!((ledger.usage(0).peak, ledger.usage(0).reached), (100, Reached::Before));
    }

    #[test]
    fn what_is_put_away_is_counted_apart() {
        let ledger = MemoryLedger::default();
        ledger.add_host(30);
        ledger.add_host(20);
        ledger.remove_host(30);
        assert_eq!((ledger.usage(0).host_peak, ledger.usage(0).peak), (50, 0));
        ledger.reset_peak();
        assert_eq!(ledger.usage(0).host_peak, 20);
    }

    #[test]
    fn what_layers_leave_is_counted_by_layer() {
        let ledger = MemoryLedger::default();
        for kept in [[30, 0], [20, 50]] {
            for (index, bytes) in kept.into_iter().enumerate() {
                let layer = ledger.layer(index);
                ledger.add(MemoryKind::Activations, bytes + 5);
                ledger.remove(MemoryKind::Activations, 5);
                drop(layer);
            }
        }
        assert_eq!(ledger.usage(0).by_layer, [30, 50]);
        ledger.reset_peak();
        assert!(ledger.usage(0).by_layer.is_empty());
    }

    #[test]
    fn work_is_counted_by_operation() {
        let ledger = MemoryLedger::default();
        for (operation, flops) in [("linear", 3), ("attention", 5), ("linear", 4), ("add", 0)] {
            ledger.count(operation, flops);
        }
        assert_eq!(ledger.usage(0).flops, [("linear", 7), ("attention", 5)]);
        assert_eq!(ledger.usage(0).total_flops(), 12);
    }
}
