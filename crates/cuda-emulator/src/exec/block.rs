//! A block: its warps in turn, its barriers, its shared memory.

use super::{
    fault::Problem,
    instruction::{Barrier, NONE, Op},
    shared::Shared,
    warp::{Stop, Warp, lanes},
    worker::Worker,
};
use crate::{findings::Check, memory::BlockOrder};

/// Instructions that a warp runs before the next one's turn, unless a barrier ends its turn.
const WARP_TURN: u64 = 1 << 16;

/// A block's state beside its warps.
#[derive(Debug)]
pub(super) struct BlockState {
    pub(super) index: [u32; 3],
    pub(super) shared: Shared,
    pub(super) order: BlockOrder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Ready,
    /// At barrier number `.0`.
    Waiting(usize),
    Done,
}

/// One of the 16 barriers of a block.
#[derive(Clone, Copy, Debug, Default)]
struct Gate {
    /// Warps that arrived, and those of them that wait.
    arrived: u32,
    waiting: u32,
    /// Threads it takes; those that have not exited where `None`.
    threads: Option<u32>,
    /// Instruction of the first arrival.
    at: u32,
    /// Sum, conjunction and disjunction of the predicates.
    count: u32,
    all: bool,
    any: bool,
}

/// A block in flight.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) state: BlockState,
    pub(super) number: u64,
    warps: Vec<Warp>,
    standing: Vec<Standing>,
    gates: [Gate; 16],
    /// Barriers at which someone has arrived.
    closed: u32,
    turns: Vec<usize>,
    /// Draws the order of turns; zero keeps the warps in order.
    random: u64,
}

/// Where a problem happened: warp of the block, instruction.
pub(super) type Site = (usize, u32);

impl Block {
    pub(super) fn new(state: BlockState, warps: Vec<Warp>) -> Self {
        let count = warps.len();
        Self {
            state,
            number: 0,
            warps,
            standing: vec![Standing::Ready; count],
            gates: [Gate::default(); 16],
            closed: 0,
            turns: (0..count).collect(),
            random: 0,
        }
    }

    /// Becomes block `number` with `threads` threads; its warps take turns in an order drawn by
    /// `seed`, a new one after each barrier.
    pub(super) fn start(
        &mut self,
        number: u64,
        index: [u32; 3],
        order: BlockOrder,
        threads: u32,
        seed: u64,
    ) {
        self.number = number;
        self.state.index = index;
        self.state.order = order;
        self.state.shared.reset();
        self.standing.fill(Standing::Ready);
        if self.closed != 0 {
            self.gates = [Gate::default(); 16];
            self.closed = 0;
        }
        if seed != 0 {
            self.random = (seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1;
            self.turns.sort_unstable();
            shuffle(&mut self.turns, &mut self.random);
        }
        for (i, warp) in self.warps.iter_mut().enumerate() {
            warp.start(threads - 32 * i as u32);
        }
    }

    pub(super) fn warps_mut(&mut self) -> &mut [Warp] {
        &mut self.warps
    }

    /// Runs every warp up to its next stop, again and again, for about `turns` rounds; true at the end.
    pub(super) fn run(
        &mut self,
        worker: &mut Worker<'_>,
        rounds: u64,
    ) -> Result<bool, (Problem, Site)> {
        for _ in 0..rounds {
            let mut moved = false;
            for turn in 0..self.turns.len() {
                let w = self.turns[turn];
                if self.standing[w] != Standing::Ready {
                    continue;
                }
                moved = true;
                let warp = &mut self.warps[w];
                let stop =
                    warp.run(worker, &mut self.state, WARP_TURN).map_err(|p| (p, (w, warp.pc)))?;
                match stop {
                    Stop::Turn => {}
                    Stop::Done => {
                        self.standing[w] = Standing::Done;
                        self.open_gates(worker);
                    }
                    Stop::Barrier => {
                        let pc = self.warps[w].pc;
                        let opened = self.arrive(worker, w).map_err(|p| (p, (w, pc)))?;
                        if opened && self.random != 0 {
                            shuffle(&mut self.turns, &mut self.random);
                            break;
                        }
                    }
                }
            }
            if self.standing.iter().all(|&s| s == Standing::Done) {
                return Ok(true);
            }
            if !moved {
                return Err(self.deadlock());
            }
        }
        Ok(false)
    }

    /// A warp comes to a barrier; whether it lets others go on.
    fn arrive(&mut self, worker: &mut Worker<'_>, w: usize) -> Result<bool, Problem> {
        let warp = &mut self.warps[w];
        let instruction = &worker.code()[warp.pc as usize];
        let Op::Barrier(kind) = instruction.op else { return Ok(false) };
        let [_, id, threads, predicate, ..] = instruction.registers;
        let lane = warp.alive.trailing_zeros() as usize;
        let id = warp.w(id)[lane] as usize;
        let threads = (threads != NONE).then(|| warp.w(threads)[lane]);
        if id >= 16 || threads.is_some_and(|t| t == 0 || t % 32 != 0 || t > 1024) {
            let message = format!(
                "barrier {id} for {threads:?} threads: there are 16, of multiples of 32 threads"
            );
            return Err(Problem::new(Check::BarrierDivergence, message));
        }
        let gate = &mut self.gates[id];
        if gate.arrived == 0 {
            *gate = Gate { threads, at: warp.pc, all: true, ..Gate::default() };
            self.closed += 1;
        } else if gate.threads != threads || (threads.is_none() && gate.at != warp.pc) {
            let other = worker.describe(gate.at);
            let message = format!("barrier {id} was reached by other warps at {other}");
            return Err(Problem::new(Check::BarrierDivergence, message));
        }
        gate.arrived |= 1 << w;
        if predicate != NONE {
            let bits = warp.registers.p[usize::from(predicate)] & warp.alive;
            gate.count += bits.count_ones();
            gate.all &= bits == warp.alive;
            gate.any |= bits != 0;
        }
        worker.counters.barriers += 1;
        if kind == Barrier::Arrive {
            warp.pc += 1;
        } else {
            gate.waiting |= 1 << w;
            self.standing[w] = Standing::Waiting(id);
        }
        Ok(self.open_gates(worker))
    }

    /// Lets the warps of complete barriers go on, if there are any.
    fn open_gates(&mut self, worker: &Worker<'_>) -> bool {
        if self.closed == 0 {
            return false;
        }
        let before = self.closed;
        let alive: u32 = (0..self.warps.len())
            .filter(|&w| self.standing[w] != Standing::Done)
            .fold(0, |mask, w| mask | 1 << w);
        for id in 0..16 {
            let gate = self.gates[id];
            let complete = match gate.threads {
                None => gate.arrived & alive == alive,
                Some(threads) => gate.arrived.count_ones() * 32 >= threads,
            };
            if gate.arrived == 0 || !complete {
                continue;
            }
            self.gates[id] = Gate::default();
            self.closed -= 1;
            let everyone = gate.waiting & alive == alive && gate.arrived & alive == alive;
            self.state.shared.order(gate.arrived, gate.waiting, everyone);
            lanes(gate.waiting, |w| {
                let warp = &mut self.warps[w];
                let instruction = &worker.code()[warp.pc as usize];
                let result = instruction.registers[0];
                let alive = warp.alive;
                match instruction.op {
                    Op::Barrier(Barrier::Count) if result != NONE => {
                        lanes(alive, |lane| warp.w_mut(result)[lane] = gate.count);
                    }
                    Op::Barrier(Barrier::All) => {
                        warp.set_predicate(result, if gate.all { u32::MAX } else { 0 }, alive);
                    }
                    Op::Barrier(Barrier::Any) => {
                        warp.set_predicate(result, if gate.any { u32::MAX } else { 0 }, alive);
                    }
                    _ => {}
                }
                warp.pc += 1;
                self.standing[w] = Standing::Ready;
            });
        }
        self.closed != before
    }

    fn deadlock(&self) -> (Problem, Site) {
        let waiting: Vec<usize> = (0..self.warps.len())
            .filter(|&w| matches!(self.standing[w], Standing::Waiting(_)))
            .collect();
        let done = self.warps.len() - waiting.len();
        let first = waiting.first().copied().unwrap_or(0);
        let message = format!(
            "{} warps wait at barriers that nobody completes; {done} warps have ended",
            waiting.len()
        );
        (Problem::new(Check::BarrierDivergence, message), (first, self.warps[first].pc))
    }
}

/// Fisher-Yates with a 64-bit xorshift of `state`, which must not be zero.
pub(super) fn shuffle<T>(items: &mut [T], state: &mut u64) {
    for i in (1..items.len()).rev() {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        items.swap(i, (*state % (i as u64 + 1)) as usize);
    }
}
