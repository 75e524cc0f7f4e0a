//! Captured graphs.

use cudarc::driver::{
    DevicePtr, DriverError, LaunchConfig, PushKernelArg, result,
    sys::{
        CUgraphExecUpdateResultInfo, CUgraphInstantiate_flags, CUstreamCaptureMode as Mode,
        CUstreamCaptureStatus as Status, cuGraphExecUpdate_v2,
    },
};

use super::kernels::session;
use crate::common::emulator::on_emulator;

const EAGER: &[(&str, &str)] = &[];
const LAZY: &[(&str, &str)] = &[("STREAMS", "lazy"), ("SEED", "1")];
const FLAGS: CUgraphInstantiate_flags = CUgraphInstantiate_flags(0);

fn code<T>(result: Result<T, DriverError>) -> u32 {
    result.err().map_or(0, |error| error.0 as u32)
}

#[test]
fn a_graph_of_two_streams_replays() {
    for run in on_emulator(&[EAGER, LAZY, &[("STREAMS", "lazy"), ("SEED", "3")]], || {
        let session = session().expect("loads");
        let stream = &session.stream;
        let other = session.context.new_stream().expect("made");
        let function = session.function("add");
        let mut x = stream.clone_htod(&[0f32; 64]).expect("copied");
        let mut y = stream.clone_htod(&[0f32; 64]).expect("copied");
        stream.synchronize().expect("runs");
        stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL).expect("begins");
        assert_eq!(stream.capture_status(), Ok(Status::CU_STREAM_CAPTURE_STATUS_ACTIVE));
        other.join(stream).expect("joins");
        for (stream, buffer) in [(stream, &mut x), (&other, &mut y)] {
            let mut launch = stream.launch_builder(&function);
            launch.arg(buffer).arg(&64u32).arg(&1f32);
            // SAFETY: these are the kernel's parameters.
            unsafe { launch.launch(LaunchConfig::for_num_elems(64)) }.expect("captured");
        }
        stream.join(&other).expect("joined");
        stream.memcpy_dtod(&y, &mut x.slice_mut(..)).expect("captured");
        let graph = stream.end_capture(FLAGS).expect("whole").expect("a graph");
        assert_eq!(stream.clone_dtoh(&x), Ok(vec![0f32; 64]));
        for _ in 0..5 {
            graph.launch().expect("launched");
        }
        assert_eq!(stream.clone_dtoh(&x), Ok(vec![5f32; 64]));
        drop((x, y));
        session.context.synchronize().expect("runs");
    }) {
        run.passed().found(&[]);
        assert_eq!(run.report["kernels"]["add"]["launches"], 10);
    }
}

#[test]
fn unordered_branches_of_a_graph_are_found() {
    for run in on_emulator(&[EAGER, LAZY], || {
        let session = session().expect("loads");
        let stream = &session.stream;
        let other = session.context.new_stream().expect("made");
        let mut x = stream.clone_htod(&[0u32; 64]).expect("copied");
        stream.synchronize().expect("runs");
        stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_RELAXED).expect("begins");
        other.join(stream).expect("joins");
        stream.memset_zeros(&mut x).expect("captured");
        other.memset_zeros(&mut x).expect("captured");
        stream.join(&other).expect("joined");
        let graph = stream.end_capture(FLAGS).expect("whole").expect("a graph");
        graph.launch().expect("launched");
        stream.synchronize().expect("runs");
    }) {
        run.passed().found(&["stream-order"]).says("branch 1 of a graph");
    }
}

#[test]
fn what_a_capture_forbids_ends_it() {
    let runs = on_emulator(&[EAGER], || {
        let session = session().expect("loads");
        let stream = &session.stream;
        let default = session.context.default_stream();
        let mode = Mode::CU_STREAM_CAPTURE_MODE_GLOBAL;
        assert_eq!(code(default.begin_capture(mode)), 900);
        let mut x = stream.alloc_zeros::<u8>(4).expect("fits");
        let outside = stream.record_event(None).expect("recorded");
        let calls: [(&dyn Fn() -> u32, u32); 4] = [
            (&|| code(stream.synchronize()), 900),
            (&|| code(session.context.synchronize()), 900),
            (&|| code(stream.wait(&outside)), 905),
            (&|| code(stream.clone_htod(&[1u8; 4])), 801),
        ];
        for (call, expected) in calls {
            stream.begin_capture(mode).expect("begins");
            assert_eq!(call(), expected);
            assert_eq!(code(stream.end_capture(FLAGS)), 901);
        }
        stream.begin_capture(mode).expect("begins");
        assert_eq!(code(stream.memcpy_htod(&[1u8; 4], &mut x)), 900);
        assert_eq!(code(stream.end_capture(FLAGS)), 901);
        assert_eq!(stream.clone_dtoh(&x), Ok(vec![0; 4]));
    });
    runs[0].passed().found(&[]).says("only copies of pinned memory can be captured");
}

#[test]
fn pinned_copies_are_captured() {
    for run in on_emulator(&[EAGER, LAZY], || {
        let session = session().expect("loads");
        let stream = &session.stream;
        let x = stream.alloc_zeros::<u32>(4).expect("fits");
        let address = x.device_ptr(stream).0;
        // SAFETY: the pinned memory lives until the stream is idle.
        unsafe {
            let pinned = result::malloc_host(16, 0).expect("fits");
            let source = std::slice::from_raw_parts_mut(pinned.cast::<u32>(), 4);
            stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).expect("begins");
            result::memcpy_htod_async(address, source, stream.cu_stream()).expect("captured");
            let graph = stream.end_capture(FLAGS).expect("whole").expect("a graph");
            for value in [5, 6] {
                source.fill(value);
                graph.launch().expect("launched");
                assert_eq!(stream.clone_dtoh(&x), Ok(vec![value; 4]));
            }
            result::free_host(pinned).expect("freed");
        }
    }) {
        run.passed().found(&[]);
    }
}

/// An executable graph takes the arguments of another of the same operations, and refuses others.
#[test]
fn an_executable_graph_is_updated() {
    for run in on_emulator(&[EAGER, LAZY], || {
        let session = session().expect("loads");
        let stream = &session.stream;
        let function = session.function("add");
        let mut x = stream.clone_htod(&[0f32; 64]).expect("copied");
        stream.synchronize().expect("runs");
        let mut capture = |amounts: &[f32]| {
            stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).expect("begins");
            for amount in amounts {
                let mut launch = stream.launch_builder(&function);
                launch.arg(&mut x).arg(&64u32).arg(amount);
                // SAFETY: these are the kernel's parameters.
                unsafe { launch.launch(LaunchConfig::for_num_elems(64)) }.expect("captured");
            }
            // SAFETY: the stream captures.
            unsafe { result::stream::end_capture(stream.cu_stream()) }.expect("a graph")
        };
        let [first, other, longer] =
            [&[1.0, 2.0][..], &[10.0, 20.0], &[1.0, 2.0, 3.0]].map(&mut capture);
        // SAFETY: the handles are alive until they are destroyed, once.
        unsafe {
            let executable = result::graph::instantiate(first, FLAGS).expect("made");
            let update = |graph| {
                let mut info = std::mem::zeroed::<CUgraphExecUpdateResultInfo>();
                code(cuGraphExecUpdate_v2(executable, graph, &raw mut info).result())
            };
            let launch =
                || result::graph::launch(executable, stream.cu_stream()).expect("launched");
            launch();
            assert_eq!(update(other), 0);
            launch();
            assert_eq!(update(longer), 910);
            // A failed update leaves it as it was.
            launch();
            for graph in [first, other, longer] {
                result::graph::destroy(graph).expect("destroyed");
            }
            launch();
            result::graph::exec_destroy(executable).expect("destroyed");
        }
        assert_eq!(stream.clone_dtoh(&x), Ok(vec![3.0 + 3.0 * 30.0; 64]));
    }) {
        run.passed().found(&[]);
    }
}
