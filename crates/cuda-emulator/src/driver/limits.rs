//! What a launch may ask for, and how many blocks of it a multiprocessor holds.

use crate::{
    driver::error::Code,
    exec::{Kernel, LaunchConfig},
    profile::Profile,
};

/// Largest grid in x; y and z hold 65,535.
pub(crate) const GRID_X: u32 = i32::MAX as u32;
/// Largest grid in y and z.
pub(crate) const GRID_YZ: u32 = 65_535;
/// Largest block in z; x and y hold all 1,024 threads.
pub(crate) const BLOCK_Z: u32 = 64;

const WARP: u32 = 32;
/// Registers are given to a warp in this unit, on compute capability 7 to 9.
const REGISTER_UNIT: u32 = 256;
/// A multiprocessor has four partitions, each with its own warps and registers.
const PARTITIONS: u32 = 4;
const SHARED_UNIT: u64 = 128;

/// Why a launch is refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// What the driver returns.
    pub(crate) code: Code,
    /// The numbers.
    pub(crate) message: String,
}

/// What a kernel asks for, whatever the launch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Needs {
    /// Registers a thread, an estimate.
    pub(crate) registers: u32,
    /// Bytes of static shared memory.
    pub(crate) static_shared: usize,
    /// `.maxntid` as a product.
    pub(crate) max_threads: Option<u32>,
    /// `.reqntid`.
    pub(crate) required_threads: Option<[u32; 3]>,
}

impl From<&Kernel> for Needs {
    fn from(kernel: &Kernel) -> Self {
        Self {
            registers: kernel.registers,
            static_shared: kernel.static_shared,
            max_threads: kernel.max_threads,
            required_threads: kernel.required_threads,
        }
    }
}

/// Registers a thread as the compiler would give: the estimate, less where `.maxntid` forces it to
/// spill.
pub(crate) fn registers(kernel: &Needs, profile: &Profile) -> u32 {
    let bound = kernel.max_threads.or_else(|| required(kernel)).map_or(255, |threads| {
        let warps = threads.max(1).div_ceil(WARP).next_multiple_of(PARTITIONS);
        (profile.registers_per_multiprocessor / (warps * WARP)) & !7
    });
    kernel.registers.clamp(1, bound.max(16))
}

/// Most threads a block of the kernel may have.
pub(crate) fn max_threads(kernel: &Needs, profile: &Profile) -> u32 {
    let bound = kernel.max_threads.or_else(|| required(kernel));
    let warps = warps_by_registers(registers(kernel, profile), profile);
    bound.unwrap_or(u32::MAX).min(Profile::THREADS_PER_BLOCK).min(warps * WARP)
}

fn required(kernel: &Needs) -> Option<u32> {
    kernel.required_threads.map(|[x, y, z]| x.saturating_mul(y).saturating_mul(z))
}

fn warps_by_registers(registers: u32, profile: &Profile) -> u32 {
    let warp = (registers * WARP).next_multiple_of(REGISTER_UNIT);
    profile.registers_per_multiprocessor / PARTITIONS / warp * PARTITIONS
}

/// Bytes of shared memory that a block takes of its multiprocessor.
fn shared_of_block(kernel: &Needs, dynamic: u64) -> u64 {
    (kernel.static_shared as u64 + dynamic + u64::from(Profile::SHARED_RESERVED))
        .next_multiple_of(SHARED_UNIT)
}

/// Blocks of `threads` threads that a multiprocessor holds at once.
pub(crate) fn resident_blocks(
    kernel: &Needs,
    threads: u32,
    dynamic: u64,
    profile: &Profile,
) -> u32 {
    let warps = threads.div_ceil(WARP).max(1);
    let by_registers = warps_by_registers(registers(kernel, profile), profile) / warps;
    let by_threads = profile.threads_per_multiprocessor / WARP / warps;
    let shared = u64::from(profile.shared_per_multiprocessor);
    let by_shared = (shared / shared_of_block(kernel, dynamic)) as u32;
    profile.blocks_per_multiprocessor.min(by_registers).min(by_threads).min(by_shared)
}

/// Most dynamic shared memory with which `blocks` blocks stay resident.
pub(crate) fn dynamic_shared_for(kernel: &Needs, blocks: u32, profile: &Profile) -> u64 {
    let share = u64::from(profile.shared_per_multiprocessor) / u64::from(blocks.max(1));
    let taken = kernel.static_shared as u64 + u64::from(Profile::SHARED_RESERVED);
    (share / SHARED_UNIT * SHARED_UNIT)
        .saturating_sub(taken)
        .min(u64::from(profile.shared_per_block_optin).saturating_sub(kernel.static_shared as u64))
}

/// The block size that keeps most threads resident, and blocks that fill the device with it.
pub(crate) fn best_block(
    kernel: &Needs,
    limit: u32,
    dynamic: impl Fn(u32) -> u64,
    profile: &Profile,
) -> Option<(u32, u32)> {
    let most = max_threads(kernel, profile).min(if limit == 0 { u32::MAX } else { limit });
    let mut best: Option<(u32, u32)> = None;
    for threads in (1..=most).rev().filter(|&n| n % WARP == 0 || n == most) {
        let blocks = resident_blocks(kernel, threads, dynamic(threads), profile);
        if blocks > 0 && best.is_none_or(|(t, b)| threads * blocks > t * b) {
            best = Some((threads, blocks));
        }
    }
    best.map(|(threads, blocks)| (threads, blocks * profile.multiprocessors))
}

/// Dynamic shared memory that a kernel may be launched with if nothing was opted in.
pub(crate) fn default_dynamic_shared(kernel: &Needs) -> u32 {
    Profile::SHARED_PER_BLOCK.saturating_sub(kernel.static_shared as u32)
}

/// Checks a launch against kernel and device. `opted_in` is the value of
/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES` where it was set.
pub(crate) fn check(
    kernel: &Needs,
    config: &LaunchConfig,
    opted_in: Option<u32>,
    profile: &Profile,
) -> Result<(), Refusal> {
    let refuse = |code, message| Err(Refusal { code, message });
    let LaunchConfig { grid, block, dynamic_shared, .. } = *config;
    if grid.contains(&0) || block.contains(&0) {
        return refuse(Code::INVALID_VALUE, format!("grid {grid:?} of blocks {block:?} is empty"));
    }
    if grid[0] > GRID_X || grid[1] > GRID_YZ || grid[2] > GRID_YZ {
        return refuse(
            Code::INVALID_VALUE,
            format!("grid {grid:?}, at most [{GRID_X}, {GRID_YZ}, {GRID_YZ}]"),
        );
    }
    let threads: u64 = block.iter().map(|&n| u64::from(n)).product();
    if threads > u64::from(Profile::THREADS_PER_BLOCK) || block[2] > BLOCK_Z {
        return refuse(
            Code::INVALID_VALUE,
            format!(
                "blocks {block:?} have {threads} threads, at most {} and {BLOCK_Z} in z",
                Profile::THREADS_PER_BLOCK
            ),
        );
    }
    let threads = threads as u32;
    if let Some(required) = kernel.required_threads.filter(|&required| required != block) {
        return refuse(
            Code::INVALID_VALUE,
            format!("blocks {block:?}, the kernel requires {required:?}"),
        );
    }
    if let Some(most) = kernel.max_threads.filter(|&most| threads > most) {
        return refuse(
            Code::INVALID_VALUE,
            format!("blocks of {threads} threads, the kernel's launch bound is {most}"),
        );
    }
    let registers = registers(kernel, profile);
    let available = warps_by_registers(registers, profile) * WARP;
    if threads > available {
        return refuse(
            Code::LAUNCH_OUT_OF_RESOURCES,
            format!(
                "{threads} threads of about {registers} registers, of which {available} threads \
                 fit into {}",
                profile.registers_per_multiprocessor
            ),
        );
    }
    let dynamic_limit = opted_in.unwrap_or_else(|| default_dynamic_shared(kernel));
    let shared = kernel.static_shared as u64 + u64::from(dynamic_shared);
    if dynamic_shared > dynamic_limit || shared > u64::from(profile.shared_per_block_optin) {
        return refuse(
            Code::INVALID_VALUE,
            format!(
                "{} bytes of static and {dynamic_shared} of dynamic shared memory, at most \
                 {dynamic_limit} dynamic ({}) and {} in all",
                kernel.static_shared,
                if opted_in.is_some() { "opted in" } else { "without opting in" },
                profile.shared_per_block_optin
            ),
        );
    }
    let blocks: u64 = grid.iter().map(|&n| u64::from(n)).product();
    let resident = u64::from(resident_blocks(kernel, threads, dynamic_shared.into(), profile))
        * u64::from(profile.multiprocessors);
    if config.cooperative && blocks > resident {
        return refuse(
            Code::COOPERATIVE_LAUNCH_TOO_LARGE,
            format!("{blocks} cooperating blocks, {resident} are resident at once"),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{A100, RTX_3090};

    const NEEDS: Needs =
        Needs { registers: 32, static_shared: 0, max_threads: None, required_threads: None };

    fn config(grid: [u32; 3], block: [u32; 3], dynamic_shared: u32) -> LaunchConfig {
        LaunchConfig { grid, block, dynamic_shared, cooperative: false }
    }

    #[test]
    fn limits_hold_exactly() {
        let one = [1, 1, 1];
        let mut kernel = NEEDS;
        let expect = |kernel: &Needs, config: LaunchConfig, opted_in, code: Option<Code>| {
            let result = check(kernel, &config, opted_in, &RTX_3090);
            assert_eq!(result.as_ref().err().map(|r| r.code), code, "{config:?}: {result:?}");
        };
        let invalid = Some(Code::INVALID_VALUE);
        expect(&kernel, config(one, one, 0), None, None);
        expect(&kernel, config([0, 1, 1], one, 0), None, invalid);
        expect(&kernel, config(one, [1, 0, 1], 0), None, invalid);
        expect(&kernel, config([i32::MAX as u32, 65_535, 65_535], one, 0), None, None);
        expect(&kernel, config([1, 65_536, 1], one, 0), None, invalid);
        expect(&kernel, config([1, 1, 65_536], one, 0), None, invalid);
        expect(&kernel, config(one, [1024, 1, 1], 0), None, None);
        expect(&kernel, config(one, [1025, 1, 1], 0), None, invalid);
        expect(&kernel, config(one, [33, 32, 1], 0), None, invalid);
        expect(&kernel, config(one, [1, 1, 64], 0), None, None);
        expect(&kernel, config(one, [1, 1, 65], 0), None, invalid);
        expect(&kernel, config(one, [65_536, 65_536, 1], 0), None, invalid);
        expect(&kernel, config(one, one, 48 << 10), None, None);
        expect(&kernel, config(one, one, (48 << 10) + 1), None, invalid);
        expect(&kernel, config(one, one, 60_000), Some(60_000), None);
        expect(&kernel, config(one, one, 60_001), Some(60_000), invalid);
        expect(&kernel, config(one, one, 99 << 10), Some(99 << 10), None);
        kernel.static_shared = 1024;
        expect(&kernel, config(one, one, 48 << 10), None, invalid);
        expect(&kernel, config(one, one, 99 << 10), Some(99 << 10), invalid);
        kernel.registers = 72;
        expect(&kernel, config(one, [896, 1, 1], 0), None, None);
        expect(&kernel, config(one, [897, 1, 1], 0), None, Some(Code::LAUNCH_OUT_OF_RESOURCES));
        kernel.max_threads = Some(256);
        expect(&kernel, config(one, [256, 1, 1], 0), None, None);
        expect(&kernel, config(one, [257, 1, 1], 0), None, invalid);
        kernel.required_threads = Some([128, 1, 1]);
        expect(&kernel, config(one, [64, 1, 1], 0), None, invalid);
        expect(&kernel, config(one, [128, 1, 1], 0), None, None);
    }

    #[test]
    fn cooperating_blocks_must_be_resident() {
        let kernel = NEEDS;
        let mut config = config([82 * 6, 1, 1], [256, 1, 1], 0);
        config.cooperative = true;
        assert_eq!(check(&kernel, &config, None, &RTX_3090), Ok(()));
        config.grid[0] += 1;
        let refusal = check(&kernel, &config, None, &RTX_3090).expect_err("too many");
        assert_eq!(refusal.code, Code::COOPERATIVE_LAUNCH_TOO_LARGE);
        assert!(refusal.message.contains("493") && refusal.message.contains("492"));
    }

    #[test]
    fn occupancy_follows_the_scarcest_resource() {
        let mut kernel = NEEDS;
        let blocks = |kernel: &Needs, threads, dynamic, profile| {
            resident_blocks(kernel, threads, dynamic, profile)
        };
        assert_eq!(blocks(&kernel, 256, 0, &RTX_3090), 6);
        assert_eq!(blocks(&kernel, 256, 0, &A100), 8);
        assert_eq!(blocks(&kernel, 32, 0, &RTX_3090), 16);
        assert_eq!(blocks(&kernel, 256, 48 << 10, &RTX_3090), 2);
        assert_eq!(blocks(&kernel, 128, 99 << 10, &RTX_3090), 1);
        assert_eq!(blocks(&kernel, 128, (99 << 10) + 1, &RTX_3090), 0);
        kernel.registers = 128;
        assert_eq!(blocks(&kernel, 256, 0, &RTX_3090), 2);
        kernel.registers = 255;
        assert_eq!(max_threads(&kernel, &RTX_3090), 256);
        kernel.max_threads = Some(1024);
        assert_eq!(registers(&kernel, &RTX_3090), 64);
        assert_eq!(max_threads(&kernel, &RTX_3090), 1024);
    }

    #[test]
    fn the_best_block_fills_the_device() {
        let kernel = NEEDS;
        let (threads, blocks) = best_block(&kernel, 0, |_| 0, &RTX_3090).expect("fits");
        assert_eq!(threads * blocks, 1536 * 82);
        assert_eq!(best_block(&kernel, 100, |_| 0, &RTX_3090), Some((96, 16 * 82)));
        assert_eq!(best_block(&kernel, 0, |_| 1 << 20, &RTX_3090), None);
        let most = dynamic_shared_for(&kernel, 2, &RTX_3090);
        assert_eq!(resident_blocks(&kernel, 128, most, &RTX_3090), 2);
        assert_eq!(resident_blocks(&kernel, 128, most + SHARED_UNIT, &RTX_3090), 1);
    }
}
