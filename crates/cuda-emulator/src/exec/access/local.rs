//! Loads and stores of local memory, loads of parameters.

use super::Request;
use crate::{
    alu::WARP,
    exec::{
        fault::Problem,
        warp::{Warp, lanes},
        worker::Worker,
    },
    findings::Check,
};

impl Warp {
    fn local_offset(&self, address: u64, lane: usize, bytes: usize) -> Result<usize, Problem> {
        let size = self.local.len() / WARP;
        let fits = address.checked_add(bytes as u64).is_some_and(|end| end <= size as u64);
        if !fits {
            let message =
                format!("{bytes} bytes outside the thread's {size} bytes of local memory");
            return Err(Problem::at(Check::OutOfBounds, address, message).lane(lane));
        }
        if !address.is_multiple_of(bytes as u64) {
            let message = format!(
                "{bytes} bytes of local memory at an address that is no multiple of {bytes}"
            );
            return Err(Problem::at(Check::Misaligned, address, message).lane(lane));
        }
        Ok(lane * size + address as usize)
    }

    pub(super) fn load_local(&mut self, request: &Request<'_>) -> Result<(), Problem> {
        let &Request { access, registers, addresses, lanes: active } = request;
        let element = usize::from(access.bytes);
        let mut result = Ok(());
        lanes(active, |lane| match self.local_offset(addresses[lane], lane, access.total()) {
            Ok(at) => {
                for (item, &register) in registers.iter().enumerate().take(access.count.into()) {
                    let mut raw = [0; 8];
                    raw[..element].copy_from_slice(&self.local[at + item * element..][..element]);
                    self.put(register, lane, u64::from_le_bytes(raw), access);
                }
            }
            Err(problem) => result = Err(problem),
        });
        result
    }

    pub(super) fn store_local(&mut self, request: &Request<'_>) -> Result<(), Problem> {
        let &Request { access, registers, addresses, lanes: active } = request;
        let element = usize::from(access.bytes);
        let mut result = Ok(());
        lanes(active, |lane| match self.local_offset(addresses[lane], lane, access.total()) {
            Ok(at) => {
                for item in 0..usize::from(access.count) {
                    let raw = self.get(registers[item + 1], lane, access.wide).to_le_bytes();
                    self.local[at + item * element..][..element].copy_from_slice(&raw[..element]);
                }
            }
            Err(problem) => result = Err(problem),
        });
        result
    }

    pub(super) fn load_param(
        &mut self,
        worker: &Worker<'_>,
        request: &Request<'_>,
    ) -> Result<(), Problem> {
        let &Request { access, registers, addresses, lanes: active } = request;
        let (element, params) = (usize::from(access.bytes), worker.shape().params);
        let mut result = Ok(());
        lanes(active, |lane| {
            let source = usize::try_from(addresses[lane])
                .ok()
                .and_then(|at| params.get(at..at.checked_add(access.total())?));
            let Some(source) = source else {
                let message = format!("{} bytes outside the kernel's parameters", access.total());
                result = Err(Problem::at(Check::OutOfBounds, addresses[lane], message).lane(lane));
                return;
            };
            for (item, &register) in registers.iter().enumerate().take(access.count.into()) {
                let mut raw = [0; 8];
                raw[..element].copy_from_slice(&source[item * element..][..element]);
                self.put(register, lane, u64::from_le_bytes(raw), access);
            }
        });
        result
    }
}
