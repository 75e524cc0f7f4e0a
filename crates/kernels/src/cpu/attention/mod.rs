//! Causal attention in blocks: no task holds more than a block of scores.

mod backward;
mod forward;
mod layout;
mod scores;
#[cfg(amx)]
mod tiled;

pub(super) use self::backward::backward;
pub(super) use self::forward::forward;

/// Rows of scores in a block: query tokens times the query heads that share a key head.
const QUERY_ROWS: usize = 128;
/// Keys of a block.
const KEYS: usize = 128;
