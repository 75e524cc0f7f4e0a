//! Compiles a loop once for each instruction set and picks at run time.

use std::sync::LazyLock;

use super::level::level;

/// The vectors of this process's level.
pub(super) static ARCH: LazyLock<pulp::Arch> =
    LazyLock::new(|| level().arch().unwrap_or(pulp::Arch::Scalar));

/// Runs an expression as compiled for the vectors of this process's level.
///
/// What it calls must be `#[inline(always)]` to be compiled so. Results do not depend on the choice:
/// a product is never fused with a sum unless the code says so.
macro_rules! simd {
    ($body:expr) => {{
        let once = crate::cpu::simd::Once;
        crate::cpu::simd::ARCH.dispatch(
            #[inline(always)]
            || {
                once.consume();
                $body
            },
        )
    }};
}

pub(super) use simd;

/// Moved into a closure and used up there, it makes the closure callable only once. Other closures
/// are called through a shim, which the dispatcher does not inline.
pub(super) struct Once;

impl Once {
    #[inline]
    pub(super) const fn consume(self) {
        let Self = self;
    }
}
