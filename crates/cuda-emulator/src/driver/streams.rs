//! Streams and events: submitting work, running it, waiting for it.

use std::sync::Arc;

use crate::driver::{
    error::{Code, Status},
    state::{Event, EventState, Id, Labelled, State, Stream, StreamKind},
    timeline::Point,
    work::{Action, Work},
};

/// Operations that may wait in lazy mode; beyond it some run.
const QUEUE: usize = 4096;

/// The legacy default stream's explicit handle.
const LEGACY: Id = 1;
/// The per-thread default stream's handle.
const PER_THREAD: Id = 2;

/// Least urgent and most urgent priority of a stream.
pub(crate) const PRIORITIES: (i32, i32) = (0, -5);

impl State {
    /// A new stream of a context.
    pub(crate) fn add_stream(&mut self, context: Id, kind: StreamKind, priority: i32) -> Id {
        let lane = self.timeline.add_lane();
        let id = self.fresh();
        let priority = priority.clamp(PRIORITIES.1, PRIORITIES.0);
        self.streams.insert(id, Stream { context, kind, priority, lane, last: None, capture: None })
    }

    /// The stream that a handle means in the current context.
    pub(crate) fn stream(&mut self, handle: Id) -> Status<Id> {
        let context = self.context()?;
        match handle {
            0 | LEGACY => Ok(self.contexts.get(context)?.legacy),
            PER_THREAD => {
                let thread = std::thread::current().id();
                if let Some(id) = self.contexts.get(context)?.per_thread.get(&thread) {
                    return Ok(*id);
                }
                let id = self.add_stream(context, StreamKind::Blocking, 0);
                self.contexts.get_mut(context)?.per_thread.insert(thread, id);
                Ok(id)
            }
            id if self.streams.get(id)?.context == context => Ok(id),
            _ => Err(Code::INVALID_HANDLE),
        }
    }

    /// How findings name a stream.
    fn stream_name(&self, id: Id) -> String {
        match self.streams.get(id) {
            Ok(stream) if stream.kind == StreamKind::Legacy => "the default stream".into(),
            _ => format!("stream {id:#x}"),
        }
    }

    /// The last operations that a new one of the stream comes after.
    fn predecessors(&self, id: Id) -> Status<Vec<Arc<Point>>> {
        let stream = self.streams.get(id)?;
        let waits_for = |other: &Stream| match stream.kind {
            StreamKind::Legacy => other.kind == StreamKind::Blocking,
            StreamKind::Blocking => other.kind == StreamKind::Legacy,
            StreamKind::NonBlocking => false,
        };
        Ok(self
            .streams
            .iter()
            .filter(|(other_id, other)| {
                *other_id == id || (other.context == stream.context && waits_for(other))
            })
            .filter_map(|(_, other)| other.last.clone())
            .collect())
    }

    /// Appends work to a stream, or to the graph that it captures; then there is no point.
    pub(crate) fn submit(
        &mut self,
        stream: Id,
        name: &str,
        action: Action,
    ) -> Status<Option<Arc<Point>>> {
        self.submit_after(stream, name, action, None)
    }

    fn submit_after(
        &mut self,
        stream: Id,
        name: &str,
        action: Action,
        after: Option<Arc<Point>>,
    ) -> Status<Option<Arc<Point>>> {
        self.check_implicit(stream)?;
        let Stream { context, capture, .. } = *self.streams.get(stream)?;
        let work = Work { context, name: name.into(), action };
        if let Some(capture) = capture {
            self.captures.get_mut(capture)?.work(stream, work)?;
            return Ok(None);
        }
        self.enqueue(stream, work, after.into_iter().collect()).map(Some)
    }

    /// Appends work to a stream that captures nothing.
    pub(crate) fn enqueue(
        &mut self,
        stream: Id,
        work: Work,
        mut after: Vec<Arc<Point>>,
    ) -> Status<Arc<Point>> {
        after.extend(self.predecessors(stream)?);
        let lane = self.streams.get(stream)?.lane;
        let name = self.stream_name(stream);
        let point = self.enqueue_in_lane(lane, &name, work, after);
        self.streams.get_mut(stream)?.last = Some(Arc::clone(&point));
        Ok(point)
    }

    /// Appends work to a lane, whose last point the caller names in `after`.
    pub(crate) fn enqueue_in_lane(
        &mut self,
        lane: usize,
        place: &str,
        work: Work,
        after: Vec<Arc<Point>>,
    ) -> Arc<Point> {
        self.operations += 1;
        let label = format!("{} #{} in {place}", work.name, self.operations).into();
        let point = self.timeline.submit(lane, after, Labelled { label, work });
        let keep = if self.settings.lazy { QUEUE } else { 0 };
        while self.timeline.pending() > keep && self.step() {}
        point
    }

    /// Runs one operation; false if none is left.
    fn step(&mut self) -> bool {
        let Some(ready) = self.timeline.next() else { return false };
        let duration = self.execute(&ready.point, &ready.work);
        let start = ready.start();
        self.timeline.finish(&ready.point, start, duration);
        true
    }

    /// Runs everything that was submitted, without the host knowing.
    pub(crate) fn drain(&mut self) {
        while self.step() {}
    }

    /// The host waits for an operation.
    pub(crate) fn wait(&mut self, point: &Point) {
        while !point.is_done() && self.step() {}
        self.timeline.host_waits(point);
        if self.timeline.pending() == 0 {
            self.hazards.forget_before(self.timeline.host());
        }
    }

    /// The host waits for everything.
    pub(crate) fn wait_for_all(&mut self) {
        self.drain();
        self.timeline.host_waits_for_all();
        self.hazards.forget_before(self.timeline.host());
    }

    /// `cuStreamSynchronize`.
    pub(crate) fn synchronize_stream(&mut self, stream: Id) -> Status {
        self.check_not_captured(stream)?;
        let Stream { context, kind, ref last, .. } = *self.streams.get(stream)?;
        let point = match kind {
            // Its next operation would wait for the blocking streams, so the host does.
            StreamKind::Legacy => self.submit(stream, "cuStreamSynchronize", Action::Marker)?,
            _ => last.clone(),
        };
        if let Some(point) = point {
            self.wait(&point);
        }
        self.surface(context)
    }

    /// `cuCtxSynchronize`.
    pub(crate) fn synchronize_context(&mut self, context: Id) -> Status {
        self.check_no_capture(context)?;
        self.wait_for_all();
        self.surface(context)
    }

    /// `cuStreamQuery`: each query lets one operation run, so that polling ends.
    pub(crate) fn query_stream(&mut self, stream: Id) -> Status {
        self.check_not_captured(stream)?;
        let Stream { context, ref last, .. } = *self.streams.get(stream)?;
        let last = last.clone();
        self.query(context, last)
    }

    fn query(&mut self, context: Id, point: Option<Arc<Point>>) -> Status {
        let Some(point) = point else { return self.surface(context) };
        if !point.is_done() {
            self.step();
        }
        if !point.is_done() {
            return Err(Code::NOT_READY);
        }
        self.wait(&point);
        self.surface(context)
    }

    /// `cuStreamDestroy`: what was submitted still runs.
    pub(crate) fn destroy_stream(&mut self, handle: Id) -> Status {
        let context = self.context()?;
        let stream = self.streams.get(handle)?;
        if stream.context != context || stream.kind == StreamKind::Legacy {
            return Err(Code::INVALID_HANDLE);
        }
        if let Some(capture) = stream.capture {
            self.captures.get_mut(capture)?.invalid = true;
        }
        self.streams.remove(handle).map(drop)
    }

    /// `cuEventCreate`.
    pub(crate) fn create_event(&mut self, flags: u32) -> Status<Id> {
        const DISABLE_TIMING: u32 = 2;
        const INTERPROCESS: u32 = 4;
        let context = self.context()?;
        if flags & !7 != 0 {
            return Err(Code::INVALID_VALUE);
        }
        if flags & INTERPROCESS != 0 {
            self.journal.warn("interprocess events are not supported".into());
            return Err(Code::NOT_SUPPORTED);
        }
        let id = self.fresh();
        let timing = flags & DISABLE_TIMING == 0;
        Ok(self.events.insert(id, Event { context, timing, state: EventState::Never }))
    }

    fn event(&self, id: Id) -> Status<&Event> {
        let context = self.context()?;
        self.events.get(id).and_then(|event| {
            if event.context == context { Ok(event) } else { Err(Code::INVALID_HANDLE) }
        })
    }

    /// `cuEventDestroy`.
    pub(crate) fn destroy_event(&mut self, id: Id) -> Status {
        self.event(id)?;
        self.events.remove(id).map(drop)
    }

    /// `cuEventRecord`.
    pub(crate) fn record_event(&mut self, id: Id, stream: Id) -> Status {
        self.event(id)?;
        self.check_implicit(stream)?;
        let state = match self.streams.get(stream)?.capture {
            Some(capture) => {
                let index = self.captures.get_mut(capture)?.record(stream)?;
                EventState::Captured { capture, index }
            }
            None => match self.submit(stream, "cuEventRecord", Action::Marker)? {
                Some(point) => EventState::At(point),
                None => return Err(Code::ILLEGAL_STATE),
            },
        };
        self.events.get_mut(id)?.state = state;
        Ok(())
    }

    /// `cuStreamWaitEvent`.
    pub(crate) fn wait_event(&mut self, stream: Id, id: Id) -> Status {
        let context = self.context()?;
        // Events of another context may be waited for, unlike other uses of them.
        let event = self.events.get(id)?;
        match event.state {
            EventState::Captured { capture, index } => self.wait_captured(stream, capture, index),
            EventState::Never => Ok(()),
            EventState::At(ref point) => {
                let point = Arc::clone(point);
                if let Some(capture) = self.streams.get(stream)?.capture {
                    self.captures.get_mut(capture)?.invalid = true;
                    return Err(Code::STREAM_CAPTURE_ISOLATION);
                }
                debug_assert_eq!(self.streams.get(stream)?.context, context);
                self.submit_after(stream, "cuStreamWaitEvent", Action::Marker, Some(point))?;
                Ok(())
            }
        }
    }

    /// The point of an event that the host asks for; `None` if it was never recorded.
    fn host_event(&mut self, id: Id) -> Status<(Id, Option<Arc<Point>>)> {
        let event = self.event(id)?;
        let (context, point) = match &event.state {
            EventState::Never => (event.context, None),
            EventState::At(point) => (event.context, Some(Arc::clone(point))),
            EventState::Captured { capture, .. } => {
                let capture = *capture;
                if let Ok(capture) = self.captures.get_mut(capture) {
                    capture.invalid = true;
                }
                return Err(Code::CAPTURED_EVENT);
            }
        };
        self.check_unsafe_call()?;
        Ok((context, point))
    }

    /// `cuEventSynchronize`.
    pub(crate) fn synchronize_event(&mut self, id: Id) -> Status {
        let (context, point) = self.host_event(id)?;
        if let Some(point) = point {
            self.wait(&point);
        }
        self.surface(context)
    }

    /// `cuEventQuery`.
    pub(crate) fn query_event(&mut self, id: Id) -> Status {
        let (context, point) = self.host_event(id)?;
        self.query(context, point)
    }

    /// `cuEventElapsedTime`: milliseconds of the virtual clock.
    pub(crate) fn elapsed(&self, start: Id, end: Id) -> Status<f32> {
        let at = |id| {
            let event = self.event(id)?;
            match (&event.state, event.timing) {
                (EventState::At(point), true) if point.is_done() => Ok(point.end()),
                (EventState::At(_), true) => Err(Code::NOT_READY),
                (EventState::Captured { .. }, true) => Err(Code::CAPTURED_EVENT),
                _ => Err(Code::INVALID_HANDLE),
            }
        };
        let (start, end) = (at(start)?, at(end)?);
        Ok(((end as f64 - start as f64) / 1e6) as f32)
    }
}
