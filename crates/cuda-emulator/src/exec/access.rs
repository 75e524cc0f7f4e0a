//! Loads and stores of a warp.

mod global;
mod lines;
mod local;
mod shared;

pub(super) use global::Reach;
pub(super) use lines::Lines;

use super::{
    block::BlockState,
    fault::Problem,
    instruction::{Access, Address, Place},
    shared::Who,
    space::{LOCAL_WINDOW, SHARED_WINDOW, WINDOW},
    warp::{FULL, Warp, lanes},
    worker::Worker,
};
use crate::{
    alu::{Operands, WARP, wide},
    findings::Check,
};

impl Warp {
    /// Byte addresses of all lanes.
    #[inline(always)]
    pub(super) fn addresses(&self, register: u16, address: Address) -> [u64; WARP] {
        let mut addresses = [0; WARP];
        if address.wide {
            for (to, from) in addresses.iter_mut().zip(self.d(register)) {
                *to = from.wrapping_add_signed(address.offset);
            }
        } else {
            for (to, from) in addresses.iter_mut().zip(self.w(register)) {
                *to = u64::from(from.wrapping_add(address.offset as u32));
            }
        }
        addresses
    }

    #[inline(always)]
    pub(super) fn who(&self, lane: usize) -> Who {
        Who {
            thread: (self.index * WARP as u32) as u16 + lane as u16,
            warp: self.index as u8,
            at: self.pc,
        }
    }

    pub(super) fn load(
        &mut self,
        worker: &mut Worker<'_>,
        block: &mut BlockState,
        access: Access,
        registers: &Operands,
        active: u32,
    ) -> Result<(), Problem> {
        let register = registers[usize::from(access.count)];
        match access.place {
            Place::Global => wide(
                #[inline(always)]
                || {
                    let addresses = &self.addresses(register, access.address);
                    let request = Request { access, registers, addresses, lanes: active };
                    self.load_global(worker, block, &request)
                },
            ),
            Place::Shared => wide(
                #[inline(always)]
                || {
                    let addresses = &self.addresses(register, access.address);
                    let request = Request { access, registers, addresses, lanes: active };
                    self.load_shared(worker, block, &request)
                },
            ),
            _ => self.load_elsewhere(worker, block, access, registers, active),
        }
    }

    fn load_elsewhere(
        &mut self,
        worker: &mut Worker<'_>,
        block: &mut BlockState,
        access: Access,
        registers: &Operands,
        active: u32,
    ) -> Result<(), Problem> {
        let mut addresses = self.addresses(registers[usize::from(access.count)], access.address);
        let windows = Windows::split(access.place, &mut addresses, active);
        let request = |lanes| Request { access, registers, addresses: &addresses, lanes };
        if windows.global != 0 {
            self.load_global(worker, block, &request(windows.global))?;
        }
        if windows.shared != 0 {
            self.load_shared(worker, block, &request(windows.shared))?;
        }
        if windows.local != 0 {
            self.load_local(&request(windows.local))?;
        }
        if windows.param != 0 {
            self.load_param(worker, &request(windows.param))?;
        }
        Ok(())
    }

    pub(super) fn store(
        &mut self,
        worker: &mut Worker<'_>,
        block: &mut BlockState,
        access: Access,
        registers: &Operands,
        active: u32,
    ) -> Result<(), Problem> {
        let register = registers[0];
        match access.place {
            Place::Global => wide(
                #[inline(always)]
                || {
                    let addresses = &self.addresses(register, access.address);
                    let request = Request { access, registers, addresses, lanes: active };
                    self.store_global(worker, block, &request)
                },
            ),
            Place::Shared => wide(
                #[inline(always)]
                || {
                    let addresses = &self.addresses(register, access.address);
                    let request = Request { access, registers, addresses, lanes: active };
                    self.store_shared(worker, block, &request)
                },
            ),
            _ => self.store_elsewhere(worker, block, access, registers, active),
        }
    }

    fn store_elsewhere(
        &mut self,
        worker: &mut Worker<'_>,
        block: &mut BlockState,
        access: Access,
        registers: &Operands,
        active: u32,
    ) -> Result<(), Problem> {
        let mut addresses = self.addresses(registers[0], access.address);
        let windows = Windows::split(access.place, &mut addresses, active);
        let request = |lanes| Request { access, registers, addresses: &addresses, lanes };
        if windows.global != 0 {
            self.store_global(worker, block, &request(windows.global))?;
        }
        if windows.shared != 0 {
            self.store_shared(worker, block, &request(windows.shared))?;
        }
        if windows.local != 0 {
            self.store_local(&request(windows.local))?;
        }
        if windows.param != 0 {
            return Err(Problem::new(Check::OutOfBounds, "a store to a kernel parameter"));
        }
        Ok(())
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

    /// Writes what `read` gives for the lanes of `mask` to a register, sign- or zero-extended.
    #[inline(always)]
    fn gather<T: Into<u64>>(
        &mut self,
        register: u16,
        mask: u32,
        access: Access,
        read: impl Fn(usize) -> T,
    ) {
        if mask == FULL && !access.wide && !access.signed {
            for (lane, to) in self.w_mut(register).iter_mut().enumerate() {
                *to = read(lane).into() as u32;
            }
            return;
        }
        let mut rest = mask;
        while rest != 0 {
            let lane = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            self.put(register, lane, read(lane).into(), access);
        }
    }

    /// Calls `write` with the lanes of `mask` and their value of a register.
    #[inline(always)]
    fn scatter(&self, register: u16, mask: u32, access: Access, mut write: impl FnMut(usize, u64)) {
        let mut rest = mask;
        while rest != 0 {
            let lane = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            write(lane, self.get(register, lane, access.wide));
        }
    }
}

/// Evaluates an expression with the unsigned type of `$bytes` bytes.
macro_rules! by_width {
    ($bytes:expr, $ty:ident => $body:expr) => {
        match $bytes {
            1 => {
                type $ty = u8;
                $body
            }
            2 => {
                type $ty = u16;
                $body
            }
            4 => {
                type $ty = u32;
                $body
            }
            _ => {
                type $ty = u64;
                $body
            }
        }
    };
}
use by_width;

/// What a warp asks of one memory.
pub(super) struct Request<'a> {
    access: Access,
    /// As the instruction has them: the address after the data of a load, before that of a store.
    registers: &'a Operands,
    /// Of each lane, from the start of the window; of global memory as they are.
    addresses: &'a [u64; WARP],
    lanes: u32,
}

/// The lanes of an access, by the memory that they mean.
#[derive(Default)]
pub(super) struct Windows {
    pub(super) global: u32,
    pub(super) shared: u32,
    pub(super) local: u32,
    pub(super) param: u32,
}

impl Windows {
    /// Of generic addresses.
    pub(super) fn new(addresses: &[u64; WARP], active: u32) -> Self {
        let mut windows = Self::default();
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

    /// Of an access to `place`; generic addresses become offsets in their windows.
    #[inline(always)]
    pub(super) fn split(place: Place, addresses: &mut [u64; WARP], active: u32) -> Self {
        match place {
            Place::Global => Self { global: active, ..Self::default() },
            Place::Shared => Self { shared: active, ..Self::default() },
            Place::Local => Self { local: active, ..Self::default() },
            Place::Param => Self { param: active, ..Self::default() },
            Place::Generic => {
                let windows = Self::new(addresses, active);
                lanes(windows.shared, |lane| addresses[lane] -= SHARED_WINDOW);
                lanes(windows.local, |lane| addresses[lane] -= LOCAL_WINDOW);
                windows
            }
        }
    }
}
