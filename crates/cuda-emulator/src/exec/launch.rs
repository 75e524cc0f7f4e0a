//! One launch of a kernel.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use super::{
    block::{Block, shuffle},
    fault::Problem,
    worker::{Shape, Worker},
};
use crate::{
    alu::WARP,
    counters::Counters,
    exec::{Kernel, Settings},
    findings::{Check, Finding},
    memory::{Memory, Races},
    profile::Profile,
};

/// Rounds over its warps that a block runs before another block gets its thread: blocks may wait
/// for each other.
const ROUNDS: u64 = 64;
/// Grids up to this size have their order of blocks drawn by the seed.
const SHUFFLED_GRID: u64 = 1 << 20;

/// The shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchConfig {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// All blocks resident at once.
    pub cooperative: bool,
}

/// What a launch did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Counts over all blocks.
    pub counters: Counters,
    /// Defects, without repeats of the same check at the same instruction, in a fixed order.
    pub findings: Vec<Finding>,
    /// Whether one of them stops a real device: the context is lost.
    pub fault: bool,
    /// The allocations that the kernel touched, in order of address.
    pub touched: Vec<Touched>,
}

/// What a launch did to one allocation. Ranges are first and one past the last byte, as addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Start of the allocation.
    pub base: u64,
    /// Range of the bytes read.
    pub read: Option<(u64, u64)>,
    /// Range of the bytes written, atomics included.
    pub written: Option<(u64, u64)>,
}

impl Touched {
    fn merge(&mut self, other: &Self) {
        let join = |a: Option<(u64, u64)>, b: Option<(u64, u64)>| match (a, b) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
            (a, b) => a.or(b),
        };
        self.read = join(self.read, other.read);
        self.written = join(self.written, other.written);
    }
}

/// Blocks of a launch: those not begun, and those whose turn is over.
struct Queue {
    order: Option<Vec<u64>>,
    next: AtomicU64,
    blocks: u64,
    resident: u64,
    parked: Mutex<(VecDeque<Block>, u64)>,
    instructions: AtomicU64,
    stop: AtomicBool,
}

/// What a worker does next.
enum Work {
    Begin(u64),
    Resume(Box<Block>),
    Wait,
    End,
}

impl Queue {
    fn next(&self) -> Work {
        if self.stop.load(Relaxed) {
            return Work::End;
        }
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        let in_flight = parked.1;
        // New blocks first, so that all that fit are in flight, as on the device.
        if in_flight < self.resident && self.next.load(Relaxed) < self.blocks {
            let position = self.next.fetch_add(1, Relaxed);
            parked.1 += 1;
            let number = self.order.as_ref().map_or(position, |order| order[position as usize]);
            return Work::Begin(number);
        }
        match parked.0.pop_front() {
            Some(block) => Work::Resume(Box::new(block)),
            None if in_flight == 0 => Work::End,
            None => Work::Wait,
        }
    }

    fn park(&self, block: Block) {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner).0.push_back(block);
    }

    fn finish(&self) {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner).1 -= 1;
    }
}

/// Runs a kernel to its end. The caller has checked the launch limits of `profile`;
/// `params` is the parameter block as laid out by [`Kernel::params`].
pub fn launch(
    kernel: &Kernel,
    memory: &Memory,
    params: &[u8],
    config: &LaunchConfig,
    profile: &Profile,
    settings: &Settings,
) -> Outcome {
    let blocks: u64 = config.grid.iter().map(|&n| u64::from(n)).product();
    let threads: u32 = config.block.iter().product();
    if blocks == 0 || threads == 0 || threads > 1024 || params.len() < kernel.param_bytes {
        return refused(kernel, config, params.len());
    }
    let shape = Shape {
        program: &kernel.program,
        params,
        config,
        settings,
        profile,
        allocations: memory.allocations().collect(),
        memory,
        races: Races::new(memory.next_launch(), blocks),
    };
    let order = (settings.seed != 0 && blocks <= SHUFFLED_GRID).then(|| {
        let mut order: Vec<u64> = (0..blocks).collect();
        let mut state = settings.seed;
        shuffle(&mut order, &mut state);
        order
    });
    let queue = Queue {
        order,
        next: AtomicU64::new(0),
        blocks,
        resident: if config.cooperative {
            blocks
        } else {
            kernel.resident_blocks(config, profile).max(1)
        },
        parked: Mutex::default(),
        instructions: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    let workers = settings.threads.clamp(1, blocks.min(1 << 10) as usize);
    let results: Mutex<Vec<Worker<'_>>> = Mutex::default();
    let work = || {
        let mut worker = Worker::new(&shape);
        run_blocks(&mut worker, &queue);
        results.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
    };
    rayon::in_place_scope(|scope| {
        for _ in 1..workers {
            scope.spawn(|_| work());
        }
        work();
    });
    collect(&shape, results.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn refused(kernel: &Kernel, config: &LaunchConfig, given: usize) -> Outcome {
    let message = format!(
        "grid {:?}, block {:?}, {given} bytes of parameters where the kernel takes {}",
        config.grid, config.block, kernel.param_bytes
    );
    let finding = Finding {
        check: Check::LaunchLimit,
        message,
        kernel: kernel.name.clone(),
        source: String::new(),
        line: 0,
        block: None,
        thread: None,
        address: None,
    };
    Outcome { findings: vec![finding], ..Outcome::default() }
}

fn run_blocks(worker: &mut Worker<'_>, queue: &Queue) {
    let mut spare: Option<Block> = None;
    loop {
        let mut block = match queue.next() {
            Work::End => return,
            Work::Wait => {
                std::thread::yield_now();
                continue;
            }
            Work::Resume(block) => *block,
            Work::Begin(number) => {
                let mut block = spare.take().unwrap_or_else(|| worker.block());
                worker.start(&mut block, number);
                block
            }
        };
        let before: u64 = block.warps_mut().iter().map(|w| w.clock).sum();
        let place = (block.number, block.state.index);
        let outcome = block.run(worker, ROUNDS);
        let after: u64 = block.warps_mut().iter().map(|w| w.clock).sum();
        let spent = queue.instructions.fetch_add(after - before, Relaxed) + after - before;
        match outcome {
            Ok(true) => {
                queue.finish();
                spare = Some(block);
            }
            Ok(false) if spent > worker.settings().instruction_budget => {
                let at = block.warps_mut().first().map_or(0, |w| w.pc);
                let message = format!("still running after {spent} warp instructions");
                worker.report(Problem::new(Check::Hang, message), place, (0, at));
                queue.stop.store(true, Relaxed);
                return;
            }
            Ok(false) => queue.park(block),
            Err((problem, site)) => {
                worker.report(problem, place, site);
                queue.stop.store(true, Relaxed);
                return;
            }
        }
    }
}

fn collect(shape: &Shape<'_>, workers: Vec<Worker<'_>>) -> Outcome {
    let mut outcome = Outcome::default();
    let mut touched: Vec<Touched> =
        shape.allocations.iter().map(|a| Touched { base: a.base, ..Touched::default() }).collect();
    let mut found = std::collections::BTreeMap::new();
    for worker in workers {
        for (instruction, tally) in shape.program.code.iter().zip(&worker.tallies) {
            outcome.counters.instructions[instruction.class as usize] += tally.executed;
            outcome.counters.active_lanes += tally.executed * WARP as u64 - tally.idle;
        }
        outcome.counters.merge(&worker.counters);
        for (all, one) in touched.iter_mut().zip(&worker.touched) {
            all.merge(one);
        }
        for ((check, at), (number, finding)) in worker.found {
            let entry = found.entry((at, check)).or_insert_with(|| (number, finding.clone()));
            if number < entry.0 {
                *entry = (number, finding);
            }
        }
    }
    touched.retain(|t| t.read.is_some() || t.written.is_some());
    outcome.touched = touched;
    outcome.findings = found.into_values().map(|(_, finding)| finding).collect();
    outcome.fault = outcome.findings.iter().any(|f| f.check.is_fault());
    outcome
}
