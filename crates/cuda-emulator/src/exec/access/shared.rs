//! Loads and stores of shared memory.

use crate::{
    alu::{Operands, WARP},
    exec::{
        banks,
        block::BlockState,
        fault::Problem,
        instruction::Access,
        shared::{Hazard, Use},
        warp::{Warp, lanes},
        worker::Worker,
    },
    findings::Check,
};

impl Warp {
    pub(super) fn load_shared(
        &mut self,
        worker: &mut Worker<'_>,
        block: &mut BlockState,
        access: Access,
        registers: &Operands,
        addresses: &[u64; WARP],
        active: u32,
    ) -> Result<(), Problem> {
        let (bytes, element) = (access.total(), usize::from(access.bytes));
        Self::check_shared(block, addresses, active, bytes)?;
        self.touch_shared(worker, block, addresses, active, (bytes, Use::Read));
        let shared = &block.shared;
        if element == 4 && !access.wide {
            for (item, &register) in registers.iter().enumerate().take(access.count.into()) {
                let to = self.w_mut(register);
                lanes(active, |lane| {
                    let source = shared.data(addresses[lane] as usize + 4 * item, 4);
                    to[lane] = u32::from_le_bytes(source.try_into().unwrap_or_default());
                });
            }
            return Ok(());
        }
        for (item, &register) in registers.iter().enumerate().take(access.count.into()) {
            lanes(active, |lane| {
                let mut raw = [0; 8];
                raw[..element].copy_from_slice(
                    shared.data(addresses[lane] as usize + item * element, element),
                );
                self.put(register, lane, u64::from_le_bytes(raw), access);
            });
        }
        Ok(())
    }

    pub(super) fn store_shared(
        &mut self,
        worker: &mut Worker<'_>,
        block: &mut BlockState,
        access: Access,
        registers: &Operands,
        addresses: &[u64; WARP],
        active: u32,
    ) -> Result<(), Problem> {
        let (bytes, element) = (access.total(), usize::from(access.bytes));
        Self::check_shared(block, addresses, active, bytes)?;
        self.touch_shared(worker, block, addresses, active, (bytes, Use::Write));
        if element == 4 && !access.wide {
            for item in 0..usize::from(access.count) {
                let from = self.w(registers[item + 1]);
                lanes(active, |lane| {
                    let to = block.shared.data_mut(addresses[lane] as usize + 4 * item, 4);
                    to.copy_from_slice(&from[lane].to_le_bytes());
                });
            }
            return Ok(());
        }
        for item in 0..usize::from(access.count) {
            lanes(active, |lane| {
                let raw = self.get(registers[item + 1], lane, access.wide).to_le_bytes();
                block
                    .shared
                    .data_mut(addresses[lane] as usize + item * element, element)
                    .copy_from_slice(&raw[..element]);
            });
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
        lanes(active, |lane| {
            bits |= addresses[lane];
            last = addresses[lane].max(last);
        });
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
            banks::count(&mut worker.counters, addresses, active, bytes);
        }
        let mut first = None;
        lanes(active, |lane| {
            let hazard = block.shared.touch(addresses[lane] as usize, bytes, what, self.who(lane));
            if let Some(hazard) = hazard {
                first = first.or(Some((lane, hazard)));
            }
        });
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
