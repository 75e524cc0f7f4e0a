//! The driver interface under test, through cudarc and directly.
#![allow(unsafe_code)]

mod errors;
mod graphs;
mod kernels;
mod memory;
mod products;
mod programs;
mod streams;
