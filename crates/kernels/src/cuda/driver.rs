//! What submits the operations' work: a card, or nothing at all.

use std::sync::atomic::{AtomicU64, Ordering};

use bytemuck::{AnyBitPattern, NoUninit};

use super::card::blas::{Operands, Shape};
use super::card::{self, Card};
use super::params::Kernel;
use crate::Result;

pub use super::card::DeviceInfo;

/// A card, or one that only has properties: there, memory is addresses without end, and work is left undone.
#[derive(Debug)]
pub(super) struct Driver {
    card: Option<Card>,
    /// Of a card that is not there.
    imagined: DeviceInfo,
    /// Where the next allocation on it begins.
    next: AtomicU64,
}

/// A point in the stream that kernels run in; `None` in a dry run.
#[derive(Debug)]
pub(super) struct Mark(Option<card::Mark>);

impl Driver {
    pub(super) fn new(ordinal: usize) -> Result<Self> {
        let card = Card::new(ordinal)?;
        Ok(Self { imagined: card.info()?, card: Some(card), next: AtomicU64::default() })
    }

    /// A card like `imagined` that is not there.
    pub(super) const fn dry_run(imagined: DeviceInfo) -> Self {
        // Aligned to more than any kernel asks for, and not null.
        Self { card: None, imagined, next: AtomicU64::new(1 << 40) }
    }

    pub(super) const fn is_dry_run(&self) -> bool {
        self.card.is_none()
    }

    pub(super) const fn multiprocessors(&self) -> usize {
        self.imagined.multiprocessors
    }

    /// What is known of the device without asking it.
    pub(super) fn imagined(&self) -> DeviceInfo {
        self.imagined.clone()
    }

    pub(super) fn info(&self) -> Result<DeviceInfo> {
        match &self.card {
            Some(card) => card.info(),
            None => Ok(self.imagined.clone()),
        }
    }

    /// Runs what is submitted from here on as graphs, or no longer.
    pub(super) fn capture(&self, on: bool) -> Result<()> {
        self.card.as_ref().map_or(Ok(()), |card| card.capture(on))
    }

    /// An allocation of `bytes` > 0 bytes; `None` when the device has no room for it.
    pub(super) fn allocate(&self, bytes: usize) -> Result<Option<u64>> {
        match &self.card {
            Some(card) => card.allocate(bytes),
            None => Ok(Some(self.next.fetch_add(bytes as u64, Ordering::Relaxed))),
        }
    }

    /// Gives an allocation back, after all work on it.
    pub(super) fn free(&self, address: u64) {
        if let Some(card) = &self.card {
            card.free(address);
        }
    }

    pub(super) fn zero(&self, address: u64, bytes: usize) -> Result<()> {
        self.card.as_ref().map_or(Ok(()), |card| card.zero(address, bytes))
    }

    /// The point that the work submitted so far reaches.
    pub(super) fn mark(&self) -> Result<Mark> {
        Ok(Mark(self.card.as_ref().map(Card::mark).transpose()?))
    }

    /// Copies `data` to memory that nothing uses from `free` on. What is submitted later finds it there.
    pub(super) fn copy_in_after<T: NoUninit>(
        &self,
        free: &Mark,
        address: u64,
        data: &[T],
    ) -> Result<()> {
        match (&self.card, &free.0) {
            (Some(card), Some(free)) => card.copy_in_after(free, address, data),
            _ => Ok(()),
        }
    }

    /// The same, to memory that work submitted before may use.
    pub(super) fn copy_in<T: NoUninit>(&self, address: u64, data: &[T]) -> Result<()> {
        self.card.as_ref().map_or(Ok(()), |card| card.copy_in(address, data))
    }

    /// Waits for what was submitted before. In a dry run `out` stays as it is.
    pub(super) fn copy_out<T: AnyBitPattern + NoUninit>(
        &self,
        address: u64,
        out: &mut [T],
    ) -> Result<()> {
        self.card.as_ref().map_or(Ok(()), |card| card.copy_out(address, out))
    }

    pub(super) fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        self.card.as_ref().map_or(Ok(()), |card| card.copy(from, to, bytes))
    }

    pub(super) fn synchronize(&self, what: &str) -> Result<()> {
        self.card.as_ref().map_or(Ok(()), |card| card.synchronize(what))
    }

    /// Launches `kernel` on `grid` blocks of `threads` threads with `shared` bytes of dynamic shared
    /// memory. An empty grid is nothing to do.
    pub(super) fn launch<P>(
        &self,
        kernel: &Kernel<P>,
        params: &P,
        grid: [usize; 3],
        threads: u32,
        shared: usize,
    ) -> Result<()> {
        let Some(card) = &self.card else { return Ok(()) };
        card.launch(kernel, params, grid, threads, shared)
    }

    /// A product by cuBLASLt.
    pub(super) fn multiply(
        &self,
        shape: Shape,
        operands: Operands,
        accumulate: bool,
    ) -> Result<()> {
        let Some(card) = &self.card else { return Ok(()) };
        card.multiply(shape, operands, accumulate)
    }
}
