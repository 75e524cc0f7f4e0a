//! What is to be told of single rows.

use serde::{Deserialize, Serialize};

use crate::rows::Place;
use crate::unseen::Unseen;

/// Something about a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) place: Place,
    /// The row's hash, by which it is held out.
    pub(crate) key: u64,
    pub(crate) what: What,
}

/// What there is to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum What {
    /// Too long, and left out.
    Dropped,
    /// It cannot be used; the reason is with the bad rows, which are in the same order.
    Bad,
    /// The template leaves a part out.
    Unseen(Unseen),
    /// So many tokens stand for what the vocabulary cannot spell.
    Unknown(u32),
    /// Message number `message` has a special token in it: number `token` of the encoder's.
    Special { message: u32, token: u32 },
}
