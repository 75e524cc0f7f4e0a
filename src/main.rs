//! The `qlora-train` binary.
fn main() {}
