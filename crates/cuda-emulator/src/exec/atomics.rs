//! Atomic operations.

use half::{bf16, f16};

use super::{
    access::{Reach, Windows},
    block::BlockState,
    fault::Problem,
    instruction::{Atomic, AtomicOp, AtomicType, NONE},
    shared::Use,
    warp::{Warp, lanes},
    worker::Worker,
};
use crate::{
    alu::{Operands, WARP},
    findings::Check,
    memory::Kind,
};
use std::sync::atomic::Ordering::Relaxed;

/// What `old` becomes with operand `b` (and `c`, the new value of a compare-and-swap).
fn combine(op: AtomicOp, ty: AtomicType, old: u64, b: u64, c: u64) -> u64 {
    let (old32, b32) = (old as u32, b as u32);
    let float = |x: u64| f32::from_bits(x as u32);
    match op {
        AtomicOp::And => old & b,
        AtomicOp::Or => old | b,
        AtomicOp::Xor => old ^ b,
        AtomicOp::Exchange => b,
        AtomicOp::CompareSwap => {
            if old == b {
                c
            } else {
                old
            }
        }
        AtomicOp::Inc => u64::from(if old32 >= b32 { 0 } else { old32 + 1 }),
        AtomicOp::Dec => u64::from(if old32 == 0 || old32 > b32 { b32 } else { old32 - 1 }),
        AtomicOp::Add => match ty {
            AtomicType::U32 | AtomicType::S32 => u64::from(old32.wrapping_add(b32)),
            AtomicType::U64 | AtomicType::S64 => old.wrapping_add(b),
            // The hardware's f32 atomics flush subnormals in global memory; sums here keep them.
            AtomicType::F32 => u64::from((float(old) + float(b)).to_bits()),
            AtomicType::F64 => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
            AtomicType::F16 => u64::from(add_f16(old as u16, b as u16)),
            AtomicType::Bf16 => u64::from(add_bf16(old as u16, b as u16)),
            AtomicType::F16x2 => halves(old32, b32, add_f16),
            AtomicType::Bf16x2 => halves(old32, b32, add_bf16),
        },
        AtomicOp::Min | AtomicOp::Max => {
            let less = match ty {
                AtomicType::S32 => (old32 as i32) < b32 as i32,
                AtomicType::S64 => (old as i64) < b as i64,
                _ => old < b,
            };
            if less == (op == AtomicOp::Min) { old } else { b }
        }
    }
}

fn add_f16(a: u16, b: u16) -> u16 {
    f16::from_f32(f16::from_bits(a).to_f32() + f16::from_bits(b).to_f32()).to_bits()
}

fn add_bf16(a: u16, b: u16) -> u16 {
    bf16::from_f32(bf16::from_bits(a).to_f32() + bf16::from_bits(b).to_f32()).to_bits()
}

fn halves(a: u32, b: u32, add: impl Fn(u16, u16) -> u16) -> u64 {
    u64::from(
        u32::from(add(a as u16, b as u16))
            | u32::from(add((a >> 16) as u16, (b >> 16) as u16)) << 16,
    )
}

impl Warp {
    pub(super) fn atomic(
        &mut self,
        worker: &mut Worker<'_>,
        block: &mut BlockState,
        atomic: Atomic,
        registers: &Operands,
        active: u32,
    ) -> Result<(), Problem> {
        let mut addresses = self.addresses(registers[1], atomic.address);
        worker.counters.atomics += u64::from(active.count_ones());
        let windows = Windows::split(atomic.place, &mut addresses, active);
        if windows.local | windows.param != 0 {
            return Err(Problem::new(Check::OutOfBounds, "an atomic on local memory"));
        }
        count_conflicts(worker, &addresses, active);
        if windows.global != 0 {
            self.atomic_global(worker, block, atomic, registers, &addresses, windows.global)?;
        }
        if windows.shared != 0 {
            self.atomic_shared(worker, block, atomic, registers, &addresses, windows.shared)?;
        }
        Ok(())
    }

    /// Operands of a lane: the second, and the third of a compare-and-swap.
    fn operands(&self, registers: &Operands, lane: usize, wide: bool) -> (u64, u64) {
        let value = |register: u16| match register {
            NONE => 0,
            register if wide => self.d(register)[lane],
            register => u64::from(self.w(register)[lane]),
        };
        (value(registers[2]), value(registers[3]))
    }

    fn set_old(&mut self, register: u16, lane: usize, old: u64, wide: bool) {
        if register == NONE {
            return;
        }
        if wide {
            self.d_mut(register)[lane] = old;
        } else {
            self.w_mut(register)[lane] = old as u32;
        }
    }

    fn atomic_global(
        &mut self,
        worker: &mut Worker<'_>,
        block: &mut BlockState,
        atomic: Atomic,
        registers: &Operands,
        addresses: &[u64; WARP],
        active: u32,
    ) -> Result<(), Problem> {
        let bytes = usize::from(atomic.ty.bytes());
        let wide = bytes == 8;
        if atomic.releases {
            worker.races().blocks.fence(&mut block.order);
        }
        self.global(
            worker,
            block,
            addresses,
            active,
            Reach::new(bytes, bytes, Kind::Atomic),
            |warp, allocation, _, group| {
                lanes(group, |lane| {
                    let at = (addresses[lane] - allocation.base) as usize;
                    let (b, c) = warp.operands(registers, lane, wide);
                    let next = |old: u64| combine(atomic.op, atomic.ty, old, b, c);
                    let old = match bytes {
                        8 => update(allocation.data.u64(at), next),
                        2 => {
                            let cell = allocation.data.u16(at);
                            u64::from(
                                cell.fetch_update(Relaxed, Relaxed, |v| {
                                    Some(next(u64::from(v)) as u16)
                                })
                                .unwrap_or_default(),
                            )
                        }
                        _ => {
                            let cell = allocation.data.u32(at);
                            u64::from(
                                cell.fetch_update(Relaxed, Relaxed, |v| {
                                    Some(next(u64::from(v)) as u32)
                                })
                                .unwrap_or_default(),
                            )
                        }
                    };
                    warp.set_old(registers[0], lane, old, wide);
                });
            },
        )
    }

    fn atomic_shared(
        &mut self,
        worker: &mut Worker<'_>,
        block: &mut BlockState,
        atomic: Atomic,
        registers: &Operands,
        addresses: &[u64; WARP],
        active: u32,
    ) -> Result<(), Problem> {
        let bytes = usize::from(atomic.ty.bytes());
        Self::check_shared(block, addresses, active, bytes)?;
        self.touch_shared(worker, block, addresses, active, (bytes, Use::Atomic));
        lanes(active, |lane| {
            let (b, c) = self.operands(registers, lane, bytes == 8);
            let cell = block.shared.data_mut(addresses[lane] as usize, bytes);
            let mut raw = [0; 8];
            raw[..bytes].copy_from_slice(cell);
            let old = u64::from_le_bytes(raw);
            cell.copy_from_slice(&combine(atomic.op, atomic.ty, old, b, c).to_le_bytes()[..bytes]);
            self.set_old(registers[0], lane, old, bytes == 8);
        });
        Ok(())
    }
}

fn update(cell: &std::sync::atomic::AtomicU64, next: impl Fn(u64) -> u64) -> u64 {
    cell.fetch_update(Relaxed, Relaxed, |old| Some(next(old))).unwrap_or_default()
}

/// Most lanes that meet at one address.
fn count_conflicts(worker: &mut Worker<'_>, addresses: &[u64; WARP], active: u32) {
    let (mut sorted, mut count) = ([0; WARP], 0);
    lanes(active, |lane| {
        sorted[count] = addresses[lane];
        count += 1;
    });
    let sorted = &mut sorted[..count];
    sorted.sort_unstable();
    let most = sorted.chunk_by(|a, b| a == b).map(<[u64]>::len).max().unwrap_or(0);
    worker.counters.atomic_conflicts = worker.counters.atomic_conflicts.max(most as u64);
}
