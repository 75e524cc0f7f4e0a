//! What a training program asks of the driver beside launches.
#![allow(unsafe_code)]

use cudarc::{
    driver::{
        CudaContext, DriverError,
        sys::{CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode},
    },
    nvrtc::Ptx,
};

use crate::common::{
    case::Launch,
    compile::{Flavour, ptx},
    driver::{Session, address, launch},
    emulator::{Run, Setting, on_emulator},
};

const BOTH: [&[Setting]; 2] = [&[("STREAMS", "eager")], &[("STREAMS", "lazy"), ("SEED", "4")]];

fn session() -> Session {
    Session::new(ptx("broken", Flavour::Optimised)).expect("loads")
}

fn code<T>(result: Result<T, DriverError>) -> CUresult {
    result.err().map_or(CUresult::CUDA_SUCCESS, |error| error.0)
}

fn clean(settings: &[&[Setting]], body: impl FnOnce()) {
    on_emulator(settings, body).iter().for_each(Run::assert_clean);
}

#[test]
fn graphs_by_capture() {
    clean(&BOTH, || {
        let session = session();
        // SAFETY: one stream does everything, in order. Events recorded before would break capture.
        unsafe { session.context.disable_event_tracking() };
        let stream = &session.stream;
        let source = stream.alloc_zeros::<u8>(256).expect("there is room");
        let out = stream.alloc_zeros::<u8>(256).expect("there is room");
        let args = [&source, &out].map(|b| address(b, stream).to_ne_bytes().to_vec());
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL).expect("idle");
        for kernel in ["produce", "consume"] {
            let shape = Launch::line(kernel, 1, 64, vec![]);
            let args = if kernel == "produce" { &args[..1] } else { &args };
            launch(stream, &session.function(kernel), &shape, args).expect("recorded");
        }
        assert_ne!(code(stream.synchronize()), CUresult::CUDA_SUCCESS, "not while capturing");
        let ended = stream
            .end_capture(CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH);
        assert_ne!(code(ended), CUresult::CUDA_SUCCESS, "which spoils the capture");

        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL).expect("idle");
        for (kernel, args) in [("produce", &args[..1]), ("consume", &args[..])] {
            let shape = Launch::line(kernel, 1, 64, vec![]);
            launch(stream, &session.function(kernel), &shape, args).expect("recorded");
        }
        let graph = stream
            .end_capture(CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH)
            .expect("a graph")
            .expect("with nodes");
        assert_eq!(stream.clone_dtoh(&out).expect("no fault"), [0; 256], "nothing has run");
        graph.upload().expect("a no-op");
        for _ in 0..3 {
            graph.launch().expect("instantiated");
        }
        let expected: Vec<u8> = (1..=64i32).flat_map(i32::to_ne_bytes).collect();
        assert_eq!(stream.clone_dtoh(&out).expect("no fault"), expected);
    });
}

#[test]
fn the_null_stream_cannot_be_captured() {
    clean(&BOTH, || {
        let context = CudaContext::new(0).expect("a device");
        let begun = context
            .default_stream()
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL);
        assert_eq!(code(begun), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    });
}

#[test]
fn events_measure_time() {
    clean(&BOTH, || {
        use cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT as TIMED;
        let session = session();
        let start = session.stream.record_event(Some(TIMED)).expect("an event");
        let buffer = session.stream.alloc_zeros::<u8>(1 << 20).expect("there is room");
        let end = session.stream.record_event(Some(TIMED)).expect("an event");
        let elapsed = start.elapsed_ms(&end).expect("both were recorded");
        assert!((0.0..60_000.0).contains(&elapsed), "{elapsed}");
        assert!(end.is_complete());
        drop(buffer);
    });
}

#[test]
fn pinned_buffers() {
    clean(&BOTH, || {
        let session = session();
        // SAFETY: written in full before it is read.
        let mut host = unsafe { session.context.alloc_pinned::<u32>(1000) }.expect("there is room");
        let numbers: Vec<u32> = (0..1000).collect();
        host.as_mut_slice().expect("idle").copy_from_slice(&numbers);
        let device = session.stream.clone_htod(&host).expect("there is room");
        // SAFETY: as above.
        let mut back = unsafe { session.context.alloc_pinned::<u32>(1000) }.expect("there is room");
        session.stream.memcpy_dtoh(&device, &mut back).expect("sizes match");
        assert_eq!(back.as_slice().expect("waits for the copy"), numbers);
    });
}

#[test]
fn freed_memory_is_free() {
    clean(&[&[("MEMORY", "64MiB")]], || {
        let session = session();
        let (before, total) = session.context.mem_get_info().expect("a context");
        assert_eq!(total, 64 << 20);
        for _ in 0..8 {
            let buffer = session.stream.alloc_zeros::<u8>(40 << 20).expect("one fits at a time");
            drop(buffer);
        }
        session.context.synchronize().expect("no fault");
        assert_eq!(session.context.mem_get_info().expect("a context"), (before, total));
    });
}

#[test]
fn out_of_memory() {
    clean(&[&[("MEMORY", "1MiB")]], || {
        let session = session();
        let first = session.stream.alloc_zeros::<u8>(700 << 10).expect("fits");
        let second = session.stream.alloc_zeros::<u8>(700 << 10);
        assert_eq!(code(second), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        drop(first);
        session.stream.synchronize().expect("no fault");
        session.stream.alloc_zeros::<u8>(700 << 10).expect("fits again");
    });
}

#[test]
fn failures_on_demand() {
    clean(&[&[("FAIL", "cuMemAllocAsync:17:2")]], || {
        let session = session();
        let allocate = || session.stream.alloc_zeros::<u8>(16).map(drop);
        let codes: Vec<_> = (0..20).map(|_| code(allocate())).collect();
        for (index, code) in codes.iter().enumerate() {
            let expected = if index == 16 {
                CUresult::CUDA_ERROR_OUT_OF_MEMORY
            } else {
                CUresult::CUDA_SUCCESS
            };
            assert_eq!(*code, expected, "allocation {}", index + 1);
        }
    });
}

#[test]
fn errors_have_names_and_texts() {
    clean(&[&[]], || {
        CudaContext::new(0).expect("a device");
        for (code, name, text) in [
            (CUresult::CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"),
            (
                CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
                "CUDA_ERROR_ILLEGAL_ADDRESS",
                "an illegal memory access was encountered",
            ),
        ] {
            let error = DriverError(code);
            assert_eq!(error.error_name().expect("known").to_str(), Ok(name));
            assert_eq!(error.error_string().expect("known").to_str(), Ok(text));
        }
    });
}

#[test]
fn occupancy() {
    clean(&[&[("PROFILE", "rtx3090")]], || {
        let function = session().function("needs_shared");
        let blocks = |threads, shared| {
            function
                .occupancy_max_active_blocks_per_multiprocessor(threads, shared, None)
                .expect("a kernel")
        };
        assert_eq!(blocks(64, 0), 16, "as many as a multiprocessor holds");
        assert_eq!(blocks(512, 0), 3, "1536 threads");
        assert_eq!(blocks(64, 48 << 10), 2, "100 KiB of shared memory");
    });
}

#[test]
fn modules_that_do_not_load() {
    let fatbin = [&0xBA55_ED50u32.to_le_bytes()[..], &[1, 0, 16, 0], &[0; 64]].concat();
    let version = ".version 9.5\n.target sm_80\n.address_size 64\n";
    clean(&[&[("DRIVER", "12.8")]], || {
        let context = CudaContext::new(0).expect("a device");
        let load = |module| code(context.load_module(module));
        assert_eq!(load(Ptx::from_binary(fatbin)), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
        assert_eq!(load(Ptx::from_src(version)), CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
        assert_eq!(load(Ptx::from_src("hello")), CUresult::CUDA_ERROR_INVALID_PTX);
        let session = session();
        assert_eq!(code(session.module.load_function("nobody")), CUresult::CUDA_ERROR_NOT_FOUND);
    });
}

#[test]
fn the_device_is_the_profile_asked_for() {
    clean(&[&[("PROFILE", "rtx4090")]], || {
        let context = CudaContext::new(0).expect("a device");
        assert_eq!(context.name().expect("a name"), "NVIDIA GeForce RTX 4090");
        assert_eq!(context.compute_capability().expect("a pair"), (8, 9));
        assert_eq!(context.total_mem().expect("a number"), 24 << 30);
        assert_eq!(CudaContext::device_count(), Ok(1));
    });
}

#[test]
fn the_report_counts_calls_and_kernels() {
    let runs = on_emulator(&[&[("SEED", "9")]], || {
        let session = session();
        let out = session.stream.alloc_zeros::<u8>(256).expect("there is room");
        let args = [address(&out, &session.stream).to_ne_bytes().to_vec()];
        let shape = Launch::line("produce", 1, 64, vec![]);
        for _ in 0..5 {
            launch(&session.stream, &session.function("produce"), &shape, &args).expect("fits");
        }
        session.stream.synchronize().expect("no fault");
    });
    runs[0].assert_clean();
    let report = &runs[0].report;
    assert_eq!(report["settings"]["seed"], 9);
    assert_eq!(report["calls"]["cuLaunchKernel"], 5);
    let kernel = &report["kernels"]["produce"];
    assert_eq!(kernel["launches"], 5);
    assert_eq!(kernel["global_store_bytes"], 5 * 256);
    assert_eq!(kernel["global_sectors"], 5 * 8, "two warps of four sectors");
    assert_eq!(kernel["global_load_bytes"], 0);
}
