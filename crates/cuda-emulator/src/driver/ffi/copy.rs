//! `cuMemcpy…` and `cuMemset…`.

use crate::driver::{
    copies::{Place, Shape},
    error::{Code, Status},
    ffi::{
        api,
        pointers::{HostPointer, In},
    },
    state::State,
};

/// `CUDA_MEMCPY2D`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Copy2D {
    from_x: usize,
    from_y: usize,
    from_type: u32,
    from_host: HostPointer,
    from_device: u64,
    from_array: usize,
    from_pitch: usize,
    to_x: usize,
    to_y: usize,
    to_type: u32,
    to_host: HostPointer,
    to_device: u64,
    to_array: usize,
    to_pitch: usize,
    width: usize,
    height: usize,
}

fn line(bytes: usize) -> Shape {
    Shape::line(bytes as u64)
}

fn rows(width: usize, element: usize, height: usize, pitch: usize) -> Status<Shape> {
    let bytes = width.checked_mul(element).ok_or(Code::INVALID_VALUE)? as u64;
    Ok(Shape { bytes, rows: height as u64, to_pitch: pitch as u64, from_pitch: pitch as u64 })
}

fn elements(element: usize, count: usize) -> Status<Shape> {
    rows(count, element, 1, 0)
}

fn copy_2d(s: &mut State, call: &'static str, copy: Copy2D, stream: u64, wait: bool) -> Status {
    const ARRAY: u32 = 3;
    if copy.from_type == ARRAY || copy.to_type == ARRAY {
        s.journal.warn(format!("{call}: arrays are not supported"));
        return Err(Code::NOT_SUPPORTED);
    }
    let place = |kind, host: HostPointer, device: u64, x: usize, y: usize, pitch: usize| {
        let offset = y.checked_mul(pitch).and_then(|o| o.checked_add(x)).map(|o| o as u64);
        let add = |base: u64| base.checked_add(offset?).filter(|_| base != 0);
        match kind {
            1 => add(host.address()).map(|a| Place::Host(HostPointer::from_address(a))),
            2 => add(device).map(Place::Device),
            4 => add(device).map(Place::Unified),
            _ => None,
        }
        .ok_or(Code::INVALID_VALUE)
    };
    let Copy2D { width, height, .. } = copy;
    let (from_pitch, to_pitch) = (copy.from_pitch, copy.to_pitch);
    let from = place(
        copy.from_type,
        copy.from_host,
        copy.from_device,
        copy.from_x,
        copy.from_y,
        from_pitch,
    )?;
    let to = place(copy.to_type, copy.to_host, copy.to_device, copy.to_x, copy.to_y, to_pitch)?;
    let shape = Shape {
        bytes: width as u64,
        rows: height as u64,
        to_pitch: to_pitch as u64,
        from_pitch: from_pitch as u64,
    };
    s.copy(call, to, from, shape, stream, wait)
}

api! {
    fn cuMemcpy(s, to: u64, from: u64, bytes: usize) {
        s.copy("cuMemcpy", Place::Unified(to), Place::Unified(from), line(bytes), 0, true)
    }
    fn cuMemcpyAsync(s, to: u64, from: u64, bytes: usize, stream: u64) {
        s.copy("cuMemcpyAsync", Place::Unified(to), Place::Unified(from), line(bytes), stream, false)
    }
    fn cuMemcpyHtoD_v2(s, to: u64, from: HostPointer, bytes: usize) {
        s.copy("cuMemcpyHtoD_v2", Place::Device(to), Place::Host(from), line(bytes), 0, true)
    }
    fn cuMemcpyHtoDAsync_v2(s, to: u64, from: HostPointer, bytes: usize, stream: u64) {
        s.copy("cuMemcpyHtoDAsync_v2", Place::Device(to), Place::Host(from), line(bytes), stream, false)
    }
    fn cuMemcpyDtoH_v2(s, to: HostPointer, from: u64, bytes: usize) {
        s.copy("cuMemcpyDtoH_v2", Place::Host(to), Place::Device(from), line(bytes), 0, true)
    }
    fn cuMemcpyDtoHAsync_v2(s, to: HostPointer, from: u64, bytes: usize, stream: u64) {
        s.copy("cuMemcpyDtoHAsync_v2", Place::Host(to), Place::Device(from), line(bytes), stream, false)
    }
    fn cuMemcpyDtoD_v2(s, to: u64, from: u64, bytes: usize) {
        s.copy("cuMemcpyDtoD_v2", Place::Device(to), Place::Device(from), line(bytes), 0, true)
    }
    fn cuMemcpyDtoDAsync_v2(s, to: u64, from: u64, bytes: usize, stream: u64) {
        s.copy("cuMemcpyDtoDAsync_v2", Place::Device(to), Place::Device(from), line(bytes), stream, false)
    }
    fn cuMemcpyPeerAsync(s, to: u64, to_context: u64, from: u64, from_context: u64, bytes: usize, stream: u64) {
        s.contexts.get(to_context)?;
        s.contexts.get(from_context)?;
        s.copy("cuMemcpyPeerAsync", Place::Device(to), Place::Device(from), line(bytes), stream, false)
    }
    fn cuMemcpy2D_v2(s, copy: In<Copy2D>) { copy_2d(s, "cuMemcpy2D_v2", copy.get()?, 0, true) }
    fn cuMemcpy2DUnaligned_v2(s, copy: In<Copy2D>) {
        copy_2d(s, "cuMemcpy2DUnaligned_v2", copy.get()?, 0, true)
    }
    fn cuMemcpy2DAsync_v2(s, copy: In<Copy2D>, stream: u64) {
        copy_2d(s, "cuMemcpy2DAsync_v2", copy.get()?, stream, false)
    }
    fn cuMemsetD8_v2(s, to: u64, value: u8, count: usize) {
        s.fill("cuMemsetD8_v2", to, &value.to_ne_bytes(), elements(1, count)?, 0)
    }
    fn cuMemsetD8Async(s, to: u64, value: u8, count: usize, stream: u64) {
        s.fill("cuMemsetD8Async", to, &value.to_ne_bytes(), elements(1, count)?, stream)
    }
    fn cuMemsetD16_v2(s, to: u64, value: u16, count: usize) {
        s.fill("cuMemsetD16_v2", to, &value.to_ne_bytes(), elements(2, count)?, 0)
    }
    fn cuMemsetD16Async(s, to: u64, value: u16, count: usize, stream: u64) {
        s.fill("cuMemsetD16Async", to, &value.to_ne_bytes(), elements(2, count)?, stream)
    }
    fn cuMemsetD32_v2(s, to: u64, value: u32, count: usize) {
        s.fill("cuMemsetD32_v2", to, &value.to_ne_bytes(), elements(4, count)?, 0)
    }
    fn cuMemsetD32Async(s, to: u64, value: u32, count: usize, stream: u64) {
        s.fill("cuMemsetD32Async", to, &value.to_ne_bytes(), elements(4, count)?, stream)
    }
    fn cuMemsetD2D8_v2(s, to: u64, pitch: usize, value: u8, width: usize, height: usize) {
        s.fill("cuMemsetD2D8_v2", to, &value.to_ne_bytes(), rows(width, 1, height, pitch)?, 0)
    }
    fn cuMemsetD2D8Async(s, to: u64, pitch: usize, value: u8, width: usize, height: usize, stream: u64) {
        s.fill("cuMemsetD2D8Async", to, &value.to_ne_bytes(), rows(width, 1, height, pitch)?, stream)
    }
    fn cuMemsetD2D32_v2(s, to: u64, pitch: usize, value: u32, width: usize, height: usize) {
        s.fill("cuMemsetD2D32_v2", to, &value.to_ne_bytes(), rows(width, 4, height, pitch)?, 0)
    }
    fn cuMemsetD2D32Async(s, to: u64, pitch: usize, value: u32, width: usize, height: usize, stream: u64) {
        s.fill("cuMemsetD2D32Async", to, &value.to_ne_bytes(), rows(width, 4, height, pitch)?, stream)
    }
}
