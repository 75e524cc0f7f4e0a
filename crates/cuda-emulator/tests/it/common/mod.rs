//! What the tests share.

pub(crate) mod case;
pub(crate) mod compile;
pub(crate) mod direct;
pub(crate) mod driver;
pub(crate) mod emulator;
pub(crate) mod random;
