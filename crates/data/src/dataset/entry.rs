//! What stays in memory of an encoded row, and the bytes that its tokens are stored as.

use std::num::NonZeroU64;

use sha2::{Digest, Sha256};

use crate::encode::{Example, IGNORE};
use crate::rows::Place;

/// Set in the stored id of a token that is learned.
const LEARNED: u32 = 1 << 31;

/// A row that is used. Its tokens are in the [store](super::Store).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) place: Place,
    /// Its first byte in the store.
    pub(crate) start: u64,
    pub(crate) tokens: u32,
    /// Tokens that the loss covers.
    pub(crate) trained: u32,
    /// How often it is learned in one pass.
    pub(crate) copies: u32,
    /// Hash of all that is trained on.
    pub(crate) whole: u64,
    /// Hash of what comes before the first trained token, if there is any but a begin token.
    pub(crate) prompt: Option<NonZeroU64>,
    /// Whether labels are stored beside the ids: some are neither the id nor ignored.
    pub(crate) own_labels: bool,
    pub(crate) marks: Marks,
}

/// What the preflight checks ask of a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// Too long, and cut.
    pub(crate) cut: bool,
    /// Begins with two begin tokens.
    pub(crate) double_bos: bool,
    /// A special token is learned near its end.
    pub(crate) ends: bool,
}

impl Entry {
    /// An example's entry, at the beginning of a store, and its bytes there.
    pub(crate) fn new(example: &Example) -> (Self, Vec<u8>) {
        let (bytes, own_labels) = pack(&example.input_ids, &example.labels);
        let answer = example.labels.iter().position(|label| *label != IGNORE);
        let entry = Self {
            place: example.place.clone(),
            start: 0,
            tokens: example.input_ids.len() as u32,
            trained: example.trained_tokens() as u32,
            copies: 1,
            whole: hash(&[&[u8::from(own_labels)], &bytes]),
            // Ids before the answer have no mark, so their bytes are those of the ids alone.
            prompt: answer.filter(|answer| *answer > 1).map(|answer| {
                NonZeroU64::new(hash(&[&bytes[..4 * answer]])).unwrap_or(NonZeroU64::MIN)
            }),
            own_labels,
            marks: Marks::default(),
        };
        (entry, bytes)
    }

    /// Bytes in the store.
    pub(crate) fn bytes(&self) -> usize {
        self.tokens as usize * if self.own_labels { 8 } else { 4 }
    }

    /// The example, from its bytes.
    pub(crate) fn example(&self, bytes: &[u8]) -> Example {
        let (input_ids, labels) = unpack(bytes, self.own_labels);
        Example { input_ids, labels, place: self.place.clone() }
    }
}

/// One word for each token where its label is the id or ignored, else the ids and then the labels; and whether the
/// latter.
fn pack(ids: &[u32], labels: &[u32]) -> (Vec<u8>, bool) {
    let plain = |(id, label): (&u32, &u32)| *id < LEARNED && (*label == IGNORE || label == id);
    let own_labels = !ids.iter().zip(labels).all(plain);
    let bytes = if own_labels {
        ids.iter().chain(labels).flat_map(|word| word.to_le_bytes()).collect()
    } else {
        let word = |(id, label)| id | if label == IGNORE { 0 } else { LEARNED };
        ids.iter()
            .copied()
            .zip(labels.iter().copied())
            .map(word)
            .flat_map(u32::to_le_bytes)
            .collect()
    };
    (bytes, own_labels)
}

fn unpack(bytes: &[u8], own_labels: bool) -> (Vec<u32>, Vec<u32>) {
    let words = bytes.chunks_exact(4);
    let words = words.map(|word| u32::from_le_bytes(word.try_into().expect("chunks of four")));
    if own_labels {
        let mut ids: Vec<u32> = words.collect();
        let labels = ids.split_off(ids.len() / 2);
        return (ids, labels);
    }
    words
        .map(|word| {
            let id = word & !LEARNED;
            (id, if word == id { IGNORE } else { id })
        })
        .unzip()
}

/// The first 64 bits of SHA-256, which are the same in every build: they are kept on disk.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    u64::from_le_bytes(hash.finalize()[..8].try_into().expect("a digest has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked(
            tokens in prop::collection::vec((any::<u32>(), 0..3, any::<u32>()), 0..20),
            small: bool,
        ) {
            let id = |id: u32| if small { id % 1000 } else { id };
            let ids: Vec<u32> = tokens.iter().map(|(x, ..)| id(*x)).collect();
            let label = |&(x, kind, other): &(u32, i32, u32)| match kind {
                0 => IGNORE,
                1 => id(x),
                _ => other,
            };
            let labels: Vec<u32> = tokens.iter().map(label).collect();
            let (bytes, own_labels) = pack(&ids, &labels);
            prop_assert_eq!(bytes.len(), ids.len() * if own_labels { 8 } else { 4 });
            prop_assert_eq!(unpack(&bytes, own_labels), (ids, labels));
        }
    }

    #[test]
    fn four_bytes_a_token_are_enough_for_common_rows() {
        assert!(!pack(&[1, 2, 3], &[IGNORE, 2, 3]).1);
        assert!(pack(&[1, 2, 3], &[IGNORE, 2, 4]).1);
    }
}
