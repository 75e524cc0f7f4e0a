//! Defects of the program around the kernels, and errors that it has to handle.
#![allow(unsafe_code)]

use cuda_emulator::findings::Check;
use cudarc::driver::{CudaSlice, DriverError, result, sys::CUresult};

use crate::common::{
    case::Launch,
    compile::{Flavour, ptx},
    driver::{Session, address, launch},
    emulator::{Run, on_emulator},
};

fn session() -> Session {
    Session::new(ptx("broken", Flavour::Optimised)).expect("loads")
}

/// A session whose streams are ordered by events alone, which is what is tested.
fn session_without_tracking() -> Session {
    let session = session();
    // SAFETY: nothing is dropped while another stream may use it: each test waits at its end.
    unsafe { session.context.disable_event_tracking() };
    session
}

/// Launches a kernel whose only arguments are buffers.
fn start(session: &Session, shape: &Launch, buffers: &[&CudaSlice<u8>]) -> Result<(), DriverError> {
    let args: Vec<Vec<u8>> =
        buffers.iter().map(|b| address(b, &session.stream).to_ne_bytes().to_vec()).collect();
    launch(&session.stream, &session.function(shape.kernel), shape, &args)
}

fn zeros(session: &Session, bytes: usize) -> CudaSlice<u8> {
    session.stream.alloc_zeros(bytes).expect("there is room")
}

/// Fails unless each finding is of `check` and names what `parts` say.
fn assert_found(run: &Run, check: Check, parts: &[&str]) {
    run.passed();
    assert!(!run.findings().is_empty(), "nothing found\n{}", run.output);
    for finding in run.findings() {
        assert_eq!(finding["check"], check.name(), "{finding:#}");
        let text = format!("{} {}", finding["kernel"], finding["message"]);
        assert!(parts.iter().all(|part| text.contains(part)), "{finding:#}");
    }
}

#[test]
fn launch_limits() {
    let runs = on_emulator(&[&[]], || {
        let session = session();
        let out = zeros(&session, 1024);
        let line = |kernel, threads| Launch::line(kernel, 1, threads, vec![]);
        let shared = Launch { shared: 49 * 1024, ..line("needs_shared", 64) };
        let tall = Launch { grid: [1, 65536, 1], ..line("bounded", 64) };
        let flat = Launch { grid: [1, 0, 1], ..line("bounded", 64) };
        for (what, shape) in [
            ("more threads than a block has", line("produce", 1025)),
            ("more threads than the kernel's bound", line("bounded", 65)),
            ("more shared memory than without opting in", shared),
            ("a grid too tall", tall),
            ("an empty grid", flat),
        ] {
            assert!(start(&session, &shape, &[&out]).is_err(), "{what}");
        }
        start(&session, &line("bounded", 64), &[&out]).expect("the limit itself");
        session.stream.synchronize().expect("a refused launch does no harm");
    });
    assert_found(&runs[0], Check::LaunchLimit, &["cuLaunchKernel"]);
    assert_eq!(runs[0].findings().len(), 5, "{:#}", runs[0].report["findings"]);
}

#[test]
fn more_shared_memory_after_opting_in() {
    let runs = on_emulator(&[&[]], || {
        use cudarc::driver::sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as LIMIT;
        let session = session();
        let out = zeros(&session, 256);
        let function = session.function("needs_shared");
        function.set_attribute(LIMIT, 99 * 1024).expect("what this device has");
        assert!(function.set_attribute(LIMIT, 100 * 1024).is_err());
        let shape = Launch { shared: 99 * 1024, ..Launch::line("needs_shared", 1, 64, vec![]) };
        let args = [address(&out, &session.stream).to_ne_bytes().to_vec()];
        launch(&session.stream, &function, &shape, &args).expect("within the new limit");
    });
    runs[0].assert_clean();
}

#[test]
fn missing_arguments() {
    let runs = on_emulator(&[&[]], || {
        let session = session();
        let function = session.function("produce");
        let stream = session.stream.cu_stream();
        let mut null = [std::ptr::null_mut()];
        // SAFETY: the driver must see that the argument is missing before it reads it.
        let launched = unsafe {
            result::launch_kernel(
                function.cu_function(),
                (1, 1, 1),
                (64, 1, 1),
                0,
                stream,
                &mut null,
            )
        };
        assert_eq!(launched, Err(DriverError(CUresult::CUDA_ERROR_INVALID_VALUE)));
    });
    assert_found(&runs[0], Check::Arguments, &["produce", "null"]);
}

#[test]
fn double_free() {
    let runs = on_emulator(&[&[]], || {
        let _session = session();
        // SAFETY: no memory of the host is involved; the second call is the defect.
        unsafe {
            let pointer = result::malloc_sync(64).expect("there is room");
            result::free_sync(pointer).expect("it is allocated");
            assert!(result::free_sync(pointer).is_err());
        }
    });
    assert_found(&runs[0], Check::DoubleFree, &["cuMemFree_v2"]);
}

#[test]
fn leak() {
    let runs = on_emulator(&[&[]], || {
        let session = session();
        let kept = zeros(&session, 100);
        let _ = zeros(&session, 200);
        kept.leak();
    });
    assert_found(&runs[0], Check::Leak, &["100 bytes"]);
    assert_eq!(runs[0].findings().len(), 1);
}

/// One stream writes what another reads.
fn streams(ordered: bool) {
    let session = session_without_tracking();
    let (shared, out) = (zeros(&session, 256), zeros(&session, 256));
    session.stream.synchronize().expect("nothing is wrong yet");
    let other = session.context.new_stream().expect("one more stream");
    start(&session, &Launch::line("produce", 1, 64, vec![]), &[&shared]).expect("fits");
    if ordered {
        let written = session.stream.record_event(None).expect("an event");
        other.wait(&written).expect("it is recorded");
    }
    let args = [&shared, &out].map(|b| address(b, &other).to_ne_bytes().to_vec());
    let shape = Launch::line("consume", 1, 64, vec![]);
    launch(&other, &session.function("consume"), &shape, &args).expect("fits");
    session.context.synchronize().expect("no fault");
    if ordered {
        let got = session.stream.clone_dtoh(&out).expect("no fault");
        let expected: Vec<u8> = (1..=64i32).flat_map(i32::to_ne_bytes).collect();
        assert_eq!(got, expected);
    }
}

#[test]
fn streams_without_order() {
    let runs = on_emulator(&[&[("STREAMS", "eager")], &[("STREAMS", "lazy")]], || streams(false));
    for run in &runs {
        assert_found(run, Check::StreamOrder, &["produce", "consume"]);
    }
}

#[test]
fn streams_ordered_by_an_event() {
    let orders = [("STREAMS", "eager"), ("STREAMS", "lazy")];
    let runs = on_emulator(&orders.each_ref().map(std::slice::from_ref), || streams(true));
    runs.iter().for_each(Run::assert_clean);
}

#[test]
fn faults_surface_when_waited_for_and_stay() {
    let runs = on_emulator(&[&[("CHECKS", "-leak")]], || {
        let session = session();
        let words: Vec<u8> = (0..64i32).flat_map(i32::to_ne_bytes).collect();
        let out = session.stream.clone_htod(&words).expect("there is room");
        let next = session.function("produce");
        start(&session, &Launch::line("trapped", 1, 64, vec![]), &[&out]).expect("not known yet");
        assert!(session.stream.synchronize().is_err());
        assert!(session.stream.synchronize().is_err(), "the context is lost for good");
        assert!(session.stream.alloc_zeros::<u8>(16).is_err());
        let args = [0u64.to_ne_bytes().to_vec()];
        let shape = Launch::line("produce", 1, 64, vec![]);
        assert!(launch(&session.stream, &next, &shape, &args).is_err());
    });
    assert_found(&runs[0], Check::Trap, &["trapped"]);
    assert_eq!(runs[0].findings().len(), 1);
}
