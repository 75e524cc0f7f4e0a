//! Host memory: typed vectors that return to a pool when dropped.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use half::bf16;

use crate::{Buffer, DType, MemoryKind, MemoryLedger};

/// Idle bytes that the pool keeps: a step frees and asks for the same sizes again, and the first
/// touch of fresh pages costs more than the arithmetic on them.
const POOL_BYTES: usize = 1 << 30;

/// Elements of a buffer, by type.
#[derive(Debug)]
pub(super) enum Storage {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    U32(Vec<u32>),
}

impl Storage {
    fn zeros(dtype: DType, len: usize) -> Self {
        match dtype {
            DType::F32 => Self::F32(vec![0.0; len]),
            DType::Bf16 => Self::Bf16(vec![bf16::ZERO; len]),
            DType::U32 => Self::U32(vec![0; len]),
        }
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

#[derive(Debug, Default)]
struct Pool {
    free: HashMap<(DType, usize), Vec<Storage>>,
    bytes: usize,
}

impl Shared {
    fn pool(&self) -> MutexGuard<'_, Pool> {
        // The pool is whole after every statement, so a panic elsewhere leaves nothing half done.
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, dtype: DType, len: usize) -> Option<Storage> {
        let mut pool = self.pool();
        let storage = pool.free.get_mut(&(dtype, len))?.pop()?;
        pool.bytes -= storage.bytes();
        Some(storage)
    }

    fn give_back(&self, storage: Storage) {
        let bytes = storage.bytes();
        let mut pool = self.pool();
        if bytes == 0 || pool.bytes + bytes > POOL_BYTES {
            return;
        }
        pool.bytes += bytes;
        let key = (storage.dtype(), storage.len());
        pool.free.entry(key).or_default().push(storage);
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
        self.shared.give_back(storage);
    }
}
