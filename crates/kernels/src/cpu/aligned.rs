//! Elements that start at a cache line.

use std::ops::{Deref, DerefMut};

use bytemuck::Zeroable;
use bytemuck::allocation::try_zeroed_slice_box;

/// Bytes of a cache line, which is also a row of a matrix tile: a row that began elsewhere would be
/// read from two lines.
const LINE: usize = 64;

/// A vector of fixed capacity whose first element starts a cache line.
#[derive(Debug)]
pub(super) struct Aligned<T> {
    memory: Box<[T]>,
    first: usize,
    len: usize,
}

impl<T> Default for Aligned<T> {
    fn default() -> Self {
        Self { memory: Box::default(), first: 0, len: 0 }
    }
}

impl<T: Zeroable> Aligned<T> {
    /// Zeroed by the system, which touches no page before its first use; `None` without memory.
    pub(super) fn zeros(len: usize) -> Option<Self> {
        let spare = LINE / size_of::<T>() - 1;
        let memory = try_zeroed_slice_box::<T>(len.checked_add(spare)?).ok()?;
        let first = memory.as_ptr().align_offset(LINE).min(spare);
        Some(Self { memory, first, len })
    }

    pub(super) fn copy(data: &[T]) -> Option<Self>
    where
        T: Copy,
    {
        let mut copy = Self::zeros(data.len())?;
        copy.copy_from_slice(data);
        Some(copy)
    }
}

impl<T> Aligned<T> {
    pub(super) const fn capacity(&self) -> usize {
        self.memory.len().saturating_sub(LINE / size_of::<T>() - 1)
    }

    /// Changes the length within the capacity; what is new holds whatever was there before.
    pub(super) fn resize(&mut self, len: usize) {
        assert!(len <= self.capacity(), "longer than the capacity");
        self.len = len;
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.memory[self.first..self.first + self.len]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.memory[self.first..self.first + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_element_starts_a_line() {
        for len in [0, 1, 7, 64, 1_000] {
            let mut x = Aligned::<u16>::zeros(len).expect("a little memory");
            assert_eq!(x.as_ptr().align_offset(LINE), 0);
            assert_eq!((x.len(), x.capacity()), (len, len));
            x.fill(3);
            x.resize(len / 2);
            assert_eq!((x.len(), x.capacity()), (len / 2, len));
        }
        assert_eq!(Aligned::<f32>::default().capacity(), 0);
        assert!(Aligned::<f32>::zeros(usize::MAX).is_none());
    }
}
