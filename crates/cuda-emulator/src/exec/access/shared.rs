//! Loads and stores of shared memory.

use super::{Request, by_width};
use crate::{
    alu::WARP,
    counters::SharedAccess,
    exec::{
        banks,
        block::BlockState,
        fault::Problem,
        shared::{Hazard, Use},
        warp::{Warp, lanes},
        worker::Worker,
    },
    findings::Check,
};

impl Warp {
    #[inline(always)]
    pub(super) fn load_shared(
        &mut self,
        worker: &mut Worker<'_>,
        block: &mut BlockState,
        request: &Request<'_>,
    ) -> Result<(), Problem> {
        let &Request { access, registers, addresses, lanes: active } = request;
        let (bytes, element) = (access.total(), usize::from(access.bytes));
        Self::check_shared(block, addresses, active, bytes)?;
        if access.is_all_used() {
            self.touch_shared(worker, block, addresses, active, (bytes, Use::Read));
        } else {
            self.touch_used(worker, block, request);
        }
        let shared = &block.shared;
        for (item, &register) in registers.iter().enumerate().take(access.count.into()) {
            by_width!(element, Int => self.gather(register, active, access, #[inline(always)] |lane| {
                Int::from_le_bytes(*shared.at(addresses[lane] as usize + item * element))
            }));
        }
        Ok(())
    }

    /// The elements of a load that are used, the bytes of those that are used in part.
    #[cold]
    fn touch_used(
        &mut self,
        worker: &mut Worker<'_>,
        block: &mut BlockState,
        request: &Request<'_>,
    ) {
        let &Request { access, addresses, lanes: active, .. } = request;
        let (element, used) = (usize::from(access.bytes), u32::from(access.used));
        if worker.settings().counters {
            let counters = &mut worker.counters.shared[SharedAccess::Load as usize];
            banks::count(counters, addresses, active, access.total());
        }
        lanes(active, |lane| {
            for item in 0..usize::from(access.count) {
                let start = addresses[lane] as usize + item * element;
                let mask = used >> (item * element) & ((1 << element) - 1);
                let step = if mask.count_ones() as usize == element { element } else { 1 };
                for byte in (0..element).step_by(step).filter(|byte| mask >> byte & 1 != 0) {
                    let who = self.who(lane);
                    if let Some(hazard) = block.shared.touch(start + byte, step, Use::Read, who) {
                        self.hazard(worker, block, lane, hazard, Use::Read);
                    }
                }
            }
        });
    }

    #[inline(always)]
    pub(super) fn store_shared(
        &mut self,
        worker: &mut Worker<'_>,
        block: &mut BlockState,
        request: &Request<'_>,
    ) -> Result<(), Problem> {
        let &Request { access, registers, addresses, lanes: active } = request;
        let (bytes, element) = (access.total(), usize::from(access.bytes));
        Self::check_shared(block, addresses, active, bytes)?;
        self.touch_shared(worker, block, addresses, active, (bytes, Use::Write));
        let shared = &mut block.shared;
        for item in 0..usize::from(access.count) {
            by_width!(element, Int => self.scatter(registers[item + 1], active, access, #[inline(always)] |lane, raw| {
                *shared.at_mut(addresses[lane] as usize + item * element) = (raw as Int).to_le_bytes();
            }));
        }
        Ok(())
    }

    #[inline(always)]
    pub(in crate::exec) fn check_shared(
        block: &BlockState,
        addresses: &[u64; WARP],
        active: u32,
        bytes: usize,
    ) -> Result<(), Problem> {
        let (mut bits, mut last) = (0, 0);
        for (lane, &address) in addresses.iter().enumerate() {
            let address = if active >> lane & 1 != 0 { address } else { 0 };
            bits |= address;
            last = last.max(address);
        }
        if bits & (bytes as u64 - 1) == 0 && block.shared.holds(last, bytes) {
            return Ok(());
        }
        let mut wrong = None;
        lanes(active, |lane| {
            if let Err(problem) = block.shared.check(addresses[lane], bytes, bytes) {
                wrong = Some(problem.lane(lane));
            }
        });
        wrong.map_or(Ok(()), Err)
    }

    /// Races, valid bytes and bank conflicts of an access to shared memory that has been checked.
    #[inline(always)]
    pub(in crate::exec) fn touch_shared(
        &mut self,
        worker: &mut Worker<'_>,
        block: &mut BlockState,
        addresses: &[u64; WARP],
        active: u32,
        (bytes, what): (usize, Use),
    ) {
        if worker.settings().counters {
            let kind = match what {
                Use::Read => SharedAccess::Load,
                Use::Write => SharedAccess::Store,
                Use::Atomic => SharedAccess::Atomic,
            };
            banks::count(&mut worker.counters.shared[kind as usize], addresses, active, bytes);
        }
        let (mut first, mut rest) = (None, active);
        let (mut last, mut repeats) = (u64::MAX, 0);
        while rest != 0 {
            let lane = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            // Two threads of a warp are "several", and a third that reads the same changes nothing.
            repeats = if addresses[lane] == last { repeats + 1 } else { 0 };
            last = addresses[lane];
            if repeats > 1 && what == Use::Read {
                continue;
            }
            let hazard = block.shared.touch(addresses[lane] as usize, bytes, what, self.who(lane));
            if let Some(hazard) = hazard {
                first = first.or(Some((lane, hazard)));
            }
        }
        if let Some((lane, hazard)) = first {
            self.hazard(worker, block, lane, hazard, what);
        }
    }

    #[cold]
    pub(in crate::exec) fn hazard(
        &self,
        worker: &mut Worker<'_>,
        block: &BlockState,
        lane: usize,
        hazard: Hazard,
        what: Use,
    ) {
        if !worker.checks(hazard.check) {
            return;
        }
        let verb = match what {
            Use::Read => "read",
            Use::Write => "write",
            Use::Atomic => "atomic access",
        };
        let message = match (hazard.check, hazard.other) {
            (Check::AsyncCopyPending, _) => {
                format!("{verb} of shared bytes that an asynchronous copy has yet to fill")
            }
            (Check::Uninitialised, _) => "read of a shared byte that nobody wrote".to_owned(),
            (_, Some((at, thread, wrote))) => {
                let who = thread.map_or("several threads".into(), |t| format!("thread {t}"));
                let other = if wrote { "write" } else { "read" };
                format!(
                    "{verb} of shared memory unordered with a {other} by {who} at {}",
                    worker.describe(at)
                )
            }
            _ => format!("{verb} of shared memory"),
        };
        let problem = Problem::at(hazard.check, u64::from(hazard.address), message).lane(lane);
        self.note(worker, block, problem);
    }
}
