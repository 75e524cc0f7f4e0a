//! Whether this processor and this system let us use the tiles.

#![allow(unsafe_code)]

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::LazyLock;

/// `AMX-BF16` and `AMX-TILE` in EDX of leaf 7.
const AMX: u32 = 1 << 22 | 1 << 24;
/// `OSXSAVE` in ECX of leaf 1.
const OSXSAVE: u32 = 1 << 27;
/// Tile configuration and tile data in XCR0.
const TILE_STATE: u32 = 0b11 << 17;

static AVAILABLE: LazyLock<bool> = LazyLock::new(|| supported() && permitted());

/// Whether the products may be used. The first call asks the system for the tiles.
pub(in crate::cpu) fn available() -> bool {
    *AVAILABLE
}

fn supported() -> bool {
    __cpuid(0).eax >= 7
        && __cpuid_count(7, 0).edx & AMX == AMX
        && __cpuid(1).ecx & OSXSAVE != 0
        && xcr0() & TILE_STATE == TILE_STATE
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("avx512bf16")
}

/// The lower half of XCR0; only where `OSXSAVE` is set.
fn xcr0() -> u32 {
    let low: u32;
    // SAFETY: `supported` calls this only where OSXSAVE says that `xgetbv` exists; it reads XCR0 into
    // EDX:EAX and touches no memory.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _, options(nomem, nostack));
    }
    low
}

/// Asks Linux to save the 8 KiB of tile data on context switches; without it the first tile
/// instruction is fatal. The answer holds for all threads of the process.
fn permitted() -> bool {
    const ARCH_PRCTL: usize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XTILEDATA: usize = 18;
    let result: isize;
    // SAFETY: a system call that takes two integers and no pointers; the kernel clobbers RCX and R11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL as isize => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}
