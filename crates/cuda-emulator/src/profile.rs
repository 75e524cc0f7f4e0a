//! Devices that can be emulated.

/// What the emulator knows of a GPU: limits, attributes, and the peaks behind the bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Name in `CUDA_EMULATOR_PROFILE`: `rtx3090`.
    pub key: &'static str,
    /// Marketing name, as the driver reports it.
    pub name: &'static str,
    /// Compute capability, major and minor.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of device memory.
    pub memory: u64,
    /// Threads a multiprocessor holds.
    pub threads_per_multiprocessor: u32,
    /// Blocks a multiprocessor holds.
    pub blocks_per_multiprocessor: u32,
    /// 32-bit registers of a multiprocessor.
    pub registers_per_multiprocessor: u32,
    /// Bytes of shared memory of a multiprocessor.
    pub shared_per_multiprocessor: u32,
    /// Bytes of shared memory of a block after opting in.
    pub shared_per_block_optin: u32,
    /// Bytes of L2.
    pub l2: u32,
    /// Boost clock in kHz.
    pub clock_khz: u32,
    /// Memory clock in kHz.
    pub memory_clock_khz: u32,
    /// Width of the memory bus in bits.
    pub memory_bus_bits: u32,
    /// Peak of dense bf16 matrix instructions with f32 accumulation, in FLOP/s.
    pub peak_matrix_flops: f64,
    /// Peak of f32 arithmetic in FLOP/s, two for a multiply-add.
    pub peak_f32_flops: f64,
    /// Peak of device memory in bytes/s.
    pub peak_bandwidth: f64,
}

const KIB: u32 = 1 << 10;
const MIB: u32 = 1 << 20;
const GIB: u64 = 1 << 30;

/// `GeForce` RTX 3090. NVIDIA, "Ampere GA102 GPU architecture" whitepaper, appendix A.
pub const RTX_3090: Profile = Profile {
    key: "rtx3090",
    name: "NVIDIA GeForce RTX 3090",
    compute_capability: (8, 6),
    multiprocessors: 82,
    memory: 24 * GIB,
    threads_per_multiprocessor: 1536,
    blocks_per_multiprocessor: 16,
    registers_per_multiprocessor: 64 * KIB,
    shared_per_multiprocessor: 100 * KIB,
    shared_per_block_optin: 99 * KIB,
    l2: 6 * MIB,
    clock_khz: 1_695_000,
    memory_clock_khz: 9_751_000,
    memory_bus_bits: 384,
    peak_matrix_flops: 71e12,
    peak_f32_flops: 35.6e12,
    peak_bandwidth: 936e9,
};

/// `GeForce` RTX 4090. NVIDIA, "Ada GPU architecture" whitepaper, appendix A.
pub const RTX_4090: Profile = Profile {
    key: "rtx4090",
    name: "NVIDIA GeForce RTX 4090",
    compute_capability: (8, 9),
    multiprocessors: 128,
    memory: 24 * GIB,
    threads_per_multiprocessor: 1536,
    blocks_per_multiprocessor: 24,
    registers_per_multiprocessor: 64 * KIB,
    shared_per_multiprocessor: 100 * KIB,
    shared_per_block_optin: 99 * KIB,
    l2: 72 * MIB,
    clock_khz: 2_520_000,
    memory_clock_khz: 10_501_000,
    memory_bus_bits: 384,
    peak_matrix_flops: 165.2e12,
    peak_f32_flops: 82.6e12,
    peak_bandwidth: 1008e9,
};

/// A100 SXM4 with 40 GB. NVIDIA, "A100 tensor core GPU architecture" whitepaper, table 4.
pub const A100: Profile = Profile {
    key: "a100",
    name: "NVIDIA A100-SXM4-40GB",
    compute_capability: (8, 0),
    multiprocessors: 108,
    memory: 40 * GIB,
    threads_per_multiprocessor: 2048,
    blocks_per_multiprocessor: 32,
    registers_per_multiprocessor: 64 * KIB,
    shared_per_multiprocessor: 164 * KIB,
    shared_per_block_optin: 163 * KIB,
    l2: 40 * MIB,
    clock_khz: 1_410_000,
    memory_clock_khz: 1_215_000,
    memory_bus_bits: 5120,
    peak_matrix_flops: 312e12,
    peak_f32_flops: 19.5e12,
    peak_bandwidth: 1555e9,
};

/// H100 SXM5 with 80 GB. NVIDIA, H100 data sheet. Clusters, `wgmma` and TMA are not emulated.
pub const H100: Profile = Profile {
    key: "h100",
    name: "NVIDIA H100 80GB HBM3",
    compute_capability: (9, 0),
    multiprocessors: 132,
    memory: 80 * GIB,
    threads_per_multiprocessor: 2048,
    blocks_per_multiprocessor: 32,
    registers_per_multiprocessor: 64 * KIB,
    shared_per_multiprocessor: 228 * KIB,
    shared_per_block_optin: 227 * KIB,
    l2: 50 * MIB,
    clock_khz: 1_980_000,
    memory_clock_khz: 2_619_000,
    memory_bus_bits: 5120,
    peak_matrix_flops: 989.4e12,
    peak_f32_flops: 66.9e12,
    peak_bandwidth: 3352e9,
};

impl Profile {
    /// Every profile, the default first.
    pub const ALL: [&'static Profile; 4] = [&RTX_3090, &RTX_4090, &A100, &H100];
    /// Threads of a block, on every device since compute capability 2.0.
    pub const THREADS_PER_BLOCK: u32 = 1024;
    /// Bytes of shared memory of a block without opting in.
    pub const SHARED_PER_BLOCK: u32 = 48 * KIB;
    /// Bytes of shared memory that the system keeps of each block.
    pub const SHARED_RESERVED: u32 = KIB;

    /// The profile of that key.
    pub fn find(key: &str) -> Option<&'static Profile> {
        Self::ALL.into_iter().find(|profile| profile.key == key)
    }
}

#[cfg(test)]
mod tests {
    use super::Profile;

    #[test]
    fn peaks_follow_from_clocks_and_widths() {
        for profile in Profile::ALL {
            let clock = f64::from(profile.clock_khz) * 1e3;
            let lanes = if profile.compute_capability == (8, 0) { 64.0 } else { 128.0 };
            let f32_flops = 2.0 * lanes * f64::from(profile.multiprocessors) * clock;
            let bandwidth = 2.0
                * f64::from(profile.memory_clock_khz)
                * 1e3
                * f64::from(profile.memory_bus_bits)
                / 8.0;
            assert!((f32_flops / profile.peak_f32_flops - 1.0).abs() < 0.01, "{}", profile.key);
            assert!((bandwidth / profile.peak_bandwidth - 1.0).abs() < 0.01, "{}", profile.key);
            assert_eq!(
                profile.shared_per_block_optin + Profile::SHARED_RESERVED,
                profile.shared_per_multiprocessor
            );
        }
        assert_eq!(Profile::find("rtx3090"), Some(Profile::ALL[0]));
        assert_eq!(Profile::find("RTX"), None);
    }
}
