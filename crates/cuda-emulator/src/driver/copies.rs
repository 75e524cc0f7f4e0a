//! Copies and fills.

use crate::{
    driver::{
        error::{Code, Status},
        ffi::{HostPointer, HostRange},
        state::{Id, MemoryKind, State},
        work::{Action, Source},
    },
    findings::Check,
};

/// One end of a copy.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    Host(HostPointer),
    Device(u64),
    /// Told by the address.
    Unified(u64),
}

/// A copy of rows; a plain copy has one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) bytes: u64,
    pub(crate) rows: u64,
    pub(crate) to_pitch: u64,
    pub(crate) from_pitch: u64,
}

impl Shape {
    /// A plain copy.
    pub(crate) fn line(bytes: u64) -> Self {
        Self { bytes, rows: 1, to_pitch: bytes, from_pitch: bytes }
    }
}

impl State {
    /// Checks that device addresses are inside one live allocation.
    fn check_device(&mut self, call: &str, address: u64, bytes: u64) -> Status {
        if let Some((base, allocation)) = self.allocation_of(address)
            && allocation.freed
        {
            let message = format!(
                "{bytes} bytes at {address:#x}, which cuMemFreeAsync gave back; allocation {} of \
                 the process at {base:#x}",
                allocation.serial
            );
            self.journal.host(Check::UseAfterFree, call, Some(address), message);
            return Err(Code::INVALID_VALUE);
        }
        let inside = self
            .memory
            .range_of(address)
            .is_some_and(|(base, size)| bytes <= size && address - base <= size - bytes);
        if inside {
            return Ok(());
        }
        // Copied onto itself nothing changes, and the error says what is wrong with the range.
        if let Err(error) = self.memory.copy(address, address, bytes) {
            self.report_access(call, &error);
        }
        Err(Code::INVALID_VALUE)
    }

    /// A host range that is not by mistake a device address.
    fn host_range(&mut self, call: &str, host: HostPointer, bytes: u64) -> Status<HostRange> {
        if self.allocation_of(host.address()).is_some_and(|(_, a)| a.kind == MemoryKind::Device) {
            let message = format!("{:#x} is device memory, not the host's", host.address());
            self.journal.host(Check::Arguments, call, Some(host.address()), message);
            return Err(Code::INVALID_VALUE);
        }
        host.range(bytes)
    }

    fn resolve(&self, place: Place) -> Place {
        match place {
            Place::Unified(address) if self.memory.range_of(address).is_some() => {
                Place::Device(address)
            }
            Place::Unified(address) => Place::Host(HostPointer::from_address(address)),
            other => other,
        }
    }

    /// One row of a copy, and whether the host's side of it is pageable.
    fn row(&mut self, call: &str, to: Place, from: Place, bytes: u64) -> Status<(Action, bool)> {
        let (to, from) = (self.resolve(to), self.resolve(from));
        let source = |state: &mut Self, host: HostPointer| {
            let range = state.host_range(call, host, bytes)?;
            let pinned = state.is_pinned(host.address(), bytes);
            Ok((
                if pinned { Source::Late(range) } else { Source::Staged(range.read().into()) },
                !pinned,
            ))
        };
        match (to, from) {
            (Place::Device(to), Place::Device(from)) => {
                self.check_device(call, from, bytes)?;
                self.check_device(call, to, bytes)?;
                Ok((Action::Copy { to, from, bytes }, false))
            }
            (Place::Device(to), Place::Host(host)) => {
                self.check_device(call, to, bytes)?;
                let (from, pageable) = source(self, host)?;
                Ok((Action::Upload { to, from }, pageable))
            }
            (Place::Host(host), Place::Device(from)) => {
                self.check_device(call, from, bytes)?;
                let to = self.host_range(call, host, bytes)?;
                let pageable = !self.is_pinned(host.address(), bytes);
                Ok((Action::Download { to, from }, pageable))
            }
            (Place::Host(to), Place::Host(host)) => {
                let (from, source) = source(self, host)?;
                let pageable = source || !self.is_pinned(to.address(), bytes);
                let to = self.host_range(call, to, bytes)?;
                Ok((Action::HostCopy { to, from }, pageable))
            }
            _ => Err(Code::INVALID_VALUE),
        }
    }

    /// A copy in a stream. The host waits for it if `synchronous`, or if it fills pageable memory.
    pub(crate) fn copy(
        &mut self,
        call: &'static str,
        to: Place,
        from: Place,
        shape: Shape,
        stream: Id,
        synchronous: bool,
    ) -> Status {
        let stream = self.stream(stream)?;
        let context = self.context()?;
        self.check_implicit(stream)?;
        if shape.bytes == 0 || shape.rows == 0 {
            return Ok(());
        }
        if shape.rows > 1 && shape.to_pitch.min(shape.from_pitch) < shape.bytes {
            return Err(Code::INVALID_VALUE);
        }
        let to_host = matches!(self.resolve(to), Place::Host(_));
        let from_host = matches!(self.resolve(from), Place::Host(_));
        if synchronous && from_host {
            // What the source holds then is what is copied.
            self.synchronize_stream(stream)?;
        }
        let mut rows = Vec::new();
        let mut pageable = false;
        for row in 0..shape.rows {
            let to = to.offset(row, shape.to_pitch)?;
            let from = from.offset(row, shape.from_pitch)?;
            let (action, row_pageable) = self.row(call, to, from, shape.bytes)?;
            pageable |= row_pageable;
            rows.push(action);
        }
        let action = if rows.len() == 1 { rows.remove(0) } else { Action::Rows(rows) };
        if pageable && let Some(capture) = self.streams.get(stream)?.capture {
            self.captures.get_mut(capture)?.invalid = true;
            self.journal.warn(format!("{call}: only copies of pinned memory can be captured"));
            return Err(Code::STREAM_CAPTURE_UNSUPPORTED);
        }
        let point = self.submit(stream, call, action)?;
        let waits = to_host && pageable || synchronous && (to_host || from_host && !pageable);
        match point {
            Some(point) if waits => {
                self.wait(&point);
                self.surface(context)
            }
            _ => Ok(()),
        }
    }

    /// A fill with `count` elements of `pattern`.
    pub(crate) fn fill(
        &mut self,
        call: &'static str,
        to: u64,
        pattern: &[u8],
        shape: Shape,
        stream: Id,
    ) -> Status {
        let stream = self.stream(stream)?;
        self.check_implicit(stream)?;
        let width = pattern.len() as u64;
        let count = shape.bytes / width;
        if count == 0 || shape.rows == 0 {
            return Ok(());
        }
        if !to.is_multiple_of(width) || shape.rows > 1 && shape.to_pitch < shape.bytes {
            return Err(Code::INVALID_VALUE);
        }
        let mut rows = Vec::new();
        for row in 0..shape.rows {
            let Place::Device(to) = Place::Device(to).offset(row, shape.to_pitch)? else {
                return Err(Code::INVALID_VALUE);
            };
            self.check_device(call, to, shape.bytes)?;
            rows.push(Action::Fill { to, pattern: pattern.to_vec(), count });
        }
        let action = if rows.len() == 1 { rows.remove(0) } else { Action::Rows(rows) };
        self.submit(stream, call, action).map(drop)
    }
}

impl Place {
    /// The place `row` pitches on.
    fn offset(self, row: u64, pitch: u64) -> Status<Self> {
        let bytes = row.checked_mul(pitch).ok_or(Code::INVALID_VALUE)?;
        let add = |address: u64| address.checked_add(bytes).ok_or(Code::INVALID_VALUE);
        Ok(match self {
            Place::Host(host) => Place::Host(HostPointer::from_address(add(host.address())?)),
            Place::Device(address) => Place::Device(add(address)?),
            Place::Unified(address) => Place::Unified(add(address)?),
        })
    }
}
