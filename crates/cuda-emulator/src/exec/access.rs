//! Loads and stores of a warp.

mod global;
mod local;
mod runs;
mod shared;

pub(super) use runs::Runs;

use super::{
    block::BlockState,
    fault::Problem,
    instruction::{Access, Address, Place},
    shared::Who,
    space::{LOCAL_WINDOW, SHARED_WINDOW, WINDOW},
    warp::{Warp, lanes},
    worker::Worker,
};
use crate::{
    alu::{Operands, WARP},
    findings::Check,
};

impl Warp {
    /// Byte addresses of all lanes.
    #[inline(always)]
    pub(super) fn addresses(&self, register: u16, address: Address) -> [u64; WARP] {
        if address.wide {
            let base = self.d(register);
            std::array::from_fn(|lane| base[lane].wrapping_add_signed(address.offset))
        } else {
            let base = self.w(register);
            std::array::from_fn(|lane| u64::from(base[lane].wrapping_add(address.offset as u32)))
        }
    }

    #[inline(always)]
    pub(super) fn who(&self, lane: usize) -> Who {
        Who {
            thread: (self.index * WARP as u32) as u16 + lane as u16,
            warp: self.index as u8,
            at: self.pc,
        }
    }

    #[inline(always)]
    pub(super) fn load(
        &mut self,
        worker: &mut Worker<'_>,
        block: &mut BlockState,
        access: Access,
        registers: &Operands,
        active: u32,
    ) -> Result<(), Problem> {
        let addresses = self.addresses(registers[usize::from(access.count)], access.address);
        match access.place {
            Place::Global => self.load_global(worker, block, access, registers, &addresses, active),
            Place::Shared => self.load_shared(worker, block, access, registers, &addresses, active),
            Place::Local => self.load_local(access, registers, &addresses, active),
            Place::Param => self.load_param(worker, access, registers, &addresses, active),
            Place::Generic => {
                let windows = Windows::new(&addresses, active);
                if windows.global != 0 {
                    self.load_global(worker, block, access, registers, &addresses, windows.global)?;
                }
                if windows.shared != 0 {
                    let addresses = addresses.map(|a| a.wrapping_sub(SHARED_WINDOW));
                    self.load_shared(worker, block, access, registers, &addresses, windows.shared)?;
                }
                if windows.local != 0 {
                    let addresses = addresses.map(|a| a.wrapping_sub(LOCAL_WINDOW));
                    self.load_local(access, registers, &addresses, windows.local)?;
                }
                Ok(())
            }
        }
    }

    #[inline(always)]
    pub(super) fn store(
        &mut self,
        worker: &mut Worker<'_>,
        block: &mut BlockState,
        access: Access,
        registers: &Operands,
        active: u32,
    ) -> Result<(), Problem> {
        let addresses = self.addresses(registers[0], access.address);
        match access.place {
            Place::Global => {
                self.store_global(worker, block, access, registers, &addresses, active)
            }
            Place::Shared => {
                self.store_shared(worker, block, access, registers, &addresses, active)
            }
            Place::Local => self.store_local(access, registers, &addresses, active),
            Place::Param => Err(Problem::new(Check::OutOfBounds, "a store to a kernel parameter")),
            Place::Generic => {
                let windows = Windows::new(&addresses, active);
                if windows.global != 0 {
                    self.store_global(
                        worker,
                        block,
                        access,
                        registers,
                        &addresses,
                        windows.global,
                    )?;
                }
                if windows.shared != 0 {
                    let addresses = addresses.map(|a| a.wrapping_sub(SHARED_WINDOW));
                    self.store_shared(
                        worker,
                        block,
                        access,
                        registers,
                        &addresses,
                        windows.shared,
                    )?;
                }
                if windows.local != 0 {
                    let addresses = addresses.map(|a| a.wrapping_sub(LOCAL_WINDOW));
                    self.store_local(access, registers, &addresses, windows.local)?;
                }
                Ok(())
            }
        }
    }

    /// A finding that does not stop the kernel. The thread is the one whose address it is, if it
    /// was not known.
    #[cold]
    pub(super) fn note(&self, worker: &mut Worker<'_>, block: &BlockState, problem: Problem) {
        let [gx, gy, _] = worker.shape().config.grid.map(u64::from);
        let [x, y, z] = block.index.map(u64::from);
        let number = x + gx * (y + gy * z);
        let mut problem = problem;
        if problem.lane.is_none() {
            problem.lane = Some(self.mask.trailing_zeros().min(31));
        }
        worker.report(problem, (number, block.index), (self.index as usize, self.pc));
    }

    /// Writes an element, sign- or zero-extended, to a lane of a register.
    #[inline(always)]
    fn put(&mut self, register: u16, lane: usize, raw: u64, access: Access) {
        let value = if access.signed {
            let shift = 64 - 8 * u32::from(access.bytes);
            ((raw << shift) as i64 >> shift) as u64
        } else {
            raw
        };
        if access.wide {
            self.d_mut(register)[lane] = value;
        } else {
            self.w_mut(register)[lane] = value as u32;
        }
    }

    #[inline(always)]
    fn get(&self, register: u16, lane: usize, wide: bool) -> u64 {
        if wide { self.d(register)[lane] } else { u64::from(self.w(register)[lane]) }
    }
}

/// The lanes of a generic access, by where their addresses point.
pub(super) struct Windows {
    pub(super) global: u32,
    pub(super) shared: u32,
    pub(super) local: u32,
}

impl Windows {
    pub(super) fn new(addresses: &[u64; WARP], active: u32) -> Self {
        let mut windows = Self { global: 0, shared: 0, local: 0 };
        lanes(active, |lane| {
            let at = addresses[lane];
            let mask = if (SHARED_WINDOW..SHARED_WINDOW + WINDOW).contains(&at) {
                &mut windows.shared
            } else if (LOCAL_WINDOW..LOCAL_WINDOW + WINDOW).contains(&at) {
                &mut windows.local
            } else {
                &mut windows.global
            };
            *mask |= 1 << lane;
        });
        windows
    }
}
