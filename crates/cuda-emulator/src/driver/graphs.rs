//! Launching captured graphs.

use std::sync::Arc;

use crate::driver::{
    capture::Step,
    error::{Code, Status},
    state::{Executable, Graph, Id, State},
    timeline::Point,
    work::{Action, Work},
};

impl State {
    /// `cuGraphInstantiate`.
    pub(crate) fn instantiate(&mut self, graph: Id, flags: u64) -> Status<Id> {
        const DEVICE_LAUNCH: u64 = 4;
        // Automatic frees, upload and node priorities change nothing here.
        const KNOWN: u64 = 1 | 2 | 8;
        if flags & DEVICE_LAUNCH != 0 || flags & !KNOWN != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let Graph { context, ref program } = *self.graphs.get(graph)?;
        let program = Arc::clone(program);
        let lanes = (1..program.lanes).map(|_| (self.timeline.add_lane(), None)).collect();
        let id = self.fresh();
        Ok(self.executables.insert(id, Executable { context, program, lanes, last: None }))
    }

    /// `cuGraphExecUpdate` for graphs of the same shape: kernels may change their arguments.
    pub(crate) fn update_executable(&mut self, executable: Id, graph: Id) -> Status {
        let new = Arc::clone(&self.graphs.get(graph)?.program);
        let executable = self.executables.get_mut(executable)?;
        let same = |a: &Step, b: &Step| match (a, b) {
            (Step::Work { lane: a, work: x }, Step::Work { lane: b, work: y }) => {
                a == b && x.name == y.name
            }
            (Step::Record { lane: a, event: x }, Step::Record { lane: b, event: y })
            | (Step::Wait { lane: a, event: x }, Step::Wait { lane: b, event: y }) => {
                (a, x) == (b, y)
            }
            _ => false,
        };
        let old = &executable.program;
        if old.lanes != new.lanes
            || old.steps.len() != new.steps.len()
            || !old.steps.iter().zip(&new.steps).all(|(a, b)| same(a, b))
        {
            return Err(Code::GRAPH_EXEC_UPDATE_FAILURE);
        }
        executable.program = new;
        Ok(())
    }

    /// `cuGraphLaunch`.
    pub(crate) fn launch_graph(&mut self, id: Id, stream: Id) -> Status {
        self.check_implicit(stream)?;
        let context = self.context()?;
        let entry = self.streams.get(stream)?;
        if let Some(capture) = entry.capture {
            self.captures.get_mut(capture)?.invalid = true;
            self.journal.warn("launching a graph into a capture is not supported".into());
            return Err(Code::NOT_SUPPORTED);
        }
        let executable = self.executables.get(id)?;
        let program = Arc::clone(&executable.program);
        let mut lanes = executable.lanes.clone();
        let start = Work { context, name: "cuGraphLaunch".into(), action: Action::Marker };
        // A graph runs once at a time.
        let after: Vec<_> = executable.last.iter().cloned().collect();
        let mut last = self.enqueue(stream, start, after)?;
        let mut events: Vec<Option<Arc<Point>>> = vec![None; program.events];
        for step in &program.steps {
            match step {
                Step::Record { lane: 0, event } => events[*event] = Some(Arc::clone(&last)),
                Step::Record { lane, event } => events[*event].clone_from(&lanes[lane - 1].1),
                Step::Work { lane, work } => {
                    self.replay(&mut lanes, stream, *lane, work, None, &mut last)?;
                }
                Step::Wait { lane, event } => {
                    let name = "cuStreamWaitEvent".into();
                    let work = Work { context, name, action: Action::Marker };
                    let event = events[*event].clone();
                    self.replay(&mut lanes, stream, *lane, &work, event, &mut last)?;
                }
            }
        }
        let executable = self.executables.get_mut(id)?;
        executable.lanes = lanes;
        executable.last = Some(last);
        Ok(())
    }

    /// Submits a step of a graph.
    fn replay(
        &mut self,
        lanes: &mut [(usize, Option<Arc<Point>>)],
        stream: Id,
        lane: usize,
        work: &Work,
        event: Option<Arc<Point>>,
        last: &mut Arc<Point>,
    ) -> Status {
        let mut after: Vec<_> = event.into_iter().collect();
        if lane == 0 {
            *last = self.enqueue(stream, work.clone(), after)?;
        } else {
            let (timeline_lane, lane_last) = &mut lanes[lane - 1];
            after.extend(lane_last.take());
            let place = format!("branch {lane} of a graph");
            let point = self.enqueue_in_lane(*timeline_lane, &place, work.clone(), after);
            *lane_last = Some(point);
        }
        Ok(())
    }
}
