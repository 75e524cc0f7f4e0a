//! Bytes that several host threads touch at once, because the emulated threads do.
#![allow(unsafe_code)]

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    ptr::NonNull,
    sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed},
};

/// Zero-initialised bytes, 256-byte aligned, read and written only through relaxed atomics: an
/// emulated program may race, the host program must not. Widths may be mixed on one address, which
/// the supported processors allow for aligned accesses.
#[derive(Debug)]
pub(crate) struct Bytes {
    pointer: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory is owned, and every access to it goes through an atomic.
unsafe impl Send for Bytes {}
// SAFETY: as above.
unsafe impl Sync for Bytes {}

macro_rules! view {
    ($name:ident, $several:ident, $atomic:ty) => {
        /// The atomic at byte `offset`, which must be aligned and inside.
        #[inline(always)]
        pub(crate) fn $name(&self, offset: usize) -> &$atomic {
            &self.$several::<1>(offset)[0]
        }

        /// `N` atomics from byte `offset`, which must be aligned; all must lie inside.
        #[inline(always)]
        pub(crate) fn $several<const N: usize>(&self, offset: usize) -> &[$atomic; N] {
            const SIZE: usize = size_of::<$atomic>();
            let end = offset.checked_add(N * SIZE);
            assert!(offset.is_multiple_of(SIZE) && end.is_some_and(|end| end <= self.len));
            // SAFETY: inside the allocation and aligned by the assertion and the allocation's own
            // alignment; `self` keeps it alive; all accesses are atomic.
            unsafe { &*self.pointer.as_ptr().add(offset).cast::<[$atomic; N]>() }
        }
    };
}

macro_rules! run {
    ($name:ident, $atomic:ty) => {
        /// `count` atomics from byte `offset`, which must be aligned; all must lie inside.
        #[inline(always)]
        pub(crate) fn $name(&self, offset: usize, count: usize) -> &[$atomic] {
            const SIZE: usize = size_of::<$atomic>();
            let end = count.checked_mul(SIZE).and_then(|bytes| offset.checked_add(bytes));
            assert!(offset.is_multiple_of(SIZE) && end.is_some_and(|end| end <= self.len));
            // SAFETY: inside the allocation and aligned by the assertion and the allocation's own
            // alignment; `self` keeps it alive; all accesses are atomic.
            unsafe { std::slice::from_raw_parts(self.pointer.as_ptr().add(offset).cast(), count) }
        }
    };
}

impl Bytes {
    /// `len` zero bytes; `None` when the host has no memory for them. The pages of a large
    /// allocation cost nothing until they are touched.
    pub(crate) fn zeroed(len: usize) -> Option<Self> {
        let layout = Self::layout(len)?;
        // SAFETY: the layout has a size above zero.
        let pointer = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Self { pointer, len })
    }

    /// As [`Self::zeroed`]; out of host memory ends the process as any allocation does.
    pub(crate) fn zeroed_or_abort(len: usize) -> Self {
        Self::zeroed(len).unwrap_or_else(|| {
            handle_alloc_error(
                Layout::from_size_align(len.max(1), 1).unwrap_or(Layout::new::<u8>()),
            )
        })
    }

    fn layout(len: usize) -> Option<Layout> {
        Layout::from_size_align(len.checked_next_multiple_of(8)?.max(8), 256).ok()
    }

    /// Size in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Where the host finds the bytes.
    pub(crate) fn address(&self) -> u64 {
        self.pointer.as_ptr() as u64
    }

    view!(u8, u8s, AtomicU8);
    view!(u16, u16s, AtomicU16);
    view!(u32, u32s, AtomicU32);
    view!(u64, u64s, AtomicU64);

    run!(u32_run, AtomicU32);
    run!(u64_run, AtomicU64);

    /// Copies `out.len()` bytes from `offset`.
    pub(crate) fn read(&self, offset: usize, out: &mut [u8]) {
        let (mut at, mut rest) = (offset, out);
        while !rest.is_empty() {
            if at.is_multiple_of(8) && rest.len() >= 8 {
                let (head, tail) = rest.split_at_mut(8);
                head.copy_from_slice(&self.u64(at).load(Relaxed).to_le_bytes());
                (at, rest) = (at + 8, tail);
            } else {
                let (head, tail) = rest.split_at_mut(1);
                head[0] = self.u8(at).load(Relaxed);
                (at, rest) = (at + 1, tail);
            }
        }
    }

    /// Copies `bytes` to `offset`.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            if at.is_multiple_of(8) && rest.len() >= 8 {
                let (head, tail) = rest.split_at(8);
                let word = u64::from_le_bytes(head.try_into().expect("eight bytes"));
                self.u64(at).store(word, Relaxed);
                (at, rest) = (at + 8, tail);
            } else {
                self.u8(at).store(rest[0], Relaxed);
                (at, rest) = (at + 1, &rest[1..]);
            }
        }
    }
}

/// A value that fits one aligned access.
pub(crate) trait Word: Copy {
    fn load(data: &Bytes, offset: usize) -> Self;
    fn store(self, data: &Bytes, offset: usize);
}

macro_rules! word {
    ($($name:ident),*) => {
        $(impl Word for $name {
            #[inline(always)]
            fn load(data: &Bytes, offset: usize) -> Self {
                data.$name(offset).load(Relaxed)
            }

            #[inline(always)]
            fn store(self, data: &Bytes, offset: usize) {
                data.$name(offset).store(self, Relaxed);
            }
        })*
    };
}

word!(u8, u16, u32, u64);

impl Drop for Bytes {
    fn drop(&mut self) {
        if let Some(layout) = Self::layout(self.len) {
            // SAFETY: allocated with this layout in `zeroed`, which is the only constructor.
            unsafe { dealloc(self.pointer.as_ptr(), layout) }
        }
    }
}
