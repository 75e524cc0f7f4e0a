//! Everything the library knows, behind one lock.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    thread::ThreadId,
};

use crate::{
    driver::{
        blas::Blas,
        capture::{Capture, Program},
        error::{Code, Status},
        hazards::Hazards,
        report::Journal,
        settings::Settings,
        timeline::{Lane, Point, Timeline},
        work::Work,
    },
    exec::{Kernel, LoadedModule},
    memory::Memory,
};

/// A handle: never null, never used twice.
pub(crate) type Id = u64;

/// Objects by handle.
#[derive(Debug)]
pub(crate) struct Table<T> {
    entries: BTreeMap<Id, T>,
    unknown: Code,
}

impl<T> Table<T> {
    pub(crate) fn new(unknown: Code) -> Self {
        Self { entries: BTreeMap::new(), unknown }
    }

    /// The object of a handle; the table's error if there is none.
    pub(crate) fn get(&self, id: Id) -> Status<&T> {
        self.entries.get(&id).ok_or(self.unknown)
    }

    /// The same, to change it.
    pub(crate) fn get_mut(&mut self, id: Id) -> Status<&mut T> {
        self.entries.get_mut(&id).ok_or(self.unknown)
    }

    pub(crate) fn insert(&mut self, id: Id, value: T) -> Id {
        self.entries.insert(id, value);
        id
    }

    pub(crate) fn remove(&mut self, id: Id) -> Status<T> {
        self.entries.remove(&id).ok_or(self.unknown)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Id, &T)> {
        self.entries.iter().map(|(id, value)| (*id, value))
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.values_mut()
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        self.entries.retain(|_, value| keep(value));
    }
}

#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) primary: bool,
    /// Retains of a primary context; 1 for others.
    pub(crate) references: u32,
    pub(crate) flags: u32,
    pub(crate) cache_config: u32,
    pub(crate) limits: BTreeMap<u32, usize>,
    /// The legacy default stream.
    pub(crate) legacy: Id,
    pub(crate) per_thread: HashMap<ThreadId, Id>,
    /// A kernel failed, and no call has said so yet.
    pub(crate) fault: Option<Code>,
    /// What every call returns from now on.
    pub(crate) lost: Option<Code>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamKind {
    /// Waits for all blocking streams, and they for it.
    Legacy,
    Blocking,
    NonBlocking,
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) context: Id,
    pub(crate) kind: StreamKind,
    pub(crate) priority: i32,
    pub(crate) lane: Lane,
    pub(crate) last: Option<Arc<Point>>,
    pub(crate) capture: Option<Id>,
}

#[derive(Debug)]
pub(crate) enum EventState {
    Never,
    At(Arc<Point>),
    /// Recorded into a capture, as its event of that index.
    Captured {
        capture: Id,
        index: usize,
    },
}

#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) context: Id,
    pub(crate) timing: bool,
    pub(crate) state: EventState,
}

#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) context: Id,
    pub(crate) loaded: LoadedModule,
    /// `.version` of the PTX, major × 10 + minor.
    pub(crate) version: u32,
    pub(crate) functions: BTreeMap<String, Id>,
}

#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) context: Id,
    pub(crate) module: Id,
    pub(crate) kernel: Arc<Kernel>,
    /// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES` once set.
    pub(crate) max_dynamic_shared: Option<u32>,
    pub(crate) carveout: i32,
    /// NUL-terminated.
    pub(crate) c_name: std::ffi::CString,
}

#[derive(Debug)]
pub(crate) struct Graph {
    pub(crate) context: Id,
    pub(crate) program: Arc<Program>,
}

#[derive(Debug)]
pub(crate) struct Executable {
    pub(crate) context: Id,
    pub(crate) program: Arc<Program>,
    /// Lanes of all but the launching stream, and their last points.
    pub(crate) lanes: Vec<(Lane, Option<Arc<Point>>)>,
    pub(crate) last: Option<Arc<Point>>,
}

#[derive(Debug, Default)]
pub(crate) struct Pool {
    pub(crate) attributes: BTreeMap<u32, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemoryKind {
    Device,
    Managed,
    Pinned,
}

#[derive(Clone, Debug)]
pub(crate) struct Allocation {
    pub(crate) context: Id,
    pub(crate) bytes: u64,
    pub(crate) kind: MemoryKind,
    /// Which allocation of the process this was, from 1.
    pub(crate) serial: u64,
    /// The call that made it.
    pub(crate) call: &'static str,
    /// A stream-ordered free was submitted.
    pub(crate) freed: bool,
}

/// The state of the process.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) settings: Settings,
    /// What is wrong with the environment.
    pub(crate) invalid_settings: Option<String>,
    pub(crate) initialised: bool,
    pub(crate) memory: Memory,
    pub(crate) journal: Journal,
    pub(crate) timeline: Timeline<Labelled>,
    pub(crate) hazards: Hazards,
    pub(crate) contexts: Table<Context>,
    pub(crate) primary: Option<Id>,
    pub(crate) streams: Table<Stream>,
    pub(crate) events: Table<Event>,
    pub(crate) modules: Table<Module>,
    pub(crate) functions: Table<Function>,
    pub(crate) captures: Table<Capture>,
    pub(crate) graphs: Table<Graph>,
    pub(crate) executables: Table<Executable>,
    pub(crate) pools: Table<Pool>,
    pub(crate) blas: Blas,
    pub(crate) default_pool: Id,
    pub(crate) current_pool: Id,
    /// By first address.
    pub(crate) allocations: BTreeMap<u64, Allocation>,
    pub(crate) allocated: u64,
    /// Host ranges pinned by registration: size by address.
    pub(crate) registered: BTreeMap<u64, u64>,
    pub(crate) operations: u64,
    next_id: Id,
}

/// Work with the name under which findings speak of it.
#[derive(Debug)]
pub(crate) struct Labelled {
    pub(crate) label: Arc<str>,
    pub(crate) work: Work,
}

impl State {
    /// A process that has not called anything.
    pub(crate) fn new(settings: Result<Settings, String>) -> Self {
        let (settings, invalid_settings) = match settings {
            Ok(settings) => (settings, None),
            Err(message) => (Settings::default(), Some(message)),
        };
        let handle = Code::INVALID_HANDLE;
        let mut state = Self {
            memory: Memory::new(settings.memory),
            journal: Journal::new(settings.run.checks),
            timeline: Timeline::new(settings.lazy, settings.run.seed),
            hazards: Hazards::default(),
            invalid_settings,
            initialised: false,
            contexts: Table::new(Code::INVALID_CONTEXT),
            primary: None,
            streams: Table::new(handle),
            events: Table::new(handle),
            modules: Table::new(handle),
            functions: Table::new(handle),
            captures: Table::new(Code::ILLEGAL_STATE),
            graphs: Table::new(Code::INVALID_VALUE),
            executables: Table::new(Code::INVALID_VALUE),
            pools: Table::new(Code::INVALID_VALUE),
            blas: Blas::default(),
            default_pool: 0,
            current_pool: 0,
            allocations: BTreeMap::new(),
            allocated: 0,
            registered: BTreeMap::new(),
            operations: 0,
            // Above the special handles 0, 1 and 2, below anything that could be an address.
            next_id: 0x1000,
            settings,
        };
        state.default_pool = state.fresh();
        state.current_pool = state.default_pool;
        state.pools.insert(state.default_pool, Pool::default());
        state
    }

    /// `cuInit`.
    pub(crate) fn init(&mut self, flags: u32) -> Status {
        if let Some(message) = &self.invalid_settings {
            eprintln!("cuda-emulator: {message}");
            return Err(Code::INVALID_VALUE);
        }
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        if !self.initialised {
            self.initialised = true;
            for name in std::mem::take(&mut self.settings.unknown) {
                self.journal.warn(format!("{name} is not a setting"));
            }
        }
        Ok(())
    }

    /// A new handle.
    pub(crate) fn fresh(&mut self) -> Id {
        self.next_id += 16;
        self.next_id
    }

    /// Writes the report, if one is wanted.
    pub(crate) fn write_report(&mut self) {
        if let Some(path) = &self.settings.report {
            self.journal.write(&self.settings, path);
        }
    }

    /// At the end of the process: runs what is left, looks for leaks and reports. The exit code to
    /// end with, where that is to change.
    pub(crate) fn exit(&mut self) -> Option<i32> {
        if !self.initialised {
            return None;
        }
        self.drain();
        self.report_leaks(None);
        self.write_report();
        if self.settings.table {
            eprint!("{}", self.journal.table(self.settings.profile));
        }
        if self.journal.found() == 0 {
            return None;
        }
        eprintln!("cuda-emulator: {}", self.journal.summary());
        self.settings.exit_code
    }
}
