//! Host memory: typed vectors that return to a pool when dropped.

use std::sync::{Arc, Mutex, PoisonError};

use half::bf16;

use super::aligned::Aligned;
use super::pool::{Pool, capacity_for};
use crate::{Buffer, DType, Error, HostSlice, MemoryKind, MemoryLedger, Result};

/// Elements of a buffer, by type.
#[derive(Debug)]
pub(super) enum Storage {
    F32(Aligned<f32>),
    Bf16(Aligned<bf16>),
    U32(Aligned<u32>),
    U8(Aligned<u8>),
}

impl Storage {
    /// Zeros, with the capacity that the pool asks for; `None` without memory for them.
    pub(super) fn zeros(dtype: DType, len: usize) -> Option<Self> {
        let capacity = capacity_for(len);
        let mut storage = match dtype {
            DType::F32 => Self::F32(Aligned::zeros(capacity)?),
            DType::Bf16 => Self::Bf16(Aligned::zeros(capacity)?),
            DType::U32 => Self::U32(Aligned::zeros(capacity)?),
            DType::U8 => Self::U8(Aligned::zeros(capacity)?),
        };
        storage.resize(len);
        Some(storage)
    }

    fn copy(data: HostSlice<'_>) -> Option<Self> {
        Some(match data {
            HostSlice::F32(x) => Self::F32(Aligned::copy(x)?),
            HostSlice::Bf16(x) => Self::Bf16(Aligned::copy(x)?),
            HostSlice::U32(x) => Self::U32(Aligned::copy(x)?),
            HostSlice::U8(x) => Self::U8(Aligned::copy(x)?),
        })
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

    pub(super) const fn capacity(&self) -> usize {
        match self {
            Self::F32(x) => x.capacity(),
            Self::Bf16(x) => x.capacity(),
            Self::U32(x) => x.capacity(),
            Self::U8(x) => x.capacity(),
        }
    }

    pub(super) const fn capacity_bytes(&self) -> usize {
        self.capacity() * self.dtype().size()
    }

    /// Changes the length within the capacity; what is new is unspecified.
    pub(super) fn resize(&mut self, len: usize) {
        match self {
            Self::F32(x) => x.resize(len),
            Self::Bf16(x) => x.resize(len),
            Self::U32(x) => x.resize(len),
            Self::U8(x) => x.resize(len),
        }
    }

    pub(super) fn fill_zero(&mut self) {
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
    pool: Mutex<Pool>,
}

impl Shared {
    fn take(&self, dtype: DType, len: usize) -> Option<Storage> {
        self.with_pool(|pool| pool.take(dtype, len))
    }

    fn with_pool<T>(&self, f: impl FnOnce(&mut Pool) -> T) -> T {
        // The pool only caches: what a panic left of it is good enough.
        f(&mut self.pool.lock().unwrap_or_else(PoisonError::into_inner))
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
        let storage = shared.take(dtype, len).or_else(|| Storage::zeros(dtype, len));
        let storage = storage.ok_or_else(|| out_of_memory(shared, dtype, len, kind))?;
        Ok(Self::new(shared, storage, kind))
    }

    pub(super) fn zeros(
        shared: &Arc<Shared>,
        dtype: DType,
        len: usize,
        kind: MemoryKind,
    ) -> Result<Self> {
        let pooled = shared.take(dtype, len).map(|mut pooled| {
            pooled.fill_zero();
            pooled
        });
        let storage = pooled.or_else(|| Storage::zeros(dtype, len));
        let storage = storage.ok_or_else(|| out_of_memory(shared, dtype, len, kind))?;
        Ok(Self::new(shared, storage, kind))
    }

    pub(super) fn upload(
        shared: &Arc<Shared>,
        data: HostSlice<'_>,
        kind: MemoryKind,
    ) -> Result<Self> {
        let storage = Storage::copy(data);
        let storage =
            storage.ok_or_else(|| out_of_memory(shared, data.dtype(), data.len(), kind))?;
        Ok(Self::new(shared, storage, kind))
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

fn out_of_memory(shared: &Shared, dtype: DType, len: usize, kind: MemoryKind) -> Error {
    shared.ledger.out_of_memory(kind, len.saturating_mul(dtype.size()))
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
        let storage = std::mem::replace(&mut self.storage, Storage::U32(Aligned::default()));
        self.shared.with_pool(|pool| pool.give_back(storage));
    }
}
