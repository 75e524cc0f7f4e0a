//! The Chrome trace event format: complete events ("X") with times in microseconds.

use std::thread::ThreadId;
use std::time::Duration;

use kernels::trace::Event;
use serde_json::{Value, json};

pub(super) fn trace<'a>(events: impl Iterator<Item = &'a Event> + Clone) -> Value {
    let begin = events.clone().map(|event| event.start).min();
    let microseconds = |time: Duration| time.as_nanos() as f64 / 1e3;
    let mut threads: Vec<ThreadId> = Vec::new();
    let mut number = |thread| {
        threads.iter().position(|known| *known == thread).unwrap_or_else(|| {
            threads.push(thread);
            threads.len() - 1
        })
    };
    let events: Vec<Value> = events
        .map(|event| {
            let since = begin.map_or(Duration::ZERO, |begin| event.start - begin);
            json!({
                "name": event.name,
                "ph": "X",
                "pid": 0,
                "tid": number(event.thread),
                "ts": microseconds(since),
                "dur": microseconds(event.duration),
            })
        })
        .collect();
    json!({ "displayTimeUnit": "ms", "traceEvents": events })
}
