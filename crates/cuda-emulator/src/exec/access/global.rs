//! Loads and stores of global memory: which allocation, aligned, written before, ordered.

use std::sync::atomic::Ordering::Relaxed;

use super::{Runs, runs::is_contiguous};
use crate::{
    alu::{Operands, WARP},
    exec::{
        block::BlockState,
        fault::Problem,
        instruction::Access,
        warp::{FULL, Warp, lanes},
        worker::Worker,
    },
    findings::Check,
    memory::{AccessError, Allocation, Conflict, Kind},
};

impl Warp {
    /// Splits the lanes by allocation and calls `visit` with each allocation, its runs and its lanes,
    /// after all checks of the access.
    #[inline(always)]
    pub(in crate::exec) fn global(
        &mut self,
        worker: &mut Worker<'_>,
        block: &mut BlockState,
        addresses: &[u64; WARP],
        active: u32,
        (bytes, align, kind): (usize, usize, Kind),
        mut visit: impl FnMut(&mut Self, &Allocation, &Runs, u32),
    ) -> Result<(), Problem> {
        let mut runs = worker.runs.take().unwrap_or_else(|| Box::new(Runs::EMPTY));
        let result = self.global_with(
            worker,
            block,
            addresses,
            active,
            (bytes, align, kind),
            &mut runs,
            &mut visit,
        );
        worker.runs = Some(runs);
        result
    }

    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn global_with(
        &mut self,
        worker: &mut Worker<'_>,
        block: &mut BlockState,
        addresses: &[u64; WARP],
        active: u32,
        (bytes, align, kind): (usize, usize, Kind),
        runs: &mut Runs,
        visit: &mut impl FnMut(&mut Self, &Allocation, &Runs, u32),
    ) -> Result<(), Problem> {
        let shape = worker.shape();
        let mut rest = active;
        while rest != 0 {
            let whole = rest == FULL && is_contiguous(addresses, bytes);
            let (index, group) = self.locate(worker, addresses, rest, bytes, whole)?;
            let allocation = shape.allocations[index];
            let mut misaligned = 0;
            if whole && group == FULL {
                let start = (addresses[0] - allocation.base) as usize;
                runs.set_whole(start, start + bytes * WARP);
                misaligned = addresses[0] & (align as u64 - 1);
            } else {
                lanes(group, |lane| misaligned |= addresses[lane] & (align as u64 - 1));
                runs.set(addresses, group, bytes, allocation.base);
            }
            rest &= !group;
            if misaligned != 0 {
                return Err(misalignment(addresses, group, align));
            }
            self.check_global(worker, block, allocation, (index, runs), kind);
            if worker.settings().counters {
                let total = u64::from(group.count_ones()) * bytes as u64;
                match kind {
                    Kind::Read | Kind::StrongRead => worker.counters.global_load_bytes += total,
                    Kind::Write | Kind::Atomic => worker.counters.global_store_bytes += total,
                }
                worker.counters.global_sectors += runs.sectors();
            }
            visit(self, allocation, runs, group);
        }
        Ok(())
    }

    /// The allocation of the first lane of `mask`, and all lanes whose access lies inside it.
    #[inline(always)]
    fn locate(
        &self,
        worker: &mut Worker<'_>,
        addresses: &[u64; WARP],
        mask: u32,
        bytes: usize,
        whole: bool,
    ) -> Result<(usize, u32), Problem> {
        let shape = worker.shape();
        let first = mask.trailing_zeros() as usize;
        let inside = |a: &Allocation, at: u64| {
            at >= a.base
                && at - a.base <= a.size.wrapping_sub(bytes as u64)
                && bytes as u64 <= a.size
        };
        let recent = worker.recent[self.pc as usize] as usize;
        let index = match shape.allocations.get(recent) {
            Some(a) if inside(a, addresses[first]) => recent,
            _ => {
                let at = addresses[first];
                let index = shape.allocations.partition_point(|a| a.base <= at).wrapping_sub(1);
                if !shape.allocations.get(index).is_some_and(|a| inside(a, at)) {
                    return Err(outside(worker, at, bytes).lane(first));
                }
                worker.recent[self.pc as usize] = index as u32;
                index
            }
        };
        let allocation = shape.allocations[index];
        if whole && inside(allocation, addresses[WARP - 1]) {
            return Ok((index, mask));
        }
        let mut group = 0;
        for (lane, &at) in addresses.iter().enumerate() {
            group |= u32::from(inside(allocation, at)) << lane;
        }
        Ok((index, group & mask))
    }

    /// Valid bytes, races, what was touched.
    #[inline(always)]
    fn check_global(
        &self,
        worker: &mut Worker<'_>,
        block: &mut BlockState,
        allocation: &Allocation,
        (index, runs): (usize, &Runs),
        kind: Kind,
    ) {
        let reads = kind != Kind::Write;
        let writes = matches!(kind, Kind::Write | Kind::Atomic);
        let races = worker.checks(Check::GlobalRace);
        let (mut low, mut high) = (usize::MAX, 0);
        for (start, end) in runs.iter() {
            (low, high) = (low.min(start), high.max(end));
            if reads && !allocation.valid.all(start, end) {
                self.uninitialised(worker, block, allocation, (start, end));
            }
            if writes {
                allocation.valid.set(start, end);
            }
            if races
                && let Some(conflict) = worker.races().touch(
                    allocation.base,
                    &allocation.touches,
                    (start, end),
                    kind,
                    &mut block.order,
                )
            {
                self.race(worker, block, allocation, conflict, kind);
            }
        }
        let range = (allocation.base + low as u64, allocation.base + high as u64);
        let touched = &mut worker.touched[index];
        let widen = |slot: &mut Option<(u64, u64)>| {
            let old = slot.get_or_insert(range);
            *old = (old.0.min(range.0), old.1.max(range.1));
        };
        if reads {
            widen(&mut touched.read);
        }
        if writes {
            widen(&mut touched.written);
        }
    }

    #[cold]
    fn uninitialised(
        &self,
        worker: &mut Worker<'_>,
        block: &BlockState,
        allocation: &Allocation,
        (start, end): (usize, usize),
    ) {
        if let Some(at) = allocation
            .valid
            .first_missing(start, end)
            .filter(|_| worker.checks(Check::Uninitialised))
        {
            let message = format!(
                "read of a byte nobody wrote, {at} bytes into an allocation of {} bytes",
                allocation.size
            );
            self.note(
                worker,
                block,
                Problem::at(Check::Uninitialised, allocation.base + at as u64, message),
            );
        }
    }

    #[cold]
    fn race(
        &self,
        worker: &mut Worker<'_>,
        block: &BlockState,
        allocation: &Allocation,
        conflict: Conflict,
        kind: Kind,
    ) {
        let verb = |kind: Kind| match kind {
            Kind::Read => "read",
            Kind::Write => "write",
            Kind::Atomic => "atomic access",
            Kind::StrongRead => "volatile read",
        };
        let other = match conflict.other {
            Some(number) => {
                let [x, y, z] = worker.shape().block_index(u64::from(number));
                format!("block ({x}, {y}, {z})")
            }
            None => "several blocks".into(),
        };
        let message = format!(
            "{} unordered with a {} by {other}, {} bytes into an allocation of {} bytes",
            verb(kind),
            verb(conflict.kind),
            conflict.offset,
            allocation.size
        );
        self.note(
            worker,
            block,
            Problem::at(Check::GlobalRace, allocation.base + conflict.offset as u64, message),
        );
    }

    pub(super) fn load_global(
        &mut self,
        worker: &mut Worker<'_>,
        block: &mut BlockState,
        access: Access,
        registers: &Operands,
        addresses: &[u64; WARP],
        active: u32,
    ) -> Result<(), Problem> {
        let bytes = access.total();
        let kind = if access.strong { Kind::StrongRead } else { Kind::Read };
        let plain = !access.wide && !access.signed;
        let checked = (bytes, bytes, kind);
        self.global(worker, block, addresses, active, checked, |warp, allocation, runs, group| {
            let (element, data) = (usize::from(access.bytes), &allocation.data);
            let at = |lane: usize, item: usize| {
                (addresses[lane] - allocation.base) as usize + item * element
            };
            if element == 4 && plain && access.count > 1 {
                return warp.load_words(access, registers, group, |lane, pair| {
                    data.u64(at(lane, 2 * pair)).load(Relaxed)
                });
            }
            for (item, &register) in registers.iter().enumerate().take(access.count.into()) {
                match element {
                    4 if plain && runs.whole && bytes == 4 && at(0, 0).is_multiple_of(8) => {
                        let (to, start) = (warp.w_mut(register), at(0, 0));
                        for pair in 0..WARP / 2 {
                            let both = data.u64(start + 8 * pair).load(Relaxed);
                            to[2 * pair] = both as u32;
                            to[2 * pair + 1] = (both >> 32) as u32;
                        }
                    }
                    4 if plain => {
                        let to = warp.w_mut(register);
                        lanes(group, |lane| to[lane] = data.u32(at(lane, item)).load(Relaxed));
                    }
                    2 if plain => {
                        let to = warp.w_mut(register);
                        lanes(group, |lane| {
                            to[lane] = data.u16(at(lane, item)).load(Relaxed).into();
                        });
                    }
                    8 => {
                        let to = warp.d_mut(register);
                        lanes(group, |lane| to[lane] = data.u64(at(lane, item)).load(Relaxed));
                    }
                    _ => lanes(group, |lane| {
                        let raw = match element {
                            1 => u64::from(data.u8(at(lane, item)).load(Relaxed)),
                            2 => u64::from(data.u16(at(lane, item)).load(Relaxed)),
                            _ => u64::from(data.u32(at(lane, item)).load(Relaxed)),
                        };
                        warp.put(register, lane, raw, access);
                    }),
                }
            }
        })
    }

    /// The words of a vector, read in pairs.
    #[inline(always)]
    fn load_words(
        &mut self,
        access: Access,
        registers: &Operands,
        group: u32,
        read: impl Fn(usize, usize) -> u64,
    ) {
        for pair in 0..usize::from(access.count) / 2 {
            let (mut low, mut high) = ([0; WARP], [0; WARP]);
            lanes(group, |lane| {
                let both = read(lane, pair);
                low[lane] = both as u32;
                high[lane] = (both >> 32) as u32;
            });
            for (&register, words) in registers[2 * pair..].iter().zip([low, high]) {
                let to = self.w_mut(register);
                if group == FULL {
                    *to = words;
                } else {
                    lanes(group, |lane| to[lane] = words[lane]);
                }
            }
        }
    }

    pub(super) fn store_global(
        &mut self,
        worker: &mut Worker<'_>,
        block: &mut BlockState,
        access: Access,
        registers: &Operands,
        addresses: &[u64; WARP],
        active: u32,
    ) -> Result<(), Problem> {
        let bytes = access.total();
        let kind = if access.strong { Kind::Atomic } else { Kind::Write };
        if access.releases {
            worker.races().fence(&mut block.order);
        }
        let checked = (bytes, bytes, kind);
        self.global(worker, block, addresses, active, checked, |warp, allocation, runs, group| {
            let (element, data) = (usize::from(access.bytes), &allocation.data);
            let at = |lane: usize, item: usize| {
                (addresses[lane] - allocation.base) as usize + item * element
            };
            if element == 4 && !access.wide && access.count > 1 {
                for pair in 0..usize::from(access.count) / 2 {
                    let (low, high) =
                        (warp.w(registers[2 * pair + 1]), warp.w(registers[2 * pair + 2]));
                    lanes(group, |lane| {
                        let both = u64::from(low[lane]) | u64::from(high[lane]) << 32;
                        data.u64(at(lane, 2 * pair)).store(both, Relaxed);
                    });
                }
                return;
            }
            for item in 0..usize::from(access.count) {
                let register = registers[item + 1];
                match element {
                    4 if !access.wide && runs.whole && bytes == 4 && at(0, 0).is_multiple_of(8) => {
                        let (from, start) = (warp.w(register), at(0, 0));
                        for pair in 0..WARP / 2 {
                            let both =
                                u64::from(from[2 * pair]) | u64::from(from[2 * pair + 1]) << 32;
                            data.u64(start + 8 * pair).store(both, Relaxed);
                        }
                    }
                    4 if !access.wide => {
                        let from = warp.w(register);
                        lanes(group, |lane| data.u32(at(lane, item)).store(from[lane], Relaxed));
                    }
                    2 if !access.wide => {
                        let from = warp.w(register);
                        lanes(group, |lane| {
                            data.u16(at(lane, item)).store(from[lane] as u16, Relaxed);
                        });
                    }
                    8 => {
                        let from = warp.d(register);
                        lanes(group, |lane| data.u64(at(lane, item)).store(from[lane], Relaxed));
                    }
                    _ => lanes(group, |lane| {
                        let raw = warp.get(register, lane, access.wide);
                        match element {
                            1 => data.u8(at(lane, item)).store(raw as u8, Relaxed),
                            2 => data.u16(at(lane, item)).store(raw as u16, Relaxed),
                            _ => data.u32(at(lane, item)).store(raw as u32, Relaxed),
                        }
                    }),
                }
            }
        })
    }
}

#[cold]
fn misalignment(addresses: &[u64; WARP], group: u32, align: usize) -> Problem {
    let mut lane = 0;
    lanes(group, |l| {
        if !addresses[l].is_multiple_of(align as u64) {
            lane = l;
        }
    });
    let message = format!("{align} bytes at an address that is no multiple of {align}");
    Problem::at(Check::Misaligned, addresses[lane], message).lane(lane)
}

#[cold]
fn outside(worker: &Worker<'_>, address: u64, bytes: usize) -> Problem {
    let error = worker.shape().memory.explain(address, bytes as u64);
    let check = match error {
        AccessError::Freed { .. } => Check::UseAfterFree,
        AccessError::Outside { .. } => Check::OutOfBounds,
    };
    Problem::at(check, address, error.to_string())
}
