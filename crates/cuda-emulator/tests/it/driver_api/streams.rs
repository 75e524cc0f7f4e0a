//! Order between streams, events and the host.

use std::{ffi::c_void, sync::Arc};

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, LaunchConfig, PushKernelArg, result, sys};

use super::kernels::session;
use crate::common::{driver::Session, emulator::on_emulator};

const EAGER: &[(&str, &str)] = &[];
const LAZY: &[(&str, &str)] = &[("STREAMS", "lazy"), ("SEED", "1")];

fn add(session: &Session, stream: &Arc<CudaStream>, x: &mut CudaSlice<f32>, value: f32) {
    let function = session.function("add");
    let n = x.len() as u32;
    let mut launch = stream.launch_builder(&function);
    launch.arg(x).arg(&n).arg(&value);
    // SAFETY: these are the kernel's parameters.
    unsafe { launch.launch(LaunchConfig::for_num_elems(n)) }.expect("launched");
}

/// Two streams add to one buffer; `order` comes between them.
fn two_streams(order: impl FnOnce(&Arc<CudaStream>, &Arc<CudaStream>)) {
    let session = session().expect("loads");
    let other = session.context.new_stream().expect("made");
    let mut x = session.stream.clone_htod(&[1f32; 64]).expect("copied");
    add(&session, &session.stream, &mut x, 1.0);
    order(&session.stream, &other);
    add(&session, &other, &mut x, 1.0);
    session.context.synchronize().expect("runs");
    println!("{:?}", session.stream.clone_dtoh(&x).expect("copied")[0]);
}

#[test]
fn missing_order_is_found() {
    for run in on_emulator(&[EAGER, LAZY], || two_streams(|_, _| {})) {
        run.passed().says("nothing orders the two").says("cuLaunchKernel add #");
        // In some orders the second kernel reads what is not copied yet.
        let names = run.names();
        assert!(names.contains(&"stream-order"), "{}", run.output);
        assert!(names.iter().all(|n| ["stream-order", "uninitialised"].contains(n)), "{names:?}");
    }
}

#[test]
fn an_event_orders() {
    for run in on_emulator(&[EAGER, LAZY], || two_streams(|a, b| b.join(a).expect("joined"))) {
        run.passed().found(&[]).says("3.0");
    }
}

#[test]
fn the_host_orders() {
    for run in on_emulator(&[EAGER, LAZY], || {
        two_streams(|a, _| a.synchronize().expect("runs"));
    }) {
        run.passed().found(&[]).says("3.0");
    }
}

#[test]
fn the_default_stream_orders_blocking_streams_only() {
    for run in on_emulator(&[EAGER, LAZY], || {
        let session = session().expect("loads");
        let mut blocking = std::ptr::null_mut();
        // SAFETY: the pointer is valid.
        assert_eq!(unsafe { sys::cuStreamCreate(&raw mut blocking, 0) } as u32, 0);
        let default = session.context.default_stream();
        let x = default.clone_htod(&[1f32; 64]).expect("copied");
        let address = x.device_ptr(&default).0;
        // SAFETY: the ranges are valid.
        unsafe {
            result::memset_d8_async(address, 0, 256, blocking).expect("submitted");
            result::memset_d8_async(address, 1, 256, std::ptr::null_mut()).expect("submitted");
            result::memset_d8_async(address, 2, 256, blocking).expect("submitted");
            println!("so far so good");
            result::memset_d8_async(address, 3, 256, session.stream.cu_stream())
                .expect("submitted");
        }
        session.context.synchronize().expect("runs");
    }) {
        let names = run.passed().names();
        assert!(!names.is_empty() && names.iter().all(|name| *name == "stream-order"));
        let findings = run.report["findings"].as_array().expect("a report");
        let of_the_last =
            |f: &serde_json::Value| f["message"].as_str().expect("text").contains("#6 ");
        assert!(findings.iter().all(of_the_last), "{}", run.output);
    }
}

#[test]
fn a_free_must_come_after_every_use() {
    for run in on_emulator(&[EAGER, LAZY], || {
        let session = session().expect("loads");
        let other = session.context.new_stream().expect("made");
        let mut x = session.stream.clone_htod(&[1f32; 64]).expect("copied");
        session.stream.synchronize().expect("runs");
        add(&session, &other, &mut x, 1.0);
        drop(x); // freed in the stream that made it
        let _ = session.context.synchronize(); // the order may be the one that faults
    }) {
        run.passed();
        let names = run.names();
        assert!(names == ["stream-order"] || names == ["use-after-free"], "{}", run.output);
    }
}

#[test]
fn pinned_copies_are_late_and_pageable_ones_are_not() {
    for (run, lazy) in on_emulator(&[EAGER, LAZY], || {
        let session = session().expect("loads");
        let stream = session.stream.cu_stream();
        // SAFETY: the ranges are valid; that the pinned source changes before the copy is the point.
        unsafe {
            let pinned = result::malloc_host(4, 0).expect("fits").cast::<u8>();
            let source = std::slice::from_raw_parts_mut(pinned, 4);
            let device = result::malloc_sync(8).expect("fits");
            let mut pageable = [1u8; 4];
            source.fill(1);
            result::memcpy_htod_async(device, &pageable, stream).expect("submitted");
            result::memcpy_htod_async(device + 4, source, stream).expect("submitted");
            pageable.fill(2);
            source.fill(2);
            let mut host = [0u8; 8];
            result::memcpy_dtoh_async(&mut host, device, stream).expect("copied");
            println!("{host:?}");
            source.fill(0);
            result::memcpy_dtoh_async(source, device, stream).expect("submitted");
            println!("before {source:?}");
            result::stream::synchronize(stream).expect("runs");
            println!("after {source:?}");
            result::free_host(pinned.cast()).expect("freed");
            result::memory_free(device).expect("freed");
        }
    })
    .into_iter()
    .zip([false, true])
    {
        run.passed().found(&[]).says("after [1, 1, 1, 1]");
        run.says(if lazy { "[1, 1, 1, 1, 2, 2, 2, 2]" } else { "[1, 1, 1, 1, 1, 1, 1, 1]" });
        run.says(if lazy { "before [0, 0, 0, 0]" } else { "before [1, 1, 1, 1]" });
    }
}

#[test]
fn times_are_virtual_and_repeat() {
    let runs = on_emulator(&[EAGER, LAZY, &[("STREAMS", "lazy"), ("SEED", "2")]], || {
        let session = session().expect("loads");
        let timed = sys::CUevent_flags::CU_EVENT_DEFAULT;
        let mut x = session.stream.alloc_zeros::<f32>(1 << 16).expect("fits");
        let start = session.stream.record_event(Some(timed)).expect("recorded");
        for _ in 0..10 {
            add(&session, &session.stream, &mut x, 1.0);
        }
        let end = session.stream.record_event(Some(timed)).expect("recorded");
        println!("took {} ms", start.elapsed_ms(&end).expect("done"));
        assert!(session.stream.record_event(None).expect("recorded").elapsed_ms(&end).is_err());
    });
    let time = |run: &crate::common::emulator::Run| {
        let line = run.output.lines().find(|line| line.contains("took ")).map(str::to_owned);
        line.expect("printed")
    };
    assert!(runs.iter().all(|run| time(run.passed()) == time(&runs[0])));
    assert!(!time(&runs[0]).contains(" 0 ms"));
}

#[test]
fn functions_of_the_host_run_in_order() {
    extern "C" fn check(data: *mut c_void) {
        // SAFETY: the test passes a pointer to a float that lives until the stream is done.
        let value = unsafe { data.cast::<f32>().read() };
        // SAFETY: a callback must not call the driver; that it tries is the point.
        let code = unsafe { sys::cuCtxSynchronize() };
        println!("host sees {value}, and code {}", code as u32);
    }
    for run in on_emulator(&[EAGER, LAZY], || {
        let session = session().expect("loads");
        let mut x = session.stream.clone_htod(&[1f32]).expect("copied");
        add(&session, &session.stream, &mut x, 1.0);
        let stream = session.stream.cu_stream();
        // SAFETY: the pinned memory lives until the stream is done.
        unsafe {
            let pinned = result::malloc_host(4, 0).expect("fits");
            let to = std::slice::from_raw_parts_mut(pinned.cast::<f32>(), 1);
            let address = x.device_ptr(&session.stream).0;
            result::memcpy_dtoh_async(to, address, stream).expect("submitted");
            result::stream::launch_host_function(stream, check, pinned).expect("submitted");
            result::stream::synchronize(stream).expect("runs");
            result::free_host(pinned).expect("freed");
        }
    }) {
        run.passed().found(&[]).says("host sees 2, and code 800");
    }
}

#[test]
fn cudarcs_own_tracking_is_clean() {
    for run in on_emulator(&[EAGER, LAZY, &[("STREAMS", "lazy"), ("SEED", "9")]], || {
        let session = session().expect("loads");
        // SAFETY: it is what cudarc does unless told otherwise.
        unsafe { session.context.enable_event_tracking() };
        let streams: Vec<_> = (0..3).map(|_| session.context.new_stream().expect("made")).collect();
        let mut x = streams[0].clone_htod(&[0f32; 128]).expect("copied");
        for step in 0..30 {
            add(&session, &streams[step % 3], &mut x, 1.0);
        }
        assert_eq!(streams[1].clone_dtoh(&x).expect("copied"), [30f32; 128]);
        drop(x);
        session.context.synchronize().expect("runs");
    }) {
        run.passed().found(&[]);
    }
}
