//! What one host thread needs while it runs blocks of a launch, and what it finds.

use std::collections::HashMap;

use super::{
    access::Lines,
    block::{Block, BlockState, Site},
    fault::Problem,
    instruction::{Constant, Instruction, LaneMask},
    launch::{LaunchConfig, Touched},
    module::Program,
    settings::Settings,
    shared::Shared,
    warp::Warp,
};
use crate::{
    alu::{Class, WARP},
    counters::Counters,
    findings::{Check, Finding},
    memory::{Allocation, Races},
    profile::Profile,
};

/// What all workers of a launch share.
pub(super) struct Shape<'a> {
    pub(super) program: &'a Program,
    pub(super) params: &'a [u8],
    pub(super) config: &'a LaunchConfig,
    pub(super) settings: &'a Settings,
    pub(super) profile: &'a Profile,
    /// Live allocations in order of address.
    pub(super) allocations: Vec<&'a Allocation>,
    pub(super) memory: &'a crate::memory::Memory,
    pub(super) races: Races,
}

impl Shape<'_> {
    pub(super) fn threads(&self) -> u32 {
        self.config.block.iter().product()
    }

    pub(super) fn block_index(&self, number: u64) -> [u32; 3] {
        let [x, y, _] = self.config.grid.map(u64::from);
        [(number % x) as u32, (number / x % y) as u32, (number / (x * y)) as u32]
    }
}

/// Findings by check and instruction: each once, of the lowest block.
type Found = HashMap<(Check, u32), (u64, Finding)>;

/// How often an instruction was issued, and the lanes that took no part in it, all times together.
#[derive(Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) executed: u64,
    pub(super) idle: u64,
}

/// A host thread at work.
pub(super) struct Worker<'a> {
    shape: &'a Shape<'a>,
    /// Of each instruction.
    pub(super) tallies: Vec<Tally>,
    pub(super) counters: Counters,
    pub(super) touched: Vec<Touched>,
    /// Allocation that each instruction used last.
    pub(super) recent: Vec<u32>,
    pub(super) found: Found,
    /// Scratch of the global accesses.
    pub(super) lines: Option<Box<Lines>>,
}

impl<'a> Worker<'a> {
    pub(super) fn new(shape: &'a Shape<'a>) -> Self {
        let length = shape.program.code.len();
        Self {
            shape,
            tallies: vec![Tally::default(); length],
            counters: Counters::default(),
            touched: vec![Touched::default(); shape.allocations.len()],
            recent: vec![0; length],
            found: HashMap::new(),
            lines: None,
        }
    }

    #[inline(always)]
    pub(super) fn code(&self) -> &'a [Instruction] {
        &self.shape.program.code
    }

    #[inline(always)]
    pub(super) fn settings(&self) -> &'a Settings {
        self.shape.settings
    }

    #[inline(always)]
    pub(super) fn races(&self) -> &'a Races {
        &self.shape.races
    }

    #[inline(always)]
    pub(super) fn shape(&self) -> &'a Shape<'a> {
        self.shape
    }

    #[inline(always)]
    pub(super) fn checks(&self, check: Check) -> bool {
        self.shape.settings.checks.contains(check)
    }

    /// Where instruction `at` comes from.
    pub(super) fn describe(&self, at: u32) -> String {
        self.shape.program.describe(at)
    }

    /// An empty block of this launch.
    pub(super) fn block(&self) -> Block {
        let shape = self.shape;
        let shared = shape.program.static_shared + shape.config.dynamic_shared as usize;
        let state = BlockState {
            index: [0; 3],
            shared: Shared::new(
                shared,
                self.checks(Check::SharedRace),
                self.checks(Check::Uninitialised),
            ),
            order: shape.races.blocks.enter(0),
        };
        let warps = (0..shape.threads().div_ceil(32))
            .map(|index| {
                let mut warp = Warp::new(index, shape.program.files, shape.program.local_bytes);
                for constant in 0..shape.program.constants.len() {
                    self.fill(&mut warp, constant, 0, [0; 3]);
                }
                warp
            })
            .collect();
        Block::new(state, warps)
    }

    /// Makes `block` the block number `number`.
    pub(super) fn start(&self, block: &mut Block, number: u64) {
        let shape = self.shape;
        let index = shape.block_index(number);
        block.start(
            number,
            index,
            shape.races.blocks.enter(number),
            shape.threads(),
            shape.settings.seed,
        );
        for warp in block.warps_mut() {
            for &constant in &shape.program.block_constants {
                self.fill(warp, constant, number, index);
            }
        }
    }

    fn fill(&self, warp: &mut Warp, constant: usize, number: u64, block: [u32; 3]) {
        let (class, register, value) = self.shape.program.constants[constant];
        let first = warp.index * WARP as u32;
        let at = usize::from(register);
        if !matches!(value, Constant::ThreadIndex(_) | Constant::Lane | Constant::LaneMask(_)) {
            let bits = self.constant(value, number, block, first);
            match class {
                Class::P => warp.registers.p[at] = bits as u32,
                Class::W => warp.registers.w[at].0 = [bits as u32; WARP],
                Class::D => warp.registers.d[at].0 = [bits; WARP],
            }
            return;
        }
        for lane in 0..WARP {
            let bits = self.constant(value, number, block, first + lane as u32);
            match class {
                Class::P => warp.registers.p[at] = bits as u32,
                Class::W => warp.registers.w[at].0[lane] = bits as u32,
                Class::D => warp.registers.d[at].0[lane] = bits,
            }
        }
    }

    fn constant(&self, value: Constant, number: u64, block: [u32; 3], thread: u32) -> u64 {
        let shape = self.shape;
        let [x, y, _] = shape.config.block;
        let lane = thread % WARP as u32;
        u64::from(match value {
            Constant::Bits(bits) => return bits,
            Constant::Param { offset, bytes, signed } => return self.param(offset, bytes, signed),
            Constant::ThreadIndex(0) => thread % x,
            Constant::ThreadIndex(1) => thread / x % y,
            Constant::ThreadIndex(_) => thread / (x * y),
            Constant::BlockIndex(axis) => block[usize::from(axis)],
            Constant::BlockSize(axis) => shape.config.block[usize::from(axis)],
            Constant::GridSize(axis) => shape.config.grid[usize::from(axis)],
            Constant::Lane => lane,
            Constant::Warp => thread / WARP as u32,
            Constant::Warps => shape.threads().div_ceil(32),
            Constant::Multiprocessor => {
                (number % u64::from(shape.profile.multiprocessors.max(1))) as u32
            }
            Constant::Multiprocessors => shape.profile.multiprocessors,
            Constant::LaneMask(LaneMask::Equal) => 1 << lane,
            Constant::LaneMask(LaneMask::Less) => (1 << lane) - 1,
            Constant::LaneMask(LaneMask::LessEqual) => u32::MAX >> (31 - lane),
            Constant::LaneMask(LaneMask::Greater) => !(u32::MAX >> (31 - lane)),
            Constant::LaneMask(LaneMask::GreaterEqual) => u32::MAX << lane,
            Constant::DynamicShared => shape.config.dynamic_shared,
            Constant::TotalShared => {
                shape.program.static_shared as u32 + shape.config.dynamic_shared
            }
        })
    }

    fn param(&self, offset: u32, bytes: u8, signed: bool) -> u64 {
        let at = offset as usize;
        let mut raw = [0; 8];
        // The lowering checked the range against the parameter block.
        if let Some(source) = self.shape.params.get(at..at + usize::from(bytes)) {
            raw[..source.len()].copy_from_slice(source);
        }
        let shift = 64 - 8 * u32::from(bytes);
        let value = u64::from_le_bytes(raw);
        if signed { ((value << shift) as i64 >> shift) as u64 } else { value }
    }

    /// Records a problem at its place.
    #[cold]
    pub(super) fn report(&mut self, problem: Problem, block: (u64, [u32; 3]), (warp, at): Site) {
        let key = (problem.check, at);
        if self.found.get(&key).is_some_and(|(number, _)| *number <= block.0) {
            return;
        }
        let [x, y, _] = self.shape.config.block;
        let thread = problem.lane.map(|lane| {
            let t = warp as u32 * WARP as u32 + lane;
            [t % x, t / x % y, t / (x * y)]
        });
        let program = self.shape.program;
        let finding = Finding {
            check: problem.check,
            message: problem.message,
            kernel: program.name.clone(),
            source: program.describe(at),
            line: program.line(at),
            block: Some(block.1),
            thread,
            address: problem.address,
        };
        self.found.insert(key, (block.0, finding));
    }
}
