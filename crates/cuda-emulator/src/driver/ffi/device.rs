//! `cuDevice…`.

use crate::{
    driver::{
        error::Code,
        ffi::{
            api,
            context::check_device,
            pointers::{Buffer, Out, Text},
        },
        limits,
    },
    profile::Profile,
};

const PCI_ADDRESS: &str = "0000:01:00.0";

api! {
    fn cuDeviceGet(_s, device: Out<i32>, ordinal: i32) {
        check_device(ordinal)?;
        device.set(0)
    }
    fn cuDeviceGetCount(_s, count: Out<i32>) { count.set(1) }
    fn cuDeviceGetName(s, name: Buffer, length: i32, device: i32) {
        check_device(device)?;
        name.write(s.settings.profile.name, usize::try_from(length).unwrap_or(0))
    }
    fn cuDeviceGetUuid(s, uuid: Out<[u8; 16]>, device: i32) {
        check_device(device)?;
        uuid.set(make_uuid(s.settings.profile))
    }
    fn cuDeviceGetUuid_v2(s, uuid: Out<[u8; 16]>, device: i32) {
        check_device(device)?;
        uuid.set(make_uuid(s.settings.profile))
    }
    fn cuDeviceTotalMem_v2(s, bytes: Out<usize>, device: i32) {
        check_device(device)?;
        bytes.set(s.settings.memory as usize)
    }
    fn cuDeviceComputeCapability(s, major: Out<i32>, minor: Out<i32>, device: i32) {
        check_device(device)?;
        let capability = s.settings.profile.compute_capability;
        major.set(capability.0 as i32)?;
        minor.set(capability.1 as i32)
    }
    fn cuDeviceGetAttribute(s, value: Out<i32>, which: u32, device: i32) {
        check_device(device)?;
        let Some(known) = attribute(which, s.settings.profile) else {
            s.journal.warn(format!("device attribute {which} is not known"));
            return Err(Code::INVALID_VALUE);
        };
        value.set(known)
    }
    fn cuDeviceGetPCIBusId(_s, text: Buffer, length: i32, device: i32) {
        check_device(device)?;
        text.write(PCI_ADDRESS, usize::try_from(length).unwrap_or(0))
    }
    fn cuDeviceGetByPCIBusId(_s, device: Out<i32>, text: Text) {
        if text.get()?.eq_ignore_ascii_case(PCI_ADDRESS) {
            device.set(0)
        } else {
            Err(Code::INVALID_DEVICE)
        }
    }
    fn cuDeviceCanAccessPeer(_s, can: Out<i32>, device: i32, peer: i32) {
        check_device(device)?;
        check_device(peer)?;
        can.set(0)
    }
}

/// A UUID that says which profile it is.
fn make_uuid(profile: &Profile) -> [u8; 16] {
    let mut uuid = *b"emulated        ";
    for (to, from) in uuid[8..].iter_mut().zip(profile.key.bytes()) {
        *to = from;
    }
    uuid
}

/// A device attribute by its number in `CUdevice_attribute`. What is not emulated is said to be
/// missing: clusters, textures larger than the common limits, virtual memory management, peers.
// One arm for each group of attributes that belong together.
#[allow(clippy::match_same_arms)]
fn attribute(which: u32, p: &Profile) -> Option<i32> {
    let data_center = p.compute_capability.1 == 0;
    Some(match which {
        1..=3 => Profile::THREADS_PER_BLOCK as i32,
        4 => limits::BLOCK_Z as i32,
        5 => limits::GRID_X as i32,
        6 | 7 => limits::GRID_YZ as i32,
        8 => Profile::SHARED_PER_BLOCK as i32,
        // Bytes of constant memory.
        9 => 65_536,
        // Threads of a warp.
        10 => 32,
        // Pitch of a copy.
        11 => i32::MAX,
        12 | 82 => p.registers_per_multiprocessor as i32,
        13 => p.clock_khz as i32,
        14 | 30 => 512,
        // Copies overlap with kernels, host memory is mapped, kernels run at once, addresses are
        // unified, streams have priorities, L1 holds global and local memory.
        15 | 19 | 31 | 41 | 78 | 79 | 80 => 1,
        16 => p.multiprocessors as i32,
        // No watchdog, not integrated, default compute mode.
        17 | 18 | 20 => 0,
        21 | 22 | 23 | 55 | 56 | 61 | 62 => {
            131_072.min(if which == 55 || which == 61 { 32_768 } else { 131_072 })
        }
        24..=26 => 16_384,
        27 | 28 | 42 => 32_768,
        29 | 43 => 2_048,
        32 | 35 => data_center.into(),
        33 => 1,
        34 | 50 => 0,
        36 => p.memory_clock_khz as i32,
        37 => p.memory_bus_bits as i32,
        38 => p.l2 as i32,
        39 => p.threads_per_multiprocessor as i32,
        40 => {
            if data_center {
                3
            } else {
                2
            }
        }
        51 => 32,
        75 => p.compute_capability.0 as i32,
        76 => p.compute_capability.1 as i32,
        81 => p.shared_per_multiprocessor as i32,
        // Managed memory, concurrently accessed; preemption; pinned memory at the same address.
        83 | 89 | 90 => 1,
        // One device on its board, in no group; no atomics over the bus.
        84..=86 => 0,
        // f32 operations for one of f64.
        87 => {
            if data_center {
                2
            } else {
                64
            }
        }
        // No pageable access, no registered memory at the host's address, no memory operations of
        // streams.
        88 | 91 | 92 | 93 | 94 => 0,
        // Cooperative launches, on one device.
        95 => 1,
        96 => 0,
        97 => p.shared_per_block_optin as i32,
        98 => 0,
        // Memory can be registered, for copies.
        99 => 1,
        // No host page tables, direct access, virtual memory management or shared handles.
        100..=105 => 0,
        106 => p.blocks_per_multiprocessor as i32,
        // No compression, persisting L2, remote access.
        107..=110 => 0,
        111 => Profile::SHARED_RESERVED as i32,
        112..=114 => 0,
        115 => 1,
        116..=133 => 0,
        // The processor's memory node: none in particular.
        134 => -1,
        135..=149 => 0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::attribute;
    use crate::profile::{A100, RTX_3090};

    #[test]
    fn attributes_follow_the_profile() {
        for (which, geforce, a100) in [
            (1, 1024, 1024),
            (8, 49_152, 49_152),
            (10, 32, 32),
            (16, 82, 108),
            (37, 384, 5120),
            (39, 1536, 2048),
            (75, 8, 8),
            (76, 6, 0),
            (81, 102_400, 167_936),
            (97, 101_376, 166_912),
            (106, 16, 32),
            (115, 1, 1),
            (120, 0, 0),
        ] {
            assert_eq!(attribute(which, &RTX_3090), Some(geforce), "{which}");
            assert_eq!(attribute(which, &A100), Some(a100), "{which}");
        }
        assert_eq!(attribute(5000, &A100), None);
        assert_eq!(attribute(0, &A100), None);
    }
}
