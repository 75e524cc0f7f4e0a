//! Named spans of a run, for a profiler.
//!
//! [`record`] keeps those that end while it runs. With the environment's `QLORA_NVTX=1` they are also NVTX
//! ranges, which Nsight Systems shows beside the kernels (`scripts/profile-nsys.sh`). Otherwise, and without
//! the `cuda` feature or `libnvToolsExt`, a span costs a relaxed load.

use std::borrow::Cow;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

static RECORDING: AtomicBool = AtomicBool::new(false);
static EVENTS: Mutex<Vec<Event>> = Mutex::new(Vec::new());

thread_local! {
    /// Recorded spans that this thread is in.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// A span that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What it was.
    pub name: Cow<'static, str>,
    /// The thread that began it.
    pub thread: ThreadId,
    /// When it began.
    pub start: Instant,
    /// How long it took.
    pub duration: Duration,
    /// Recorded spans of the same thread around it.
    pub depth: usize,
}

/// Runs `work` and returns the spans of all threads that began and ended meanwhile, in order of their
/// ends. One recording runs at a time; another waits for it, so `work` must not record.
pub fn record<T>(work: impl FnOnce() -> T) -> (T, Vec<Event>) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    events().clear();
    let recording = Recording::begin();
    let result = work();
    drop(recording);
    (result, std::mem::take(&mut events()))
}

/// Turns the recording off again, also where `work` panics.
struct Recording;

impl Recording {
    fn begin() -> Self {
        RECORDING.store(true, Ordering::Relaxed);
        Self
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        RECORDING.store(false, Ordering::Relaxed);
    }
}

fn events() -> MutexGuard<'static, Vec<Event>> {
    // A push is all that happens under the lock, so what a panic leaves is whole.
    EVENTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A span that ends when it is dropped.
#[derive(Debug)]
#[must_use = "the span ends at once"]
pub struct Span {
    recorded: Option<Recorded>,
    #[cfg(feature = "cuda")]
    _range: Option<cudarc::nvtx::Range>,
}

#[derive(Debug)]
struct Recorded {
    name: Cow<'static, str>,
    thread: ThreadId,
    start: Instant,
    depth: usize,
}

/// Begins a span; the name is made only where it is seen.
pub fn span<S: Into<Cow<'static, str>>>(name: impl Fn() -> S) -> Span {
    Span {
        recorded: RECORDING.load(Ordering::Relaxed).then(|| Recorded::begin(name().into())),
        #[cfg(feature = "cuda")]
        _range: nvtx().then(|| cudarc::nvtx::scoped_range::<Cow<'static, str>>(name().into())),
    }
}

impl Recorded {
    fn begin(name: Cow<'static, str>) -> Self {
        let depth = DEPTH.get();
        DEPTH.set(depth + 1);
        Self { name, thread: std::thread::current().id(), start: Instant::now(), depth }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(Recorded { name, thread, start, depth }) = self.recorded.take() else { return };
        let duration = start.elapsed();
        DEPTH.set(depth);
        events().push(Event { name, thread, start, duration, depth });
    }
}

#[cfg(feature = "cuda")]
fn nvtx() -> bool {
    static WANTED: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
        std::env::var_os("QLORA_NVTX").is_some_and(|value| value == "1") && crate::cuda::has_nvtx()
    });
    *WANTED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_recorded_with_what_is_around_them_and_only_while_asked_for() {
        let outer = span(|| "not recorded");
        let ((), events) = record(|| {
            let _step = span(|| format!("step {}", 1));
            for name in ["first", "second"] {
                let _span = span(|| name);
            }
        });
        drop(outer);
        // Tests of other threads may record theirs.
        let mine: Vec<&Event> =
            events.iter().filter(|event| event.thread == std::thread::current().id()).collect();
        let depths: Vec<_> = mine.iter().map(|event| (&*event.name, event.depth)).collect();
        assert_eq!(depths, [("first", 1), ("second", 1), ("step 1", 0)]);
        let [first, second, step] = mine[..] else { unreachable!("just counted") };
        let end = |event: &Event| event.start + event.duration;
        assert!(
            step.start <= first.start && end(first) <= second.start && end(second) <= end(step)
        );
        assert!(!record(|| ()).1.iter().any(|event| event.thread == step.thread));
    }

    #[test]
    fn threads_nest_on_their_own() {
        let ((), events) = record(|| {
            let _span = span(|| "around threads");
            std::thread::scope(|scope| {
                scope.spawn(|| drop(span(|| "on a thread")));
            });
        });
        let find = |name| events.iter().find(|event| event.name == name).expect("recorded");
        let (outer, inner) = (find("around threads"), find("on a thread"));
        assert_ne!(outer.thread, inner.thread);
        assert_eq!((outer.depth, inner.depth), (0, 0));
    }
}
