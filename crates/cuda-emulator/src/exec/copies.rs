//! Asynchronous copies and the loads and stores of matrices.
//!
//! A copy reads its source when it is issued and lands when its thread waits for its group: as late
//! as it may. Until then its destination is nobody's.

use std::sync::atomic::Ordering::Relaxed;

use super::{
    access::Reach,
    banks,
    block::BlockState,
    fault::Problem,
    instruction::{AsyncCopy, MatrixAccess, NONE},
    shared::Use,
    warp::{FULL, Flight, Warp, lanes},
    worker::Worker,
};
use crate::{
    alu::{Operands, WARP, matrix},
    counters::SharedAccess,
    findings::Check,
    memory::Kind,
};

/// Rows of an 8 x 8 matrix of 16-bit elements.
const ROWS: usize = 8;
const ROW_BYTES: usize = 16;

impl Warp {
    #[inline(always)]
    pub(super) fn issue_copy(
        &mut self,
        worker: &mut Worker<'_>,
        block: &mut BlockState,
        copy: AsyncCopy,
        registers: &Operands,
        active: u32,
    ) -> Result<(), Problem> {
        let bytes = usize::from(copy.bytes);
        let to = self.addresses(registers[0], copy.shared);
        let from = self.addresses(registers[1], copy.global);
        Self::check_shared(block, &to, active, bytes)?;
        if worker.settings().counters {
            let counters = &mut worker.counters.shared[SharedAccess::AsyncCopy as usize];
            banks::count(counters, &to, active, bytes);
        }
        let sizes = self.sizes(registers, bytes, active)?;
        let first = self.flights.len();
        lanes(active, |lane| {
            let group = self.groups[lane];
            self.flights.push(Flight {
                lane: lane as u8,
                bytes: copy.bytes,
                group,
                to: to[lane] as u32,
                data: [0; 16],
            });
        });
        // Lanes with the same source size read together; a size of 0 reads nothing.
        let mut rest = active;
        while rest != 0 {
            let size = sizes[rest.trailing_zeros() as usize];
            let mut group = 0;
            lanes(rest, |lane| group |= u32::from(sizes[lane] == size) << lane);
            rest &= !group;
            if size == 0 {
                continue;
            }
            self.global(
                worker,
                block,
                &from,
                group,
                Reach::new(size, bytes, Kind::Read),
                #[inline(always)]
                |warp, allocation, _, found| {
                    let mut rest = found;
                    while rest != 0 {
                        let lane = rest.trailing_zeros() as usize;
                        rest &= rest - 1;
                        let index = first + (active & ((1 << lane) - 1)).count_ones() as usize;
                        let at = (from[lane] - allocation.base) as usize;
                        let to = &mut warp.flights[index].data;
                        if size == to.len() {
                            let [low, high] =
                                allocation.data.u64s(at).each_ref().map(|w| w.load(Relaxed));
                            *to = (u128::from(high) << 64 | u128::from(low)).to_le_bytes();
                        } else {
                            allocation.data.read(at, &mut to[..size]);
                        }
                    }
                },
            )?;
        }
        let (mut hazard, mut rest) = (None, active);
        while rest != 0 {
            let lane = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            let found = block.shared.begin_copy(to[lane] as usize, bytes, self.who(lane));
            hazard = hazard.or(found.map(|h| (lane, h)));
        }
        if let Some((lane, hazard)) = hazard {
            self.hazard(worker, block, lane, hazard, Use::Write);
        }
        Ok(())
    }

    /// Source bytes of each lane: all, the operand, or none where the ignore predicate is set.
    #[inline(always)]
    fn sizes(
        &self,
        registers: &Operands,
        bytes: usize,
        active: u32,
    ) -> Result<[usize; WARP], Problem> {
        let mut sizes = [bytes; WARP];
        let mut wrong = None;
        if registers[2] != NONE {
            let wanted = self.w(registers[2]);
            lanes(active, |lane| {
                sizes[lane] = wanted[lane] as usize;
                if sizes[lane] > bytes {
                    wrong = Some(lane);
                }
            });
        }
        if registers[3] != NONE {
            let ignore = self.registers.p[usize::from(registers[3])];
            lanes(active & ignore, |lane| sizes[lane] = 0);
        }
        wrong.map_or(Ok(sizes), |lane| {
            let message =
                format!("an asynchronous copy of {bytes} bytes with {} source bytes", sizes[lane]);
            Err(Problem::new(Check::OutOfBounds, message).lane(lane))
        })
    }

    /// Lands the copies of all groups but each lane's last `pending`.
    #[inline(always)]
    pub(super) fn wait_copies(
        &mut self,
        worker: &mut Worker<'_>,
        block: &mut BlockState,
        pending: Option<u32>,
        active: u32,
    ) {
        let mut flights = std::mem::take(&mut self.flights);
        let mut kept = 0;
        for index in 0..flights.len() {
            let flight = flights[index];
            let lane = usize::from(flight.lane);
            let due = match pending {
                None => true,
                Some(pending) => flight.group + pending < self.groups[lane],
            };
            if active >> lane & 1 == 0 || !due {
                flights[kept] = flight;
                kept += 1;
                continue;
            }
            let (at, bytes) = (flight.to as usize, usize::from(flight.bytes));
            let hazard = block.shared.end_copy(at, bytes, &flight.data, self.who(lane));
            if let Some(hazard) = hazard {
                self.hazard(worker, block, lane, hazard, Use::Write);
            }
        }
        flights.truncate(kept);
        self.flights = flights;
    }

    /// Row addresses of a matrix access: lanes 8q to 8q+7 give the rows of matrix q.
    #[inline(always)]
    fn rows(
        &self,
        worker: &mut Worker<'_>,
        block: &BlockState,
        access: MatrixAccess,
        register: u16,
        active: u32,
        what: &str,
    ) -> Result<[u64; WARP], Problem> {
        if active != FULL {
            return Err(self.divergent(what, active));
        }
        let rows = self.addresses(register, access.address);
        let used = FULL >> (WARP - ROWS * usize::from(access.count));
        Self::check_shared(block, &rows, used, ROW_BYTES)?;
        if worker.settings().counters {
            let counters = &mut worker.counters.shared[SharedAccess::Matrix as usize];
            counters.requests += 1;
            for tile in rows.chunks(ROWS).take(access.count.into()) {
                banks::count_rows(counters, tile);
            }
        }
        Ok(rows)
    }

    #[inline(always)]
    pub(super) fn load_matrix(
        &mut self,
        worker: &mut Worker<'_>,
        block: &mut BlockState,
        access: MatrixAccess,
        registers: &Operands,
        active: u32,
    ) -> Result<(), Problem> {
        let count = usize::from(access.count);
        let rows = self.rows(worker, block, access, registers[count], active, "ldmatrix")?;
        for (tile, &register) in registers.iter().enumerate().take(count) {
            let mut data = [[0; ROW_BYTES]; ROWS];
            for (row, data) in data.iter_mut().enumerate() {
                let lane = tile * ROWS + row;
                let at = rows[lane] as usize;
                data.copy_from_slice(block.shared.data(at, ROW_BYTES));
                if let Some(hazard) = block.shared.touch(at, ROW_BYTES, Use::Read, self.who(lane)) {
                    self.hazard(worker, block, lane, hazard, Use::Read);
                }
            }
            self.registers.w[usize::from(register)] = matrix::ldmatrix_tile(&data, access.trans);
        }
        Ok(())
    }

    pub(super) fn store_matrix(
        &mut self,
        worker: &mut Worker<'_>,
        block: &mut BlockState,
        access: MatrixAccess,
        registers: &Operands,
        active: u32,
    ) -> Result<(), Problem> {
        let count = usize::from(access.count);
        let rows = self.rows(worker, block, access, registers[0], active, "stmatrix")?;
        for tile in 0..count {
            let data = matrix::stmatrix_tile(
                &self.registers.w[usize::from(registers[1 + tile])],
                access.trans,
            );
            for (row, data) in data.iter().enumerate() {
                let lane = tile * ROWS + row;
                let at = rows[lane] as usize;
                block.shared.data_mut(at, ROW_BYTES).copy_from_slice(data);
                if let Some(hazard) = block.shared.touch(at, ROW_BYTES, Use::Write, self.who(lane))
                {
                    self.hazard(worker, block, lane, hazard, Use::Write);
                }
            }
        }
        Ok(())
    }
}
