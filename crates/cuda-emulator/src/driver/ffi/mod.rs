//! The exported C functions.
//!
//! Arguments have types of `pointers` of the same layout as the C ones, so that the functions here
//! are safe code, and what is unsafe about pointers stands in one place.

#![allow(unsafe_code)]

mod context;
mod copy;
mod cublaslt;
mod device;
mod event;
mod graph;
mod launch;
mod memory;
mod module;
mod pointers;
mod pool;
mod proc_address;
mod process;
mod stream;
mod unsupported;

pub(super) use pointers::{Arguments, Callback, HostPointer, HostRange};
use process::enter;

/// Defines exported functions. Each runs its body with the state locked; what the body comes to is
/// the status that the function returns.
macro_rules! api {
    ($(fn $name:ident($state:ident $(, $arg:ident: $type:ty)* $(,)?) $body:block)*) => {
        $(
            #[unsafe(no_mangle)]
            extern "C" fn $name($($arg: $type),*) -> u32 {
                $crate::driver::ffi::enter(stringify!($name), |$state| $body)
            }
        )*

        /// Names and addresses of these functions.
        pub(super) fn exports() -> Vec<(&'static str, usize)> {
            vec![$((stringify!($name), $name as *const () as usize)),*]
        }
    };
}
use api;
