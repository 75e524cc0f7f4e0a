//! `cuLaunch…` and `cuOccupancy…`.

use crate::{
    driver::{
        error::{Code, Status},
        ffi::{
            api,
            pointers::{Arguments, In, Out, SharedForBlock, shared_for_block},
        },
        limits::{self, Needs},
        state::State,
    },
    exec::LaunchConfig,
};

/// `CUlaunchConfig`.
#[derive(Clone, Copy)]
#[repr(C)]
struct ExtendedConfig {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: u64,
    attributes: In<Attribute>,
    count: u32,
}

/// `CUlaunchAttribute`: its id and the union of values.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Attribute {
    id: u32,
    padding: u32,
    value: [u32; 16],
}

impl ExtendedConfig {
    /// The launch, if it has no attribute that is not emulated.
    fn config(&self, s: &mut State) -> Status<LaunchConfig> {
        const COOPERATIVE: u32 = 2;
        // Ignored, access policy and priority: without effect here.
        const HARMLESS: [u32; 3] = [0, 1, 8];
        let mut cooperative = false;
        for index in 0..self.count as usize {
            let Attribute { id, value, .. } = self.attributes.at(index)?;
            if id == COOPERATIVE {
                cooperative = value[0] != 0;
            } else if !HARMLESS.contains(&id) {
                s.journal.warn(format!("launch attribute {id} is not supported"));
                return Err(Code::NOT_SUPPORTED);
            }
        }
        let Self { grid, block, shared, .. } = *self;
        Ok(LaunchConfig { grid, block, dynamic_shared: shared, cooperative })
    }
}

fn occupancy(s: &State, function: u64, threads: i32, shared: usize) -> Status<i32> {
    let threads = u32::try_from(threads).ok().filter(|&n| n > 0).ok_or(Code::INVALID_VALUE)?;
    let needs = Needs::from(&*s.function(function)?.kernel);
    let profile = s.settings.profile;
    if threads > limits::max_threads(&needs, profile) {
        return Ok(0);
    }
    Ok(limits::resident_blocks(&needs, threads, shared as u64, profile) as i32)
}

fn best_block(
    s: &State,
    (grid, block): (Out<i32>, Out<i32>),
    function: u64,
    shared: (SharedForBlock, usize),
    limit: i32,
) -> Status {
    let needs = Needs::from(&*s.function(function)?.kernel);
    let limit = u32::try_from(limit).map_err(|_| Code::INVALID_VALUE)?;
    let dynamic = |threads| shared_for_block(shared.0, threads, shared.1);
    let (threads, blocks) = limits::best_block(&needs, limit, dynamic, s.settings.profile)
        .ok_or(Code::INVALID_VALUE)?;
    grid.set(blocks as i32)?;
    block.set(threads as i32)
}

api! {
    fn cuLaunchKernel(s, function: u64, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32,
        block_z: u32, shared: u32, stream: u64, params: In<In<u8>>, extra: In<usize>) {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let config = LaunchConfig { grid, block, dynamic_shared: shared, cooperative: false };
        s.launch("cuLaunchKernel", function, config, stream, Arguments::new(params, extra))
    }
    fn cuLaunchCooperativeKernel(s, function: u64, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32,
        block_y: u32, block_z: u32, shared: u32, stream: u64, params: In<In<u8>>) {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let config = LaunchConfig { grid, block, dynamic_shared: shared, cooperative: true };
        let arguments = Arguments::new(params, In::null());
        s.launch("cuLaunchCooperativeKernel", function, config, stream, arguments)
    }
    fn cuLaunchKernelEx(s, config: In<ExtendedConfig>, function: u64, params: In<In<u8>>, extra: In<usize>) {
        let extended = config.get()?;
        let config = extended.config(s)?;
        let arguments = Arguments::new(params, extra);
        s.launch("cuLaunchKernelEx", function, config, extended.stream, arguments)
    }
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(s, blocks: Out<i32>, function: u64, threads: i32, shared: usize) {
        blocks.set(occupancy(s, function, threads, shared)?)
    }
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(s, blocks: Out<i32>, function: u64, threads: i32,
        shared: usize, flags: u32) {
        if flags > 1 {
            return Err(Code::INVALID_VALUE);
        }
        blocks.set(occupancy(s, function, threads, shared)?)
    }
    fn cuOccupancyAvailableDynamicSMemPerBlock(s, bytes: Out<usize>, function: u64, blocks: i32, threads: i32) {
        let blocks = u32::try_from(blocks).ok().filter(|&n| n > 0).ok_or(Code::INVALID_VALUE)?;
        if occupancy(s, function, threads, 0)? < blocks as i32 {
            return Err(Code::INVALID_VALUE);
        }
        let needs = Needs::from(&*s.function(function)?.kernel);
        bytes.set(limits::dynamic_shared_for(&needs, blocks, s.settings.profile) as usize)
    }
    fn cuOccupancyMaxPotentialBlockSize(s, grid: Out<i32>, block: Out<i32>, function: u64,
        shared_for: SharedForBlock, shared: usize, limit: i32) {
        best_block(s, (grid, block), function, (shared_for, shared), limit)
    }
    fn cuOccupancyMaxPotentialBlockSizeWithFlags(s, grid: Out<i32>, block: Out<i32>, function: u64,
        shared_for: SharedForBlock, shared: usize, limit: i32, flags: u32) {
        if flags > 1 {
            return Err(Code::INVALID_VALUE);
        }
        best_block(s, (grid, block), function, (shared_for, shared), limit)
    }
}
