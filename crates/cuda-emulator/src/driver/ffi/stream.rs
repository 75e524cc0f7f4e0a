//! `cuStream…` and functions of the host in streams.

use crate::driver::{
    capture::Mode,
    error::{Code, Status},
    ffi::{
        api,
        pointers::{Callback, HostFunction, Out, StreamFunction},
    },
    state::{State, StreamKind},
};

fn create(s: &mut State, flags: u32, priority: i32) -> Status<u64> {
    let context = s.context()?;
    let kind = match flags {
        0 => StreamKind::Blocking,
        1 => StreamKind::NonBlocking,
        _ => return Err(Code::INVALID_VALUE),
    };
    Ok(s.add_stream(context, kind, priority))
}

api! {
    fn cuStreamCreate(s, stream: Out<u64>, flags: u32) { stream.set(create(s, flags, 0)?) }
    fn cuStreamCreateWithPriority(s, stream: Out<u64>, flags: u32, priority: i32) {
        stream.set(create(s, flags, priority)?)
    }
    fn cuStreamDestroy_v2(s, stream: u64) { s.destroy_stream(stream) }
    fn cuStreamSynchronize(s, stream: u64) {
        let stream = s.stream(stream)?;
        s.synchronize_stream(stream)
    }
    fn cuStreamQuery(s, stream: u64) {
        let stream = s.stream(stream)?;
        s.query_stream(stream)
    }
    fn cuStreamWaitEvent(s, stream: u64, event: u64, flags: u32) {
        let stream = s.stream(stream)?;
        if flags != 0 {
            s.journal.warn(format!("cuStreamWaitEvent: flags {flags:#x} are not supported"));
            return Err(Code::NOT_SUPPORTED);
        }
        s.wait_event(stream, event)
    }
    fn cuStreamGetFlags(s, stream: u64, flags: Out<u32>) {
        let stream = s.stream(stream)?;
        flags.set((s.streams.get(stream)?.kind == StreamKind::NonBlocking).into())
    }
    fn cuStreamGetPriority(s, stream: u64, priority: Out<i32>) {
        let stream = s.stream(stream)?;
        priority.set(s.streams.get(stream)?.priority)
    }
    fn cuStreamGetCtx(s, stream: u64, context: Out<u64>) {
        let stream = s.stream(stream)?;
        context.set(s.streams.get(stream)?.context)
    }
    fn cuStreamGetId(s, stream: u64, id: Out<u64>) {
        let stream = s.stream(stream)?;
        id.set(stream)
    }
    fn cuStreamGetDevice(s, stream: u64, device: Out<i32>) {
        s.stream(stream)?;
        device.set(0)
    }
    fn cuStreamBeginCapture_v2(s, stream: u64, mode: u32) {
        let stream = s.stream(stream)?;
        let mode = match mode {
            0 => Mode::Global,
            1 => Mode::ThreadLocal,
            2 => Mode::Relaxed,
            _ => return Err(Code::INVALID_VALUE),
        };
        s.begin_capture(stream, mode)
    }
    fn cuStreamEndCapture(s, stream: u64, graph: Out<u64>) {
        let stream = s.stream(stream)?;
        match s.end_capture(stream) {
            Ok(id) => graph.set(id),
            Err(code) => {
                graph.set_if_wanted(0);
                Err(code)
            }
        }
    }
    fn cuStreamIsCapturing(s, stream: u64, status: Out<u32>) {
        let stream = s.stream(stream)?;
        status.set(s.capture_status(stream)?.0)
    }
    fn cuStreamGetCaptureInfo_v2(s, stream: u64, status: Out<u32>, id: Out<u64>, graph: Out<u64>,
        dependencies: Out<u64>, count: Out<usize>) {
        let stream = s.stream(stream)?;
        let (state, capture) = s.capture_status(stream)?;
        if state != 0 && !(graph.is_null() && dependencies.is_null() && count.is_null()) {
            s.journal.warn("graphs in the making cannot be looked at".into());
            return Err(Code::NOT_SUPPORTED);
        }
        id.set_if_wanted(capture);
        status.set(state)
    }
    fn cuLaunchHostFunc(s, stream: u64, function: Option<HostFunction>, data: usize) {
        let function = function.ok_or(Code::INVALID_VALUE)?;
        s.launch_host(stream, Callback::Host(function, data))
    }
    fn cuStreamAddCallback(s, stream: u64, function: Option<StreamFunction>, data: usize, flags: u32) {
        let function = function.ok_or(Code::INVALID_VALUE)?;
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        s.launch_host(stream, Callback::Stream(function, data, stream))
    }
}
