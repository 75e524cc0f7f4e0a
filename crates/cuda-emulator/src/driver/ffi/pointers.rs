//! Pointers as the C interface passes them.
//!
//! Each type has the layout of a C pointer and is made by the caller of an exported function. The
//! contract of every `unsafe` block here is the caller's: the CUDA driver API demands that pointers
//! are null or valid for what the called function reads or writes through them, and that memory of
//! asynchronous copies stays valid until these have run.

use std::{
    cell::Cell,
    ffi::{CStr, c_char, c_void},
};

use crate::driver::error::{Code, Status};

/// Where a result goes.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Nobody wants the result.
    pub(crate) fn null() -> Self {
        Self(std::ptr::null_mut())
    }

    /// Stores the result; a null pointer is an error.
    pub(crate) fn set(self, value: T) -> Status {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        self.set_if_wanted(value);
        Ok(())
    }

    /// Stores the result unless the pointer is null.
    pub(crate) fn set_if_wanted(self, value: T) {
        if !self.0.is_null() {
            // SAFETY: the caller of the driver API passes a pointer that is valid for a write of
            // the documented type. It may be unaligned.
            unsafe { self.0.write_unaligned(value) }
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// The same address for another type, where the type depends on what is asked for.
    pub(crate) fn cast<U>(self) -> Out<U> {
        Out(self.0.cast())
    }
}

/// Values that the caller wrote.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct In<T>(*const T);

impl<T: Copy> In<T> {
    /// No values.
    pub(crate) fn null() -> Self {
        Self(std::ptr::null())
    }

    /// The first value.
    pub(crate) fn get(self) -> Status<T> {
        self.at(0)
    }

    /// The value of that index.
    pub(crate) fn at(self, index: usize) -> Status<T> {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: the caller of the driver API passes an array of at least the documented length.
        Ok(unsafe { self.0.add(index).read_unaligned() })
    }

    pub(crate) fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// The same address for another type, where the type depends on what is set.
    pub(crate) fn cast<U>(self) -> In<U> {
        In(self.0.cast())
    }
}

/// Text that ends with a NUL.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Text(*const c_char);

impl Text {
    /// The first four bytes, which tell text from binaries.
    pub(crate) fn magic(self) -> Status<[u8; 4]> {
        let mut magic = [0; 4];
        for (index, byte) in magic.iter_mut().enumerate() {
            *byte = In(self.0.cast::<u8>()).at(index)?;
            // Text may end here.
            if *byte == 0 {
                break;
            }
        }
        Ok(magic)
    }

    /// The text.
    pub(crate) fn get(self) -> Status<String> {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: the caller of the driver API passes a string that ends with a NUL.
        let text = unsafe { CStr::from_ptr(self.0) };
        text.to_str().map(str::to_owned).map_err(|_| Code::INVALID_VALUE)
    }
}

/// A buffer of characters to fill.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Buffer(*mut u8);

impl Buffer {
    /// A buffer at an address that the caller passed as a number.
    pub(crate) fn from_address(address: usize) -> Self {
        Self(std::ptr::with_exposed_provenance_mut(address))
    }

    /// Writes as much of `text` as fits into `length` bytes with a NUL behind it.
    pub(crate) fn write(self, text: &str, length: usize) -> Status {
        if self.0.is_null() || length == 0 {
            return Err(Code::INVALID_VALUE);
        }
        let bytes = &text.as_bytes()[..text.len().min(length - 1)];
        // SAFETY: the caller of the driver API passes a buffer of `length` bytes, and it is its own.
        unsafe {
            self.0.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            self.0.add(bytes.len()).write(0);
        }
        Ok(())
    }
}

/// Memory of the host that is to be copied.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct HostPointer(*mut u8);

impl HostPointer {
    /// A pointer that the caller passed as a number.
    pub(crate) fn from_address(address: u64) -> Self {
        Self(std::ptr::with_exposed_provenance_mut(address as usize))
    }

    pub(crate) fn address(self) -> u64 {
        self.0.expose_provenance() as u64
    }

    /// `bytes` bytes from here.
    pub(crate) fn range(self, bytes: u64) -> Status<HostRange> {
        if self.0.is_null() || isize::try_from(bytes).is_err() {
            return Err(Code::INVALID_VALUE);
        }
        Ok(HostRange { address: self.0.expose_provenance(), bytes: bytes as usize })
    }
}

/// A range of the host's memory that a copy reads or fills.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostRange {
    address: usize,
    bytes: usize,
}

impl HostRange {
    pub(crate) fn address(self) -> u64 {
        self.address as u64
    }

    pub(crate) fn bytes(self) -> u64 {
        self.bytes as u64
    }

    /// What the range holds now.
    pub(crate) fn read(self) -> Vec<u8> {
        let mut bytes = vec![0; self.bytes];
        let from: *const u8 = std::ptr::with_exposed_provenance(self.address);
        // SAFETY: the caller of the driver API passed a pointer to this many readable bytes, which
        // stay valid until the copy has run.
        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(from, self.bytes) };
        bytes
    }

    /// Fills the range.
    pub(crate) fn write(self, bytes: &[u8]) {
        let to: *mut u8 = std::ptr::with_exposed_provenance_mut(self.address);
        let count = bytes.len().min(self.bytes);
        // SAFETY: the caller of the driver API passed a pointer to this many writable bytes, which
        // stay valid until the copy has run and which nobody else accesses before.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), count) };
    }
}

/// The arguments of a launch.
#[derive(Clone, Debug)]
pub(crate) enum Arguments {
    None,
    /// `kernelParams`.
    Pointers(Pointers),
    /// The buffer of `extra`.
    Buffer(Vec<u8>),
    Both,
    /// `extra` without buffer or size.
    Malformed,
}

impl Arguments {
    const END: usize = 0;
    const BUFFER: usize = 1;
    const SIZE: usize = 2;

    /// The arguments in whichever form they are.
    pub(crate) fn new(params: In<In<u8>>, extra: In<usize>) -> Self {
        match (params.is_null(), extra.is_null()) {
            (true, true) => Self::None,
            (false, true) => Self::Pointers(Pointers(params.0)),
            (true, false) => Self::from_extra(extra).unwrap_or(Self::Malformed),
            (false, false) => Self::Both,
        }
    }

    fn from_extra(extra: In<usize>) -> Option<Self> {
        let (mut buffer, mut size) = (0, None);
        for pair in 0..3 {
            let key = extra.at(2 * pair).ok()?;
            match key {
                Self::END => break,
                Self::BUFFER => buffer = extra.at(2 * pair + 1).ok()?,
                Self::SIZE => {
                    let address = extra.at(2 * pair + 1).ok()?;
                    size =
                        Some(In(std::ptr::with_exposed_provenance::<usize>(address)).get().ok()?);
                }
                _ => return None,
            }
        }
        let bytes = HostPointer::from_address(buffer as u64).range(size? as u64).ok()?;
        Some(Self::Buffer(bytes.read()))
    }
}

/// An array of pointers to the arguments of a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pointers(*const In<u8>);

impl Pointers {
    /// The bytes of an argument, of which there are as many as the kernel has; `None` for a null
    /// pointer.
    pub(crate) fn read(self, index: usize, bytes: usize) -> Option<Vec<u8>> {
        let pointer = In(self.0).at(index).ok()?;
        let range = HostPointer(pointer.0.cast_mut()).range(bytes as u64).ok()?;
        Some(range.read())
    }
}

impl std::fmt::Debug for In<u8> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

thread_local! {
    /// Whether the host's code runs inside of a driver call.
    static CALLING_BACK: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is in a function that the driver called, which must not call the driver.
pub(super) fn is_calling_back() -> bool {
    CALLING_BACK.try_with(Cell::get).unwrap_or(false)
}

fn calling_back<T>(function: impl FnOnce() -> T) -> T {
    CALLING_BACK.set(true);
    let result = function();
    CALLING_BACK.set(false);
    result
}

/// The type of a function for `cuLaunchHostFunc`.
pub(super) type HostFunction = extern "C" fn(*mut c_void);
/// The type of a function for `cuStreamAddCallback`.
pub(super) type StreamFunction = extern "C" fn(u64, u32, *mut c_void);

/// A function of the host that runs in a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Callback {
    /// `cuLaunchHostFunc`.
    Host(HostFunction, usize),
    /// `cuStreamAddCallback`, with the stream.
    Stream(StreamFunction, usize, u64),
}

impl Callback {
    /// Calls it.
    pub(crate) fn run(self) {
        calling_back(|| match self {
            Callback::Host(function, data) => {
                function(std::ptr::with_exposed_provenance_mut(data));
            }
            Callback::Stream(function, data, stream) => {
                function(stream, 0, std::ptr::with_exposed_provenance_mut(data));
            }
        });
    }
}

/// A function that tells the dynamic shared memory for a block size, if there is one.
pub(super) type SharedForBlock = Option<extern "C" fn(i32) -> usize>;

/// What the function says, or `otherwise`.
pub(super) fn shared_for_block(function: SharedForBlock, threads: u32, otherwise: usize) -> u64 {
    function.map_or(otherwise, |function| calling_back(|| function(threads as i32))) as u64
}
