//! A warp: its registers, where its lanes are, and the loop that runs it.

use super::{
    access::Windows,
    block::BlockState,
    fault::Problem,
    instruction::{Instruction, NONE, Op, Place},
    worker::Worker,
};
use crate::{
    alu::{Lanes32, Lanes64, Registers, WARP, wide},
    findings::Check,
};

/// All lanes.
pub(super) const FULL: u32 = u32::MAX;
/// Backward turns after which another part of a diverged warp gets its chance.
const FAIRNESS: u64 = 1 << 14;

/// Lanes that wait at another instruction.
#[derive(Clone, Copy, Debug)]
struct Split {
    pc: u32,
    mask: u32,
}

/// A copy on its way from global to shared memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    pub(super) lane: u8,
    pub(super) bytes: u8,
    /// Group of its lane, counted from 0.
    pub(super) group: u32,
    pub(super) to: u32,
    pub(super) data: [u8; 16],
}

/// Why a warp stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// At the block barrier of the instruction at `pc`.
    Barrier,
    Done,
    /// Its turn is over.
    Turn,
}

/// State of a warp.
#[derive(Debug)]
pub(super) struct Warp {
    pub(super) index: u32,
    pub(super) registers: Registers,
    /// Local memory, lane after lane.
    pub(super) local: Vec<u8>,
    pub(super) pc: u32,
    pub(super) mask: u32,
    /// Lanes that have not exited.
    pub(super) alive: u32,
    splits: Vec<Split>,
    /// The running lanes were chosen although others wait at a lower program counter.
    out_of_order: bool,
    pub(super) flights: Vec<Flight>,
    /// Groups that each lane committed.
    pub(super) groups: [u32; WARP],
    pub(super) clock: u64,
}

/// Calls `visit` with each lane of `mask`.
#[inline(always)]
pub(super) fn lanes(mask: u32, mut visit: impl FnMut(usize)) {
    let mut rest = mask;
    while rest != 0 {
        visit(rest.trailing_zeros() as usize);
        rest &= rest - 1;
    }
}

impl Warp {
    pub(super) fn new(index: u32, files: super::registers::Files, local_bytes: usize) -> Self {
        let registers = Registers {
            p: vec![FULL; files.p],
            w: vec![Lanes32([u32::MAX; WARP]); files.w],
            d: vec![Lanes64([u64::MAX; WARP]); files.d],
            carry: 0,
        };
        Self {
            index,
            registers,
            local: vec![0xff; local_bytes * WARP],
            pc: 0,
            mask: 0,
            alive: 0,
            splits: Vec::new(),
            out_of_order: false,
            flights: Vec::new(),
            groups: [0; WARP],
            clock: 0,
        }
    }

    /// At the start of a block, with `threads` lanes.
    pub(super) fn start(&mut self, threads: u32) {
        self.mask = if threads >= 32 { FULL } else { (1 << threads) - 1 };
        self.alive = self.mask;
        self.pc = 0;
        self.splits.clear();
        self.out_of_order = false;
        self.flights.clear();
        self.groups = [0; WARP];
        self.local.fill(0xff);
    }

    #[inline(always)]
    pub(super) fn w(&self, register: u16) -> &[u32; WARP] {
        &self.registers.w[usize::from(register)].0
    }

    #[inline(always)]
    pub(super) fn d(&self, register: u16) -> &[u64; WARP] {
        &self.registers.d[usize::from(register)].0
    }

    #[inline(always)]
    pub(super) fn w_mut(&mut self, register: u16) -> &mut [u32; WARP] {
        &mut self.registers.w[usize::from(register)].0
    }

    #[inline(always)]
    pub(super) fn d_mut(&mut self, register: u16) -> &mut [u64; WARP] {
        &mut self.registers.d[usize::from(register)].0
    }

    /// Writes a predicate in the lanes of `mask`.
    #[inline(always)]
    pub(super) fn set_predicate(&mut self, register: u16, bits: u32, mask: u32) {
        if register != NONE {
            let p = &mut self.registers.p[usize::from(register)];
            *p = *p & !mask | bits & mask;
        }
    }

    /// The lowest program counter among waiting lanes.
    fn lowest(&self) -> u32 {
        self.splits.iter().map(|s| s.pc).min().unwrap_or(u32::MAX)
    }

    /// Lets the lanes at the lowest instruction run, joined with all that wait there.
    fn reconverge(&mut self) {
        let target = self.lowest();
        self.join(target);
        self.out_of_order = false;
    }

    fn join(&mut self, target: u32) {
        let mut mask = 0;
        self.splits.retain(|s| {
            if s.pc == target {
                mask |= s.mask;
            }
            s.pc != target
        });
        self.pc = target;
        self.mask = mask;
    }

    /// Parks the running lanes.
    fn park(&mut self) {
        if self.mask != 0 {
            self.splits.push(Split { pc: self.pc, mask: self.mask });
        }
    }

    /// The longest waiting lanes run next, whatever their program counter: a lane may spin on what
    /// another lane of its warp has yet to do.
    fn rotate(&mut self) {
        if !self.splits.is_empty() {
            let next = self.splits.remove(0);
            self.park();
            self.splits.push(next);
            self.join(next.pc);
            self.out_of_order = true;
        }
    }

    /// Runs until a barrier, the end, or `turn` instructions.
    pub(super) fn run(
        &mut self,
        worker: &mut Worker<'_>,
        block: &mut BlockState,
        turn: u64,
    ) -> Result<Stop, Problem> {
        let code: &[Instruction] = worker.code();
        let mut lowest = if self.out_of_order { self.lowest_above() } else { self.lowest() };
        let mut left = turn;
        let mut patience = FAIRNESS;
        loop {
            if self.pc >= lowest {
                self.park();
                self.reconverge();
                lowest = self.lowest();
            }
            if left == 0 {
                self.rotate();
                return Ok(Stop::Turn);
            }
            left -= 1;
            let instruction = &code[self.pc as usize];
            let tally = &mut worker.tallies[self.pc as usize];
            tally.executed += 1;
            self.clock += 1;
            let mut active = self.mask;
            if instruction.guard != NONE {
                let p = self.registers.p[usize::from(instruction.guard)];
                active &= if instruction.negated { !p } else { p };
            }
            if active != FULL {
                tally.idle += u64::from(active.count_zeros());
                if active == 0 {
                    self.pc += 1;
                    continue;
                }
            }
            if let Some(run) = instruction.run {
                run(&mut self.registers, &instruction.registers, active);
                self.pc += 1;
                continue;
            }
            match &instruction.op {
                Op::Branch(target) => {
                    let back = *target <= self.pc;
                    self.branch(active, *target, &mut lowest);
                    if back && lowest != u32::MAX {
                        patience -= 1;
                        if patience == 0 {
                            patience = FAIRNESS;
                            self.rotate();
                            // The chosen lanes run alone until their next backward branch.
                            lowest = self.lowest_above();
                        }
                    }
                    continue;
                }
                Op::Switch(targets) => {
                    self.switch(active, instruction.registers[0], targets)?;
                    lowest = self.lowest();
                    continue;
                }
                Op::Exit => {
                    self.alive &= !active;
                    self.mask &= !active;
                    self.pc += 1;
                    if self.mask == 0 {
                        if self.splits.is_empty() {
                            return Ok(Stop::Done);
                        }
                        self.reconverge();
                        lowest = self.lowest();
                    }
                    continue;
                }
                Op::Trap(reason) => {
                    let lane = active.trailing_zeros() as usize;
                    return Err(Problem::new(Check::Trap, *reason).lane(lane));
                }
                Op::Nop => {}
                Op::Barrier(_) => {
                    if active != self.alive {
                        if self.may_be_joined() {
                            self.park();
                            self.reconverge();
                            return Ok(Stop::Turn);
                        }
                        return Err(self.divergent("block barrier", active));
                    }
                    return Ok(Stop::Barrier);
                }
                Op::Sleep => {
                    self.pc += 1;
                    self.rotate();
                    return Ok(Stop::Turn);
                }
                _ => match self.special(worker, block, instruction, active) {
                    Err(problem) if problem.check == Check::WarpSync && self.may_be_joined() => {
                        self.park();
                        self.reconverge();
                        return Ok(Stop::Turn);
                    }
                    result => result?,
                },
            }
            self.pc += 1;
        }
    }

    /// The running lanes were chosen before others that may still come here.
    fn may_be_joined(&self) -> bool {
        self.out_of_order && self.lowest() < self.pc
    }

    /// With lanes chosen out of order, the ones that wait below them do not pull them back.
    fn lowest_above(&self) -> u32 {
        self.splits.iter().map(|s| s.pc).filter(|&pc| pc > self.pc).min().unwrap_or(u32::MAX)
    }

    fn branch(&mut self, active: u32, target: u32, lowest: &mut u32) {
        if active == self.mask {
            self.pc = target;
        } else {
            self.splits.push(Split { pc: target, mask: active });
            *lowest = (*lowest).min(target);
            self.mask &= !active;
            self.pc += 1;
        }
    }

    fn switch(&mut self, active: u32, index: u16, targets: &[u32]) -> Result<(), Problem> {
        let chosen = *self.w(index);
        let next = self.pc + 1;
        let idle = self.mask & !active;
        if idle != 0 {
            self.splits.push(Split { pc: next, mask: idle });
        }
        let mut wrong = None;
        lanes(active, |lane| match targets.get(chosen[lane] as usize) {
            Some(&pc) => self.splits.push(Split { pc, mask: 1 << lane }),
            None => wrong = Some(lane),
        });
        if let Some(lane) = wrong {
            let message =
                format!("index {} of a branch table with {} targets", chosen[lane], targets.len());
            return Err(Problem::new(Check::Trap, message).lane(lane));
        }
        self.reconverge();
        Ok(())
    }

    /// The finding for an instruction that all lanes of the warp must execute together.
    pub(super) fn divergent(&self, what: &str, active: u32) -> Problem {
        let missing = self.alive & !active;
        let message = format!(
            "{what} executed by lanes {active:#010x} while lanes {missing:#010x} of the warp are elsewhere"
        );
        let check =
            if what.contains("barrier") { Check::BarrierDivergence } else { Check::WarpSync };
        Problem::new(check, message).lane(missing.trailing_zeros().min(31) as usize)
    }

    fn special(
        &mut self,
        worker: &mut Worker<'_>,
        block: &mut BlockState,
        instruction: &Instruction,
        active: u32,
    ) -> Result<(), Problem> {
        let r = &instruction.registers;
        match &instruction.op {
            Op::Load(access) => self.load(worker, block, *access, r, active),
            Op::Store(access) => self.store(worker, block, *access, r, active),
            Op::Atomic(atomic) => self.atomic(worker, block, *atomic, r, active),
            Op::AsyncCopy(copy) => wide(
                #[inline(always)]
                || self.issue_copy(worker, block, *copy, r, active),
            ),
            Op::AsyncCommit => {
                lanes(active, |lane| self.groups[lane] += 1);
                Ok(())
            }
            Op::AsyncWait(pending) => {
                wide(
                    #[inline(always)]
                    || self.wait_copies(worker, block, *pending, active),
                );
                Ok(())
            }
            Op::LoadMatrix(access) => wide(
                #[inline(always)]
                || self.load_matrix(worker, block, *access, r, active),
            ),
            Op::StoreMatrix(access) => self.store_matrix(worker, block, *access, r, active),
            Op::Matrix(matrix) => {
                if active != FULL {
                    return Err(self.divergent("mma", active));
                }
                worker.counters.mma += 1;
                worker.counters.mma_flops += matrix.op.flops;
                let order = worker.settings().matrix_order;
                (matrix.op.run)(
                    &mut self.registers,
                    &matrix.d,
                    &matrix.a,
                    &matrix.b,
                    &matrix.c,
                    order,
                );
                Ok(())
            }
            Op::WarpBarrier => {
                self.members(r[0], active, "bar.warp.sync")?;
                block.shared.order(1 << self.index, 1 << self.index, false);
                Ok(())
            }
            Op::Fence { device } => {
                if *device {
                    worker.races().blocks.fence(&mut block.order);
                }
                Ok(())
            }
            Op::IsSpace(place) => {
                let windows = Windows::new(self.d(r[1]), active);
                let bits = match place {
                    Place::Shared => windows.shared,
                    Place::Local => windows.local,
                    _ => windows.global,
                };
                self.set_predicate(r[0], bits, active);
                Ok(())
            }
            Op::Clock { wide } => {
                let now = self.clock;
                if *wide {
                    lanes(active, |lane| self.registers.d[usize::from(r[0])].0[lane] = now);
                } else {
                    lanes(active, |lane| self.registers.w[usize::from(r[0])].0[lane] = now as u32);
                }
                Ok(())
            }
            _ => wide(
                #[inline(always)]
                || self.exchange(instruction, active),
            ),
        }
    }

    /// Lanes named by a member mask must be the ones that execute.
    #[inline(always)]
    pub(super) fn members(&self, register: u16, active: u32, what: &str) -> Result<(), Problem> {
        let masks = self.w(register);
        if active == FULL && masks.iter().fold(FULL, |all, mask| all & mask) == FULL {
            return Ok(());
        }
        Self::some_members(masks, active, what)
    }

    #[inline(never)]
    fn some_members(masks: &[u32; WARP], active: u32, what: &str) -> Result<(), Problem> {
        let mut wrong = None;
        lanes(active, |lane| {
            let members = masks[lane];
            if members >> lane & 1 == 0 || members & !active != 0 {
                wrong = wrong.or(Some((lane, members)));
            }
        });
        wrong.map_or(Ok(()), |(lane, members)| {
            let message =
                format!("{what} names lanes {members:#010x}, executed by lanes {active:#010x}");
            Err(Problem::new(Check::WarpSync, message).lane(lane))
        })
    }
}
