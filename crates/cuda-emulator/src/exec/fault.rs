//! What goes wrong inside an instruction, before it is known where.

use crate::findings::Check;

/// A defect without its place.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) check: Check,
    pub(super) message: String,
    pub(super) lane: Option<u32>,
    pub(super) address: Option<u64>,
}

impl Problem {
    pub(super) fn new(check: Check, message: impl Into<String>) -> Self {
        Self { check, message: message.into(), lane: None, address: None }
    }

    pub(super) fn at(check: Check, address: u64, message: impl Into<String>) -> Self {
        Self { address: Some(address), ..Self::new(check, message) }
    }

    pub(super) fn lane(mut self, lane: usize) -> Self {
        self.lane = Some(lane as u32);
        self
    }
}
