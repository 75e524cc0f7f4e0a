//! One module per subcommand.

pub mod autotune;
pub mod data;
pub mod demo_data;
pub mod device;
pub mod eval;
pub mod generate;
pub mod inspect;
pub mod plan;
pub mod quantize;
pub mod report;
mod resume;
pub mod train;
