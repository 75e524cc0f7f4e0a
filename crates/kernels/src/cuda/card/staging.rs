//! Large copies to the device, by way of two pinned buffers and a stream of their own: while the card fetches one
//! buffer the host fills the other, which for a mapped file means reading it, and kernels run beside both.

use std::sync::{Arc, MutexGuard, PoisonError};

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, result, sys};

use super::{Card, device};
use crate::Result;

/// Bytes of a buffer: some hundred microseconds of the fastest bus, so that a copy costs little beside it.
const HALF: usize = 4 << 20;
/// Shorter copies are left to the driver.
const LEAST: usize = 1 << 20;

/// A point in the stream that kernels run in.
#[derive(Debug)]
pub(in crate::cuda) struct Mark(CudaEvent);

/// The stream and buffers of large copies.
#[derive(Debug)]
pub(super) struct Staging {
    stream: Arc<CudaStream>,
    halves: [Half; 2],
    /// The one to fill next.
    next: usize,
}

/// A pinned buffer of [`HALF`] bytes.
#[derive(Debug)]
struct Half {
    address: *mut u8,
    /// The card has fetched what was put there last.
    fetched: CudaEvent,
}

// SAFETY: pinned memory belongs to no thread; the lock around `Staging` keeps it to one at a time.
unsafe impl Send for Half {}

impl Card {
    /// The point that the work submitted so far reaches.
    pub(in crate::cuda) fn mark(&self) -> Result<Mark> {
        self.settle()?;
        let mark = || {
            let event = self.context.new_event(None)?;
            event.record(&self.stream)?;
            Ok(Mark(event))
        };
        mark().map_err(|e| device("marking a point in the stream", e))
    }

    /// Copies `data` to memory that nothing uses from `free` on. What is submitted later finds it there.
    pub(in crate::cuda) fn copy_in_after<T: bytemuck::NoUninit>(
        &self,
        free: &Mark,
        address: u64,
        data: &[T],
    ) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        if bytes.len() < LEAST {
            return self.copy_in_order(address, data);
        }
        self.settle()?;
        let copy = || {
            let mut staging = self.staging();
            let staging = match &mut *staging {
                Some(staging) => staging,
                none => none.insert(Staging::new(&self.context)?),
            };
            staging.copy_in(&self.stream, free, address, bytes)
        };
        copy().map_err(|e| device("copying to the device", e))
    }

    /// The same, to memory that work submitted before may use.
    pub(in crate::cuda) fn copy_in<T: bytemuck::NoUninit>(
        &self,
        address: u64,
        data: &[T],
    ) -> Result<()> {
        if size_of_val(data) < LEAST {
            return self.copy_in_order(address, data);
        }
        self.copy_in_after(&self.mark()?, address, data)
    }

    fn staging(&self) -> MutexGuard<'_, Option<Staging>> {
        self.staging.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Staging {
    fn new(context: &Arc<CudaContext>) -> Result<Self, DriverError> {
        let halves = [Half::new(context)?, Half::new(context)?];
        Ok(Self { stream: context.new_stream()?, halves, next: 0 })
    }

    /// Copies `bytes` to the device between `free` and what `kernels` is given next.
    fn copy_in(
        &mut self,
        kernels: &CudaStream,
        free: &Mark,
        address: u64,
        bytes: &[u8],
    ) -> Result<(), DriverError> {
        self.stream.wait(&free.0)?;
        let mut pieces = (address..).step_by(HALF).zip(bytes.chunks(HALF));
        let copied = pieces.try_for_each(|(at, piece)| self.copy_piece(at, piece));
        // Where a piece failed too, so that nobody uses the memory while the pieces before are copied.
        kernels.wait(&self.halves[1 - self.next].fetched)?;
        copied
    }

    fn copy_piece(&mut self, address: u64, piece: &[u8]) -> Result<(), DriverError> {
        let half = &mut self.halves[self.next];
        let filled = half.fill(piece)?;
        // SAFETY: the range lies in a live allocation, see the parent's documentation; the buffer is not
        // written to again before `fetched`, and not freed before the stream has come to its end.
        unsafe { result::memcpy_htod_async(address, filled, self.stream.cu_stream()) }?;
        half.fetched.record(&self.stream)?;
        self.next = 1 - self.next;
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Errors have been reported to whoever asked for the copy.
        let _ = self.stream.synchronize();
    }
}

impl Half {
    fn new(context: &Arc<CudaContext>) -> Result<Self, DriverError> {
        let fetched = context.new_event(None)?;
        // The host only writes it, in order.
        let flags = sys::CU_MEMHOSTALLOC_WRITECOMBINED;
        // SAFETY: the context is current on this thread, which making the event saw to.
        let address = unsafe { result::malloc_host(HALF, flags) }?.cast();
        Ok(Self { address, fetched })
    }

    /// Puts `piece`, at most [`HALF`] bytes, into the buffer once the card has fetched what was there.
    fn fill(&mut self, piece: &[u8]) -> Result<&[u8], DriverError> {
        self.fetched.synchronize()?;
        assert!(piece.len() <= HALF, "a piece is longer than a buffer");
        // SAFETY: the buffer has that many bytes, nobody else reads or writes them now, and it is apart from
        // whatever a caller may borrow.
        unsafe {
            self.address.copy_from_nonoverlapping(piece.as_ptr(), piece.len());
            Ok(std::slice::from_raw_parts(self.address, piece.len()))
        }
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        // SAFETY: `new` allocated it, and `Staging` has waited for the copies.
        let _ = unsafe { result::free_host(self.address.cast()) };
    }
}
