//! `cuEvent…`.

use crate::driver::{
    error::Code,
    ffi::{api, pointers::Out},
};

api! {
    fn cuEventCreate(s, event: Out<u64>, flags: u32) { event.set(s.create_event(flags)?) }
    fn cuEventDestroy_v2(s, event: u64) { s.destroy_event(event) }
    fn cuEventRecord(s, event: u64, stream: u64) {
        let stream = s.stream(stream)?;
        s.record_event(event, stream)
    }
    fn cuEventRecordWithFlags(s, event: u64, stream: u64, flags: u32) {
        let stream = s.stream(stream)?;
        if flags != 0 {
            s.journal.warn(format!("cuEventRecordWithFlags: flags {flags:#x} are not supported"));
            return Err(Code::NOT_SUPPORTED);
        }
        s.record_event(event, stream)
    }
    fn cuEventSynchronize(s, event: u64) { s.synchronize_event(event) }
    fn cuEventQuery(s, event: u64) { s.query_event(event) }
    fn cuEventElapsedTime(s, milliseconds: Out<f32>, start: u64, end: u64) {
        milliseconds.set(s.elapsed(start, end)?)
    }
    fn cuEventElapsedTime_v2(s, milliseconds: Out<f32>, start: u64, end: u64) {
        milliseconds.set(s.elapsed(start, end)?)
    }
}
