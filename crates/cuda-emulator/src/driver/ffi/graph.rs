//! `cuGraph…` for captured graphs.

use std::sync::Arc;

use crate::driver::{
    error::{Code, Status},
    ffi::{
        api,
        pointers::{In, Out},
    },
    state::{Graph, State},
};

/// `CUDA_GRAPH_INSTANTIATE_PARAMS` up to what is read and written.
#[derive(Clone, Copy)]
#[repr(C)]
struct InstantiateParams {
    flags: u64,
    upload_stream: u64,
    error_node: u64,
    result: u32,
}

/// `CUgraphExecUpdateResultInfo`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct UpdateResult {
    result: u32,
    error_node: u64,
    error_from_node: u64,
}

fn check_exec(s: &State, executable: u64) -> Status {
    s.context()?;
    s.executables.get(executable).map(drop)
}

api! {
    fn cuGraphInstantiateWithFlags(s, executable: Out<u64>, graph: u64, flags: u64) {
        s.context()?;
        executable.set(s.instantiate(graph, flags)?)
    }
    fn cuGraphInstantiateWithParams(s, executable: Out<u64>, graph: u64, params: In<InstantiateParams>) {
        s.context()?;
        executable.set(s.instantiate(graph, params.get()?.flags)?)
    }
    fn cuGraphLaunch(s, executable: u64, stream: u64) {
        let stream = s.stream(stream)?;
        s.launch_graph(executable, stream)
    }
    fn cuGraphUpload(s, executable: u64, stream: u64) {
        s.stream(stream)?;
        check_exec(s, executable)
    }
    fn cuGraphExecUpdate_v2(s, executable: u64, graph: u64, result: Out<UpdateResult>) {
        check_exec(s, executable)?;
        let updated = s.update_executable(executable, graph);
        // CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED.
        let code = if updated.is_ok() { 0 } else { 2 };
        result.set(UpdateResult { result: code, ..UpdateResult::default() })?;
        updated
    }
    fn cuGraphExecDestroy(s, executable: u64) { s.executables.remove(executable).map(drop) }
    fn cuGraphDestroy(s, graph: u64) { s.graphs.remove(graph).map(drop) }
    fn cuGraphClone(s, clone: Out<u64>, graph: u64) {
        let Graph { context, ref program } = *s.graphs.get(graph)?;
        let program = Arc::clone(program);
        let id = s.fresh();
        clone.set(s.graphs.insert(id, Graph { context, program }))
    }
    fn cuGraphGetNodes(s, graph: u64, nodes: Out<u64>, count: Out<usize>) {
        let steps = s.graphs.get(graph)?.program.nodes();
        if !nodes.is_null() {
            s.journal.warn("nodes of a graph have no handles".into());
            return Err(Code::NOT_SUPPORTED);
        }
        count.set(steps)
    }
}
