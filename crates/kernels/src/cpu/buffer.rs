//! Host memory: typed ranges that return to a heap when dropped.

use std::sync::{Arc, Mutex, PoisonError};

use half::bf16;

use super::heap::{Heap, Span};
use super::level::CpuLevel;
use crate::{Buffer, DType, HostSlice, MemoryKind, MemoryLedger, MemoryUsage, Result};

/// Elements of a buffer, by type.
#[derive(Debug)]
pub(super) enum Storage {
    F32(Span<f32>),
    Bf16(Span<bf16>),
    U32(Span<u32>),
    U8(Span<u8>),
}

impl Storage {
    /// Unspecified content; `None` without memory.
    fn take(heap: &mut Heap, dtype: DType, len: usize) -> Option<Self> {
        Some(match dtype {
            DType::F32 => Self::F32(heap.take(len)?),
            DType::Bf16 => Self::Bf16(heap.take(len)?),
            DType::U32 => Self::U32(heap.take(len)?),
            DType::U8 => Self::U8(heap.take(len)?),
        })
    }

    fn give(self, heap: &mut Heap) {
        match self {
            Self::F32(x) => heap.give(x),
            Self::Bf16(x) => heap.give(x),
            Self::U32(x) => heap.give(x),
            Self::U8(x) => heap.give(x),
        }
    }

    fn copy_from(&mut self, data: HostSlice<'_>) {
        match (self, data) {
            (Self::F32(x), HostSlice::F32(data)) => x.copy_from_slice(data),
            (Self::Bf16(x), HostSlice::Bf16(data)) => x.copy_from_slice(data),
            (Self::U32(x), HostSlice::U32(data)) => x.copy_from_slice(data),
            (Self::U8(x), HostSlice::U8(data)) => x.copy_from_slice(data),
            _ => unreachable!("taken in the data's type"),
        }
    }

    pub(super) const fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::Bf16(_) => DType::Bf16,
            Self::U32(_) => DType::U32,
            Self::U8(_) => DType::U8,
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::F32(x) => x.len(),
            Self::Bf16(x) => x.len(),
            Self::U32(x) => x.len(),
            Self::U8(x) => x.len(),
        }
    }

    fn bytes(&self) -> usize {
        self.len() * self.dtype().size()
    }

    fn fill_zero(&mut self) {
        match self {
            Self::F32(x) => x.fill(0.0),
            Self::Bf16(x) => x.fill(bf16::ZERO),
            Self::U32(x) => x.fill(0),
            Self::U8(x) => x.fill(0),
        }
    }
}

/// What all clones of a backend and all its buffers share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) ledger: MemoryLedger,
    heap: Mutex<Heap>,
    /// Nothing is computed, and memory is not touched but for ids and bounds.
    pub(super) dry_run: bool,
}

impl Shared {
    pub(super) fn dry_run() -> Self {
        Self { dry_run: true, heap: Mutex::new(Heap::untouched()), ..Self::default() }
    }

    pub(super) fn usage(&self) -> MemoryUsage {
        // Scales of weights are not in the heap.
        let outside = self.ledger.live(MemoryKind::QuantState);
        self.ledger.usage(outside + self.with_heap(|heap| heap.extent()))
    }

    pub(super) fn reset_peak(&self) {
        self.ledger.reset_peak();
        self.with_heap(Heap::reset_extent);
    }

    pub(super) fn reserve(&self, bytes: usize) -> Result<()> {
        let reserved = self.with_heap(|heap| heap.reserve(bytes));
        reserved.ok_or_else(|| self.ledger.out_of_memory(MemoryKind::Workspace, bytes))
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.with_heap(|heap| heap.give_back(bytes));
    }

    fn with_heap<T>(&self, f: impl FnOnce(&mut Heap) -> T) -> T {
        // A panic in it is a defect that leaves a range unused at worst.
        f(&mut self.heap.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Host memory of the [`Cpu`](super::Cpu) backend.
#[derive(Debug)]
pub struct CpuBuffer {
    storage: Storage,
    kind: MemoryKind,
    shared: Arc<Shared>,
}

impl CpuBuffer {
    fn new(shared: &Arc<Shared>, storage: Storage, kind: MemoryKind) -> Self {
        shared.ledger.add(kind, storage.bytes());
        Self { storage, kind, shared: Arc::clone(shared) }
    }

    /// Unspecified content.
    pub(super) fn alloc(
        shared: &Arc<Shared>,
        dtype: DType,
        len: usize,
        kind: MemoryKind,
    ) -> Result<Self> {
        CpuLevel::of_process()?;
        let storage = shared.with_heap(|heap| Storage::take(heap, dtype, len));
        let storage = storage
            .ok_or_else(|| shared.ledger.out_of_memory(kind, len.saturating_mul(dtype.size())))?;
        Ok(Self::new(shared, storage, kind))
    }

    pub(super) fn zeros(
        shared: &Arc<Shared>,
        dtype: DType,
        len: usize,
        kind: MemoryKind,
    ) -> Result<Self> {
        let mut buffer = Self::alloc(shared, dtype, len, kind)?;
        if !shared.dry_run {
            buffer.storage.fill_zero();
        }
        Ok(buffer)
    }

    pub(super) fn upload(
        shared: &Arc<Shared>,
        data: HostSlice<'_>,
        kind: MemoryKind,
    ) -> Result<Self> {
        let mut buffer = Self::alloc(shared, data.dtype(), data.len(), kind)?;
        // Operations read ids and bounds before they begin.
        if !shared.dry_run || data.dtype() == DType::U32 {
            buffer.storage.copy_from(data);
        }
        Ok(buffer)
    }

    pub(super) const fn storage(&self) -> &Storage {
        &self.storage
    }

    pub(super) const fn storage_mut(&mut self) -> &mut Storage {
        &mut self.storage
    }

    /// The elements, if they are f32.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.storage {
            Storage::F32(x) => Some(x),
            _ => None,
        }
    }

    /// The elements, if they are bf16.
    pub fn as_bf16(&self) -> Option<&[bf16]> {
        match &self.storage {
            Storage::Bf16(x) => Some(x),
            _ => None,
        }
    }

    /// The elements, if they are u32.
    pub fn as_u32(&self) -> Option<&[u32]> {
        match &self.storage {
            Storage::U32(x) => Some(x),
            _ => None,
        }
    }

    /// The elements, if they are u8.
    pub fn as_u8(&self) -> Option<&[u8]> {
        match &self.storage {
            Storage::U8(x) => Some(x),
            _ => None,
        }
    }
}

impl Buffer for CpuBuffer {
    fn dtype(&self) -> DType {
        self.storage.dtype()
    }

    fn len(&self) -> usize {
        self.storage.len()
    }
}

impl Drop for CpuBuffer {
    fn drop(&mut self) {
        self.shared.ledger.remove(self.kind, self.storage.bytes());
        let storage = std::mem::replace(&mut self.storage, Storage::U8(Span::default()));
        self.shared.with_heap(|heap| storage.give(heap));
    }
}
