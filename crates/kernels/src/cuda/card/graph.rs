//! Work handed over as CUDA graphs: submissions are captured, and launched together.
//!
//! A training step submits some thousand kernels in the same order as the step before, with other scalars and
//! often other shapes and addresses. So a piece of them is captured anew each time, which costs the host less
//! than launching them, and the executable graph that the same kernels were launched by before is updated to
//! it: nothing has to stay where it was, and no host code is left out. Pieces are short enough for the device
//! to work on one while the host captures the next.

use std::collections::HashMap;
use std::ptr::null_mut;
use std::sync::{MutexGuard, PoisonError};

use cudarc::driver::{CudaStream, DriverError, result, sys};

use super::{Card, device};
use crate::Result;

/// Operations of a graph.
const MOST: usize = 256;
/// Executable graphs that are kept. A step of a large model has some dozen.
const KEPT: usize = 512;

/// Graphs of a device.
#[derive(Debug, Default)]
pub(super) struct Graphs {
    /// Whether work is captured.
    on: bool,
    /// What was captured and not yet launched. The stream captures while there is any.
    captured: Vec<&'static str>,
    /// Allocations to be freed once that is launched.
    freed: Vec<u64>,
    /// By what they launch.
    executables: HashMap<Vec<&'static str>, Executable>,
}

impl Card {
    /// Starts, or ends, handing work over as graphs.
    ///
    /// Errors when what was captured last cannot be launched.
    pub(in crate::cuda) fn capture(&self, on: bool) -> Result<()> {
        let launched = self.settle();
        self.graphs().on = on;
        launched
    }

    /// To be called before `what` is submitted: makes it a part of a graph where that is asked for.
    pub(super) fn submit(&self, what: &'static str) -> Result<()> {
        let mut graphs = self.graphs();
        if !graphs.on {
            return Ok(());
        }
        if graphs.captured.len() == MOST {
            self.launch_captured(&mut graphs)?;
        }
        if graphs.captured.is_empty() {
            begin(&self.stream).map_err(|e| device("capturing a graph", e))?;
        }
        graphs.captured.push(what);
        Ok(())
    }

    /// To be called before what cannot be part of a graph: launches what was captured.
    pub(super) fn settle(&self) -> Result<()> {
        self.launch_captured(&mut self.graphs())
    }

    /// Whether work on an allocation may have been captured; if so it is freed after the launch.
    pub(super) fn free_later(&self, address: u64) -> bool {
        let mut graphs = self.graphs();
        let captured = !graphs.captured.is_empty();
        if captured {
            graphs.freed.push(address);
        }
        captured
    }

    fn launch_captured(&self, graphs: &mut Graphs) -> Result<()> {
        if graphs.captured.is_empty() {
            return Ok(());
        }
        self.bind("launching a graph")?;
        let launched =
            graphs.launch(&self.stream).map_err(|e| device("launching a graph of kernels", e));
        for address in graphs.freed.drain(..) {
            self.free_now(address);
        }
        launched
    }

    /// What a panic left is good enough: the driver checks whatever is done with it.
    fn graphs(&self) -> MutexGuard<'_, Graphs> {
        self.graphs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Graphs {
    fn launch(&mut self, stream: &CudaStream) -> Result<(), DriverError> {
        let captured = std::mem::take(&mut self.captured);
        let graph = end(stream)?;
        if let Some(executable) = self.executables.get(&captured)
            && executable.update(&graph)
        {
            return executable.launch(stream);
        }
        if self.executables.len() == KEPT {
            self.executables.clear();
        }
        let executable = Executable::new(&graph)?;
        executable.launch(stream)?;
        self.executables.insert(captured, executable);
        Ok(())
    }
}

/// Calls that wait are forbidden to this thread until the end.
fn begin(stream: &CudaStream) -> Result<(), DriverError> {
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    // SAFETY: the stream is alive, and what it captures is launched, if at all, by `Graphs`, before any
    // address in it is freed.
    unsafe { result::stream::begin_capture(stream.cu_stream(), mode) }
}

/// Ends the capture, whether or not it was a success.
fn end(stream: &CudaStream) -> Result<Graph, DriverError> {
    // SAFETY: the stream is alive.
    unsafe { result::stream::end_capture(stream.cu_stream()) }.map(Graph)
}

/// A graph as it was captured.
#[derive(Debug)]
struct Graph(sys::CUgraph);

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: the handle is this value's alone. Executable graphs do not need their origin.
        let _ = unsafe { result::graph::destroy(self.0) };
    }
}

/// A graph that can be launched.
#[derive(Debug)]
struct Executable(sys::CUgraphExec);

// SAFETY: handles belong to no thread; the lock around `Graphs` keeps them to one at a time.
unsafe impl Send for Executable {}

impl Executable {
    fn new(graph: &Graph) -> Result<Self, DriverError> {
        // SAFETY: the graph is alive.
        unsafe { result::graph::instantiate(graph.0, sys::CUgraphInstantiate_flags(0)) }.map(Self)
    }

    /// Gives it the arguments and sizes of `graph`; says whether that could be done, which it can where the
    /// operations are of the same kinds. Launches before are not affected.
    fn update(&self, graph: &Graph) -> bool {
        let mut info = sys::CUgraphExecUpdateResultInfo_st {
            result: sys::CUgraphExecUpdateResult::CU_GRAPH_EXEC_UPDATE_SUCCESS,
            errorNode: null_mut(),
            errorFromNode: null_mut(),
        };
        // SAFETY: both graphs are alive, and the driver writes to a live struct.
        unsafe { sys::cuGraphExecUpdate_v2(self.0, graph.0, &raw mut info) }.result().is_ok()
    }

    fn launch(&self, stream: &CudaStream) -> Result<(), DriverError> {
        // SAFETY: both are alive; the captured launches are those of `Driver`.
        unsafe { result::graph::launch(self.0, stream.cu_stream()) }
    }
}

impl Drop for Executable {
    fn drop(&mut self) {
        // SAFETY: the handle is this value's alone; the driver lets a launch that runs come to its end.
        let _ = unsafe { result::graph::exec_destroy(self.0) };
    }
}
