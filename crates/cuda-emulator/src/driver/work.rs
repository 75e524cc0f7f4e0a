//! Asynchronous operations.

use std::sync::Arc;

use crate::{
    driver::{
        blas::Product,
        ffi::{Callback, HostRange},
        state::Id,
    },
    exec::{Kernel, LaunchConfig},
};

/// An operation of a stream, or a node of a graph.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    /// Context that it belongs to.
    pub(crate) context: Id,
    /// Driver call, and kernel for a launch.
    pub(crate) name: Arc<str>,
    pub(crate) action: Action,
}

/// What to do.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Nothing: a point in the stream.
    Marker,
    Launch(Launch),
    Multiply(Box<Product>),
    Upload {
        to: u64,
        from: Source,
    },
    Download {
        to: HostRange,
        from: u64,
    },
    Copy {
        to: u64,
        from: u64,
        bytes: u64,
    },
    Fill {
        to: u64,
        pattern: Vec<u8>,
        count: u64,
    },
    /// The rows of a two-dimensional copy.
    Rows(Vec<Action>),
    HostCopy {
        to: HostRange,
        from: Source,
    },
    Call(Callback),
    /// A stream-ordered allocation begins: the memory is there already.
    Allocate {
        base: u64,
        bytes: u64,
    },
    Free {
        base: u64,
        bytes: u64,
    },
}

/// Where a copy from the host takes its bytes.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// Taken when the copy was submitted: pageable memory.
    Staged(Arc<[u8]>),
    /// Read when the copy runs: pinned memory.
    Late(HostRange),
}

impl Source {
    /// The bytes as they are now.
    pub(crate) fn read(&self) -> Arc<[u8]> {
        match self {
            Source::Staged(bytes) => Arc::clone(bytes),
            Source::Late(range) => range.read().into(),
        }
    }
}

/// A kernel with everything that its launch needs.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) params: Arc<[u8]>,
    pub(crate) config: LaunchConfig,
}
