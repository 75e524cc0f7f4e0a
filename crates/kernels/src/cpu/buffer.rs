//! Host memory: typed vectors that return to a pool when dropped.

use std::sync::{Arc, Mutex, PoisonError};

use half::bf16;

use super::pool::{Pool, capacity_for};
use crate::{Buffer, DType, MemoryKind, MemoryLedger};

/// Elements of a buffer, by type.
#[derive(Debug)]
pub(super) enum Storage {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    U32(Vec<u32>),
}

impl Storage {
    /// Zeros, with the capacity that the pool asks for.
    pub(super) fn zeros(dtype: DType, len: usize) -> Self {
        let capacity = capacity_for(len);
        let mut storage = match dtype {
            DType::F32 => Self::F32(vec![0.0; capacity]),
            DType::Bf16 => Self::Bf16(vec![bf16::ZERO; capacity]),
            DType::U32 => Self::U32(vec![0; capacity]),
        };
        storage.resize(len);
        storage
    }

    pub(super) const fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::Bf16(_) => DType::Bf16,
            Self::U32(_) => DType::U32,
        }
    }

    pub(super) const fn len(&self) -> usize {
        match self {
            Self::F32(x) => x.len(),
            Self::Bf16(x) => x.len(),
            Self::U32(x) => x.len(),
        }
    }

    const fn bytes(&self) -> usize {
        self.len() * self.dtype().size()
    }

    pub(super) const fn capacity(&self) -> usize {
        match self {
            Self::F32(x) => x.capacity(),
            Self::Bf16(x) => x.capacity(),
            Self::U32(x) => x.capacity(),
        }
    }

    pub(super) const fn capacity_bytes(&self) -> usize {
        self.capacity() * self.dtype().size()
    }

    /// Changes the length within the capacity; what is new is zero.
    pub(super) fn resize(&mut self, len: usize) {
        match self {
            Self::F32(x) => x.resize(len, 0.0),
            Self::Bf16(x) => x.resize(len, bf16::ZERO),
            Self::U32(x) => x.resize(len, 0),
        }
    }

    pub(super) fn fill_zero(&mut self) {
        match self {
            Self::F32(x) => x.fill(0.0),
            Self::Bf16(x) => x.fill(bf16::ZERO),
            Self::U32(x) => x.fill(0),
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
    pub(super) fn new(shared: &Arc<Shared>, storage: Storage, kind: MemoryKind) -> Self {
        shared.ledger.add(kind, storage.bytes());
        Self { storage, kind, shared: Arc::clone(shared) }
    }

    /// Unspecified content.
    pub(super) fn alloc(shared: &Arc<Shared>, dtype: DType, len: usize, kind: MemoryKind) -> Self {
        let storage = shared.take(dtype, len).unwrap_or_else(|| Storage::zeros(dtype, len));
        Self::new(shared, storage, kind)
    }

    pub(super) fn zeros(shared: &Arc<Shared>, dtype: DType, len: usize, kind: MemoryKind) -> Self {
        let storage = shared.take(dtype, len).map_or_else(
            || Storage::zeros(dtype, len),
            |mut pooled| {
                pooled.fill_zero();
                pooled
            },
        );
        Self::new(shared, storage, kind)
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
        let storage = std::mem::replace(&mut self.storage, Storage::U32(Vec::new()));
        self.shared.with_pool(|pool| pool.give_back(storage));
    }
}
