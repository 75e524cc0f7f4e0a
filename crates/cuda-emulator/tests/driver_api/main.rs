//! The driver interface under test, through cudarc and directly.
#![allow(unsafe_code)]

mod errors;
mod graphs;
mod memory;
mod programs;
mod streams;
mod support;
