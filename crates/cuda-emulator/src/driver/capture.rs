//! Stream capture: submissions become the steps of a graph instead of running.
//!
//! A graph keeps the streams of its capture as lanes, with events recorded and waited for between
//! them, and so keeps exactly the order that the capture had. Launching it replays the steps, the
//! first lane in the launching stream.

use std::{sync::Arc, thread::ThreadId};

use crate::driver::{
    error::{Code, Status},
    state::{Graph, Id, State, StreamKind},
    work::Work,
};

/// What a capture forbids to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// No thread may make calls that could synchronise.
    Global,
    /// This thread may not.
    ThreadLocal,
    /// Every thread may.
    Relaxed,
}

/// A step of a graph.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Work { lane: usize, work: Work },
    Record { lane: usize, event: usize },
    Wait { lane: usize, event: usize },
}

/// A captured graph.
#[derive(Debug, Default)]
pub(crate) struct Program {
    pub(crate) steps: Vec<Step>,
    pub(crate) lanes: usize,
    pub(crate) events: usize,
}

impl Program {
    /// Number of operations.
    pub(crate) fn nodes(&self) -> usize {
        self.steps.iter().filter(|step| matches!(step, Step::Work { .. })).count()
    }
}

/// A capture in progress.
#[derive(Debug)]
pub(crate) struct Capture {
    pub(crate) context: Id,
    pub(crate) mode: Mode,
    pub(crate) thread: ThreadId,
    /// A call was made that capture forbids.
    pub(crate) invalid: bool,
    /// Streams of the capture; the first is where it began.
    lanes: Vec<Id>,
    steps: Vec<Step>,
    /// For each lane, how many operations of each lane came before its next one.
    before: Vec<Vec<usize>>,
    /// The same for each event.
    events: Vec<Vec<usize>>,
}

impl Capture {
    /// A capture that begins in `stream`.
    pub(crate) fn new(context: Id, stream: Id, mode: Mode) -> Self {
        Self {
            context,
            mode,
            thread: std::thread::current().id(),
            invalid: false,
            lanes: vec![stream],
            steps: Vec::new(),
            before: vec![vec![0]],
            events: Vec::new(),
        }
    }

    fn lane(&self, stream: Id) -> Status<usize> {
        if self.invalid {
            return Err(Code::STREAM_CAPTURE_INVALIDATED);
        }
        self.lanes.iter().position(|lane| *lane == stream).ok_or(Code::ILLEGAL_STATE)
    }

    /// Appends work.
    pub(crate) fn work(&mut self, stream: Id, work: Work) -> Status {
        let lane = self.lane(stream)?;
        self.before[lane][lane] += 1;
        self.steps.push(Step::Work { lane, work });
        Ok(())
    }

    /// Records an event; its index.
    pub(crate) fn record(&mut self, stream: Id) -> Status<usize> {
        let lane = self.lane(stream)?;
        self.events.push(self.before[lane].clone());
        let event = self.events.len() - 1;
        self.steps.push(Step::Record { lane, event });
        Ok(event)
    }

    /// Waits for an event; a stream that does so for the first time joins the capture.
    pub(crate) fn wait(&mut self, stream: Id, event: usize) -> Status {
        if !self.invalid && !self.lanes.contains(&stream) {
            self.lanes.push(stream);
            for before in &mut self.before {
                before.push(0);
            }
            self.before.push(vec![0; self.lanes.len()]);
        }
        let lane = self.lane(stream)?;
        for (before, event) in self.before[lane].iter_mut().zip(&self.events[event]) {
            *before = (*before).max(*event);
        }
        self.steps.push(Step::Wait { lane, event });
        Ok(())
    }

    /// Whether work of another stream is not waited for by the first.
    fn unjoined(&self) -> bool {
        (0..self.lanes.len())
            .any(|lane| self.before[0].get(lane).copied().unwrap_or(0) < self.before[lane][lane])
    }

    /// The graph, if the capture is whole.
    pub(crate) fn end(self) -> Status<Program> {
        if self.invalid {
            return Err(Code::STREAM_CAPTURE_INVALIDATED);
        }
        if self.unjoined() {
            return Err(Code::STREAM_CAPTURE_UNJOINED);
        }
        Ok(Program { steps: self.steps, lanes: self.lanes.len(), events: self.events.len() })
    }
}

impl State {
    /// `cuStreamBeginCapture`.
    pub(crate) fn begin_capture(&mut self, stream: Id, mode: Mode) -> Status {
        let entry = self.streams.get(stream)?;
        if entry.kind == StreamKind::Legacy {
            self.journal.warn("the default stream cannot be captured".into());
            return Err(Code::STREAM_CAPTURE_UNSUPPORTED);
        }
        if entry.capture.is_some() {
            return Err(Code::ILLEGAL_STATE);
        }
        let context = entry.context;
        let id = self.fresh();
        self.captures.insert(id, Capture::new(context, stream, mode));
        self.streams.get_mut(stream)?.capture = Some(id);
        Ok(())
    }

    /// `cuStreamEndCapture`: the graph's handle.
    pub(crate) fn end_capture(&mut self, stream: Id) -> Status<Id> {
        let id = self.streams.get(stream)?.capture.ok_or(Code::ILLEGAL_STATE)?;
        let capture = self.captures.get(id)?;
        if capture.lanes[0] != stream {
            self.captures.get_mut(id)?.invalid = true;
            return Err(Code::STREAM_CAPTURE_UNMATCHED);
        }
        if capture.mode != Mode::Relaxed && capture.thread != std::thread::current().id() {
            return Err(Code::STREAM_CAPTURE_WRONG_THREAD);
        }
        let capture = self.captures.remove(id)?;
        for stream in self.streams.values_mut().filter(|stream| stream.capture == Some(id)) {
            stream.capture = None;
        }
        let context = capture.context;
        let program = Arc::new(capture.end()?);
        let graph = self.fresh();
        Ok(self.graphs.insert(graph, Graph { context, program }))
    }

    /// Waits for an event that was recorded into a capture.
    pub(crate) fn wait_captured(&mut self, stream: Id, capture: Id, event: usize) -> Status {
        let entry = self.streams.get(stream)?;
        match entry.capture {
            None if self.captures.get(capture).is_err() => Err(Code::CAPTURED_EVENT),
            None if entry.kind == StreamKind::Legacy => {
                self.captures.get_mut(capture)?.invalid = true;
                Err(Code::STREAM_CAPTURE_IMPLICIT)
            }
            None => {
                self.captures.get_mut(capture)?.wait(stream, event)?;
                self.streams.get_mut(stream)?.capture = Some(capture);
                Ok(())
            }
            Some(own) if own == capture => self.captures.get_mut(capture)?.wait(stream, event),
            Some(own) => {
                self.captures.get_mut(own)?.invalid = true;
                if let Ok(other) = self.captures.get_mut(capture) {
                    other.invalid = true;
                    return Err(Code::STREAM_CAPTURE_MERGE);
                }
                Err(Code::STREAM_CAPTURE_ISOLATION)
            }
        }
    }

    /// The legacy default stream would wait for blocking streams, which must not be capturing.
    pub(crate) fn check_implicit(&mut self, stream: Id) -> Status {
        let entry = self.streams.get(stream)?;
        if entry.kind != StreamKind::Legacy {
            return Ok(());
        }
        let context = entry.context;
        let captures: Vec<Id> = self
            .streams
            .iter()
            .filter(|(_, s)| s.context == context && s.kind == StreamKind::Blocking)
            .filter_map(|(_, s)| s.capture)
            .collect();
        self.invalidate(&captures, Code::STREAM_CAPTURE_IMPLICIT)
    }

    /// The host cannot wait for a stream that captures.
    pub(crate) fn check_not_captured(&mut self, stream: Id) -> Status {
        self.check_implicit(stream)?;
        let capture: Vec<Id> = self.streams.get(stream)?.capture.into_iter().collect();
        self.invalidate(&capture, Code::STREAM_CAPTURE_UNSUPPORTED)
    }

    /// The host cannot wait for a context of which a stream captures.
    pub(crate) fn check_no_capture(&mut self, context: Id) -> Status {
        let captures: Vec<Id> = self
            .captures
            .iter()
            .filter(|(_, capture)| capture.context == context)
            .map(|(id, _)| id)
            .collect();
        self.invalidate(&captures, Code::STREAM_CAPTURE_UNSUPPORTED)
    }

    /// Calls that may synchronise are forbidden to this thread while it, or any with a global
    /// capture, captures.
    pub(crate) fn check_unsafe_call(&mut self) -> Status {
        let thread = std::thread::current().id();
        let captures: Vec<Id> = self
            .captures
            .iter()
            .filter(|(_, capture)| match capture.mode {
                Mode::Global => true,
                Mode::ThreadLocal => capture.thread == thread,
                Mode::Relaxed => false,
            })
            .map(|(id, _)| id)
            .collect();
        self.invalidate(&captures, Code::STREAM_CAPTURE_UNSUPPORTED)
    }

    fn invalidate(&mut self, captures: &[Id], code: Code) -> Status {
        for id in captures {
            self.captures.get_mut(*id)?.invalid = true;
        }
        if captures.is_empty() { Ok(()) } else { Err(code) }
    }

    /// `cuStreamIsCapturing`: none, active or invalidated.
    pub(crate) fn capture_status(&mut self, stream: Id) -> Status<(u32, Id)> {
        self.check_implicit_query(stream)?;
        match self.streams.get(stream)?.capture {
            None => Ok((0, 0)),
            Some(id) => Ok((if self.captures.get(id)?.invalid { 2 } else { 1 }, id)),
        }
    }

    /// Asking for the legacy stream's status fails during a blocking capture but does no harm.
    fn check_implicit_query(&self, stream: Id) -> Status {
        let entry = self.streams.get(stream)?;
        let implicit = entry.kind == StreamKind::Legacy
            && self.streams.iter().any(|(_, other)| {
                other.context == entry.context
                    && other.kind == StreamKind::Blocking
                    && other.capture.is_some()
            });
        if implicit { Err(Code::STREAM_CAPTURE_IMPLICIT) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::{state::EventState, work::Action};

    fn work() -> Work {
        Work { context: 1, name: "work".into(), action: Action::Marker }
    }

    #[test]
    fn a_fork_must_be_joined() {
        for joined in [false, true] {
            let mut capture = Capture::new(1, 10, Mode::Global);
            capture.work(10, work()).expect("in capture");
            let fork = capture.record(10).expect("in capture");
            assert_eq!(capture.work(20, work()), Err(Code::ILLEGAL_STATE));
            capture.wait(20, fork).expect("joins");
            capture.work(20, work()).expect("in capture");
            let join = capture.record(20).expect("in capture");
            if joined {
                capture.wait(10, join).expect("in capture");
            }
            capture.work(10, work()).expect("in capture");
            match capture.end() {
                Ok(program) => {
                    assert!(joined);
                    assert_eq!((program.lanes, program.events), (2, 2));
                    assert_eq!(program.steps.len(), 7);
                }
                Err(code) => assert!(!joined && code == Code::STREAM_CAPTURE_UNJOINED),
            }
        }
    }

    #[test]
    fn a_join_through_a_third_stream_counts() {
        let mut capture = Capture::new(1, 10, Mode::Global);
        let fork = capture.record(10).expect("in capture");
        capture.wait(20, fork).expect("joins");
        capture.work(20, work()).expect("in capture");
        let event = capture.record(20).expect("in capture");
        capture.wait(30, event).expect("joins");
        let event = capture.record(30).expect("in capture");
        capture.wait(10, event).expect("in capture");
        assert!(capture.end().is_ok());
    }

    #[test]
    fn an_invalid_capture_stays_so() {
        let mut capture = Capture::new(1, 10, Mode::Global);
        capture.invalid = true;
        let invalid = Code::STREAM_CAPTURE_INVALIDATED;
        assert_eq!(capture.work(10, work()), Err(invalid));
        assert_eq!(capture.record(10), Err(invalid));
        assert_eq!(capture.end().err(), Some(invalid));
    }

    /// A state with a current context, which captures in a blocking stream.
    fn capturing(mode: Mode) -> (State, Id, Id) {
        let mut state = State::new(Ok(crate::driver::settings::Settings::default()));
        let context = state.create_context(0);
        let stream = state.add_stream(context, StreamKind::Blocking, 0);
        state.begin_capture(stream, mode).expect("begins");
        (state, context, stream)
    }

    #[test]
    fn forbidden_calls_invalidate() {
        type Call = fn(&mut State, Id, Id) -> Status;
        let calls: [(&str, Call, Code); 6] = [
            ("stream", |s, _, stream| s.synchronize_stream(stream), Code(900)),
            ("context", |s, context, _| s.synchronize_context(context), Code(900)),
            ("alloc", |s, _, _| s.check_unsafe_call(), Code(900)),
            (
                "legacy",
                |s, _, _| {
                    let legacy = s.stream(0)?;
                    s.submit(legacy, "memset", Action::Marker).map(drop)
                },
                Code(906),
            ),
            (
                "isolation",
                |s, context, stream| {
                    let other = s.add_stream(context, StreamKind::NonBlocking, 0);
                    let event = s.create_event(0)?;
                    s.record_event(event, other)?;
                    s.wait_event(stream, event)
                },
                Code(905),
            ),
            (
                "captured event",
                |s, _, stream| {
                    let event = s.create_event(0)?;
                    s.record_event(event, stream)?;
                    s.synchronize_event(event)
                },
                Code(907),
            ),
        ];
        for (name, call, code) in calls {
            let (mut state, context, stream) = capturing(Mode::Global);
            assert_eq!(call(&mut state, context, stream), Err(code), "{name}");
            assert_eq!(state.capture_status(stream).map(|s| s.0), Ok(2), "{name}");
            let after = state.submit(stream, "work", Action::Marker).map(drop);
            assert_eq!(after, Err(Code::STREAM_CAPTURE_INVALIDATED), "{name}");
            assert_eq!(state.end_capture(stream), Err(Code::STREAM_CAPTURE_INVALIDATED), "{name}");
            assert_eq!(state.synchronize_stream(stream), Ok(()), "{name}");
        }
    }

    #[test]
    fn relaxed_captures_allow_other_calls() {
        let (mut state, _, stream) = capturing(Mode::Relaxed);
        assert_eq!(state.check_unsafe_call(), Ok(()));
        assert!(state.end_capture(stream).is_ok());
        let legacy = state.stream(0).expect("current");
        assert_eq!(
            state.begin_capture(legacy, Mode::Relaxed),
            Err(Code::STREAM_CAPTURE_UNSUPPORTED)
        );
    }

    #[test]
    fn a_graph_replays_in_order() {
        let (mut state, context, stream) = capturing(Mode::ThreadLocal);
        let other = state.add_stream(context, StreamKind::NonBlocking, 0);
        let event = state.create_event(0).expect("created");
        state.record_event(event, stream).expect("recorded");
        state.wait_event(other, event).expect("joins");
        state.submit(other, "work", Action::Marker).expect("captured");
        assert_eq!(state.end_capture(other), Err(Code::STREAM_CAPTURE_UNMATCHED));
        let (mut state, context, stream) = capturing(Mode::ThreadLocal);
        let other = state.add_stream(context, StreamKind::NonBlocking, 0);
        let event = state.create_event(0).expect("created");
        state.record_event(event, stream).expect("recorded");
        state.wait_event(other, event).expect("joins");
        state.submit(other, "work", Action::Marker).expect("captured");
        state.record_event(event, other).expect("recorded");
        state.wait_event(stream, event).expect("captured");
        assert_eq!(state.operations, 0);
        let graph = state.end_capture(stream).expect("whole");
        assert_eq!(state.instantiate(graph, 1 | 4), Err(Code::INVALID_VALUE));
        let executable = state.instantiate(graph, 1).expect("made");
        for launch in 1..3 {
            state.launch_graph(executable, stream).expect("launched");
            assert_eq!(state.operations, launch * 4);
        }
        assert_eq!(state.synchronize_stream(stream), Ok(()));
        assert!(matches!(
            state.events.get(event).map(|e| &e.state),
            Ok(EventState::Captured { .. })
        ));
        assert_eq!(state.update_executable(executable, graph), Ok(()));
    }
}
