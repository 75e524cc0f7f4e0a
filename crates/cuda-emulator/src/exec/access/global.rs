//! Loads and stores of global memory: which allocation, aligned, written before, ordered.

use std::sync::atomic::Ordering::Relaxed;

use super::{Lines, Request, by_width, lines::stride};
use crate::{
    alu::{Operands, WARP},
    exec::{
        block::BlockState,
        fault::Problem,
        warp::{FULL, Warp, lanes},
        worker::Worker,
    },
    findings::Check,
    memory::{AccessError, Allocation, Bytes, Conflict, Kind, LINE, Word},
};

/// What each lane of an access to global memory does.
#[derive(Clone, Copy)]
pub(in crate::exec) struct Reach {
    bytes: usize,
    align: usize,
    /// Bytes that count, a bit each.
    used: u64,
    kind: Kind,
}

impl Reach {
    #[inline(always)]
    pub(in crate::exec) fn new(bytes: usize, align: usize, kind: Kind) -> Self {
        Self { bytes, align, used: all_of(bytes), kind }
    }
}

#[inline(always)]
fn all_of(bytes: usize) -> u64 {
    u64::MAX >> (LINE - bytes)
}

impl Warp {
    /// Splits the lanes by allocation and calls `visit` with each allocation, the lines that are
    /// touched in it and its lanes, after all checks of the access.
    #[inline(always)]
    pub(in crate::exec) fn global(
        &mut self,
        worker: &mut Worker<'_>,
        block: &mut BlockState,
        addresses: &[u64; WARP],
        active: u32,
        reach: Reach,
        mut visit: impl FnMut(&mut Self, &Allocation, &Lines, u32),
    ) -> Result<(), Problem> {
        let mut lines = worker.lines.take().unwrap_or_else(|| Box::new(Lines::EMPTY));
        let mut rest = active;
        let result = loop {
            if rest == 0 {
                break Ok(());
            }
            let found = self.cover(worker, addresses, rest, reach, &mut lines);
            let (index, group) = match found {
                Ok(found) => found,
                Err(problem) => break Err(problem),
            };
            rest &= !group;
            let allocation = worker.shape().allocations[index];
            self.check_global(worker, block, allocation, (index, &lines), reach.kind);
            if worker.settings().counters {
                let total = u64::from(group.count_ones()) * reach.bytes as u64;
                match reach.kind {
                    Kind::Read | Kind::StrongRead => worker.counters.global_load_bytes += total,
                    Kind::Write | Kind::Atomic => worker.counters.global_store_bytes += total,
                }
                worker.counters.global_sectors += lines.sectors();
            }
            visit(self, allocation, &lines, group);
        };
        worker.lines = Some(lines);
        result
    }

    /// Finds the allocation of the first lane of `rest`, the lanes that are in it too, and what they
    /// touch of it.
    #[inline(always)]
    fn cover(
        &self,
        worker: &mut Worker<'_>,
        addresses: &[u64; WARP],
        rest: u32,
        Reach { bytes, align, used, .. }: Reach,
        lines: &mut Lines,
    ) -> Result<(usize, u32), Problem> {
        // Of at least the element, a multiple of its alignment, so that the ends speak for all.
        let stride = if rest == FULL { stride(addresses) } else { None };
        let stride = stride.filter(|&s| s >= bytes && s & (align - 1) == 0);
        let (index, group) = self.locate(worker, addresses, rest, bytes, stride.is_some())?;
        let base = worker.shape().allocations[index].base;
        let stride = stride.filter(|_| group == FULL);
        let mut offsets = addresses[0];
        if stride.is_none() {
            offsets = 0;
            lanes(group, |lane| offsets |= addresses[lane]);
        }
        if offsets & (align as u64 - 1) != 0 {
            return Err(misalignment(addresses, group, align));
        }
        let start = addresses[0].wrapping_sub(base) as usize;
        match stride {
            Some(stride) if stride == bytes && used == all_of(bytes) => {
                lines.set_whole(start, bytes);
            }
            Some(stride) if lines.set_strided(start, stride, used) => {}
            _ => lines.set(addresses, group, used, base),
        }
        Ok((index, group))
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
        (index, lines): (usize, &Lines),
        kind: Kind,
    ) {
        let check_races = worker.checks(Check::GlobalRace);
        let races = worker.races();
        if check_races {
            races.blocks.begin(kind, &mut block.order);
        }
        // The common cases at once, where there is nothing to say; else line by line.
        let (touches, order) = (&allocation.touches, &block.order);
        let at_once = match (lines.full(), lines.alike()) {
            _ if !allocation.valid.is_complete() => None,
            (Some(full), _) => {
                let alone = !check_races || races.touch_whole(touches, full.clone(), kind, order);
                alone.then_some((full.start * LINE, full.end * LINE))
            }
            (_, Some((alike, part))) => {
                let alone =
                    !check_races || races.touch_alike(touches, alike.clone(), part, kind, order);
                alone.then_some((alike.start * LINE, alike.end * LINE))
            }
            _ => None,
        };
        let (low, high) = match at_once {
            Some(range) => range,
            None => self.check_lines(worker, block, allocation, lines, kind),
        };
        let range = (allocation.base + low as u64, allocation.base + high as u64);
        let touched = &mut worker.touched[index];
        let widen = |slot: &mut Option<(u64, u64)>| {
            let old = slot.get_or_insert(range);
            *old = (old.0.min(range.0), old.1.max(range.1));
        };
        if kind != Kind::Write {
            widen(&mut touched.read);
        }
        if matches!(kind, Kind::Write | Kind::Atomic) {
            widen(&mut touched.written);
        }
    }

    /// Valid bytes and races of each line by itself; the first and the end of the bytes.
    #[inline(always)]
    fn check_lines(
        &self,
        worker: &mut Worker<'_>,
        block: &BlockState,
        allocation: &Allocation,
        lines: &Lines,
        kind: Kind,
    ) -> (usize, usize) {
        let reads = kind != Kind::Write;
        let writes = matches!(kind, Kind::Write | Kind::Atomic);
        let check_valid = !allocation.valid.is_complete();
        let check_races = worker.checks(Check::GlobalRace);
        let races = worker.races();
        let (mut low, mut high) = (usize::MAX, 0);
        for (line, mask) in lines.iter() {
            low = low.min(line * LINE + mask.trailing_zeros() as usize);
            high = high.max((line + 1) * LINE - mask.leading_zeros() as usize);
            if check_valid && reads {
                let missing = allocation.valid.missing(line, mask);
                if missing != 0 {
                    let at = line * LINE + missing.trailing_zeros() as usize;
                    self.uninitialised(worker, block, allocation, at);
                }
            }
            if check_valid && writes {
                allocation.valid.mark(line, mask);
            }
            if check_races
                && let Some(conflict) = races.touch(
                    allocation.base,
                    &allocation.touches,
                    (line, mask),
                    kind,
                    &block.order,
                )
            {
                self.race(worker, block, allocation, conflict, kind);
            }
        }
        (low, high)
    }

    #[cold]
    fn uninitialised(
        &self,
        worker: &mut Worker<'_>,
        block: &BlockState,
        allocation: &Allocation,
        at: usize,
    ) {
        if worker.checks(Check::Uninitialised) {
            let message = format!(
                "read of a byte nobody wrote, {at} bytes into an allocation of {} bytes",
                allocation.size
            );
            let problem = Problem::at(Check::Uninitialised, allocation.base + at as u64, message);
            self.note(worker, block, problem);
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

    #[inline(always)]
    pub(super) fn load_global(
        &mut self,
        worker: &mut Worker<'_>,
        block: &mut BlockState,
        request: &Request<'_>,
    ) -> Result<(), Problem> {
        let &Request { access, registers, addresses, lanes: active } = request;
        let (bytes, element) = (access.total(), usize::from(access.bytes));
        let kind = if access.strong { Kind::StrongRead } else { Kind::Read };
        let reach = Reach { used: access.used.into(), ..Reach::new(bytes, bytes, kind) };
        self.global(
            worker,
            block,
            addresses,
            active,
            reach,
            #[inline(always)]
            |warp, allocation, lines, group| {
                let data = &allocation.data;
                if let Some(start) = lines.whole.filter(|at| at.is_multiple_of(8))
                    && warp.load_whole(data, start, request)
                {
                    return;
                }
                if let Some((start, stride)) = lines.spaced
                    && warp.load_spaced(data, start, stride, request)
                {
                    return;
                }
                for (item, &register) in registers.iter().enumerate().take(access.count.into()) {
                    let shift = allocation.base.wrapping_sub((item * element) as u64);
                    by_width!(element, Int => warp.gather(register, group, access, #[inline(always)] |lane| {
                        Int::load(data, addresses[lane].wrapping_sub(shift) as usize)
                    }));
                }
            },
        )
    }

    /// Loads of all lanes from consecutive addresses; false for the shapes that it does not know.
    #[inline(always)]
    fn load_whole(&mut self, data: &Bytes, start: usize, request: &Request<'_>) -> bool {
        let Request { access, registers, .. } = request;
        match (access.bytes, access.count, access.wide || access.signed) {
            (2, 1, false) => {
                let from = fetch::<{ WARP / 4 }>(data, start);
                let to = self.w_mut(registers[0]);
                for (lane, to) in to.iter_mut().enumerate() {
                    *to = (from[lane / 4] >> (lane % 4 * 16)) as u32 & 0xffff;
                }
            }
            (4, 1, false) => self.load_words::<1, { WARP / 2 }>(data, start, registers),
            (4, 2, false) => self.load_words::<2, WARP>(data, start, registers),
            (4, 4, false) => self.load_words::<4, { WARP * 2 }>(data, start, registers),
            (8, 1, _) => *self.d_mut(registers[0]) = fetch(data, start),
            (8, 2, _) => {
                let from = fetch::<{ WARP * 2 }>(data, start);
                for (item, &register) in registers.iter().enumerate().take(2) {
                    for (lane, to) in self.d_mut(register).iter_mut().enumerate() {
                        *to = from[2 * lane + item];
                    }
                }
            }
            _ => return false,
        }
        true
    }

    /// Loads of all lanes from the words of 64 bits that each has to itself; false for what it does not know.
    #[inline(always)]
    fn load_spaced(
        &mut self,
        data: &Bytes,
        start: usize,
        stride: usize,
        request: &Request<'_>,
    ) -> bool {
        let Request { access, registers, .. } = request;
        let first = start - start % 8;
        if stride != 8 || access.bytes > 4 || access.signed || first + 8 * WARP > data.len() {
            return false;
        }
        let words = fetch::<WARP>(data, first);
        let element = 8 * u32::from(access.bytes);
        for (item, &register) in registers.iter().enumerate().take(access.count.into()) {
            let shift = 8 * (start % 8) as u32 + item as u32 * element;
            let only = u64::MAX >> (64 - element);
            if access.wide {
                for (to, word) in self.d_mut(register).iter_mut().zip(words) {
                    *to = word >> shift & only;
                }
            } else {
                for (to, word) in self.w_mut(register).iter_mut().zip(words) {
                    *to = (word >> shift & only) as u32;
                }
            }
        }
        true
    }

    /// Vectors of `N` words of 32 bits from `PAIRS` words of 64.
    #[inline(always)]
    fn load_words<const N: usize, const PAIRS: usize>(
        &mut self,
        data: &Bytes,
        start: usize,
        registers: &Operands,
    ) {
        let from = fetch::<PAIRS>(data, start);
        for (item, &register) in registers.iter().enumerate().take(N) {
            let to = self.w_mut(register);
            for (lane, to) in to.iter_mut().enumerate() {
                let at = lane * N + item;
                *to = (from[at / 2] >> (at % 2 * 32)) as u32;
            }
        }
    }

    #[inline(always)]
    pub(super) fn store_global(
        &mut self,
        worker: &mut Worker<'_>,
        block: &mut BlockState,
        request: &Request<'_>,
    ) -> Result<(), Problem> {
        let &Request { access, registers, addresses, lanes: active } = request;
        let (bytes, element) = (access.total(), usize::from(access.bytes));
        let kind = if access.strong { Kind::Atomic } else { Kind::Write };
        if access.releases {
            worker.races().blocks.fence(&mut block.order);
        }
        let reach = Reach::new(bytes, bytes, kind);
        self.global(
            worker,
            block,
            addresses,
            active,
            reach,
            #[inline(always)]
            |warp, allocation, lines, group| {
                let data = &allocation.data;
                if let Some(start) = lines.whole.filter(|at| at.is_multiple_of(8))
                    && warp.store_whole(data, start, request)
                {
                    return;
                }
                if let Some((start, stride)) = lines.spaced
                    && access.bytes == 4
                {
                    return warp.store_spaced(data, start, stride, request);
                }
                for item in 0..usize::from(access.count) {
                    let shift = allocation.base.wrapping_sub((item * element) as u64);
                    by_width!(element, Int => warp.scatter(registers[item + 1], group, access, #[inline(always)] |lane, raw| {
                        (raw as Int).store(data, addresses[lane].wrapping_sub(shift) as usize);
                    }));
                }
            },
        )
    }

    /// Stores of all lanes to consecutive addresses; false for the shapes that it does not know.
    #[inline(always)]
    fn store_whole(&self, data: &Bytes, start: usize, request: &Request<'_>) -> bool {
        let Request { access, registers, .. } = request;
        match (access.bytes, access.count, access.wide) {
            (2, 1, false) => {
                let from = self.w(registers[1]);
                let mut words = [0; WARP / 4];
                for (lane, &half) in from.iter().enumerate() {
                    words[lane / 4] |= u64::from(half as u16) << (lane % 4 * 16);
                }
                put_all(data, start, &words);
            }
            (4, 1, false) => {
                let from = self.w(registers[1]);
                for (pair, to) in data.u64s::<{ WARP / 2 }>(start).iter().enumerate() {
                    let [low, high] = [from[2 * pair], from[2 * pair + 1]];
                    to.store(u64::from(low) | u64::from(high) << 32, Relaxed);
                }
            }
            (4, 2, false) => self.store_words::<2, WARP>(data, start, registers),
            (4, 4, false) => self.store_words::<4, { WARP * 2 }>(data, start, registers),
            (8, 1, true) => put_all(data, start, self.d(registers[1])),
            (8, 2, true) => {
                let mut words = [0; WARP * 2];
                for (item, &register) in registers[1..].iter().enumerate().take(2) {
                    for (lane, &word) in self.d(register).iter().enumerate() {
                        words[2 * lane + item] = word;
                    }
                }
                put_all(data, start, &words);
            }
            _ => return false,
        }
        true
    }

    /// Stores of words of 32 bits from all lanes.
    #[inline(always)]
    fn store_spaced(&self, data: &Bytes, start: usize, stride: usize, request: &Request<'_>) {
        let Request { access, registers, .. } = request;
        let count = usize::from(access.count);
        let cells = data.u32_run(start, (WARP - 1) * stride / 4 + count);
        for item in 0..count {
            for (lane, &word) in self.w(registers[item + 1]).iter().enumerate() {
                cells[lane * stride / 4 + item].store(word, Relaxed);
            }
        }
    }

    /// Vectors of `N` words of 32 bits to `PAIRS` words of 64.
    #[inline(always)]
    fn store_words<const N: usize, const PAIRS: usize>(
        &self,
        data: &Bytes,
        start: usize,
        registers: &Operands,
    ) {
        let mut words = [0; PAIRS];
        for item in 0..N {
            for (lane, &word) in self.w(registers[item + 1]).iter().enumerate() {
                let at = lane * N + item;
                words[at / 2] |= u64::from(word) << (at % 2 * 32);
            }
        }
        put_all(data, start, &words);
    }
}

#[inline(always)]
fn fetch<const N: usize>(data: &Bytes, start: usize) -> [u64; N] {
    let mut words = [0; N];
    for (to, from) in words.iter_mut().zip(data.u64s::<N>(start)) {
        *to = from.load(Relaxed);
    }
    words
}

#[inline(always)]
fn put_all<const N: usize>(data: &Bytes, start: usize, words: &[u64; N]) {
    for (to, &word) in data.u64s::<N>(start).iter().zip(words) {
        to.store(word, Relaxed);
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
