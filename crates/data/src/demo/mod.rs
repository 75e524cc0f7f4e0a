//! The demonstration set: free-form shop messages in, one JSON line with fixed keys out.
//!
//! A seeded generator, so the project ships no third-party text. Three kinds of message (order, booking, contact)
//! with varied wording, names, number words, abbreviated days, typing errors, greetings, emojis and beside-the-point
//! sentences. No two rows of a set share both name and item, so held-out rows cannot be answered from memory.

mod message;
mod words;

use std::collections::HashSet;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use crate::rng::Rng;
use crate::rows::{Chat, Message, Role};

/// The system message of every row. Short, because each of its tokens is paid for in every row.
pub const SYSTEM: &str = "Extract JSON.";

/// The most rows of one set; with more, too few (name, item) pairs would be left to keep rows apart.
pub const MAX_ROWS: usize = 3000;

/// What a message asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Goods to be sent.
    Order,
    /// A table, room, lesson... for a number of people.
    Booking,
    /// A wish to be called back.
    Contact,
}

/// The expected JSON line; keys are written in the order of the fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What the message asks for.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// The writer's first name, capitalised.
    pub name: String,
    /// The goods, the thing booked, or the matter to talk about, as the message writes it.
    pub item: String,
    /// How many pieces or people, in digits; null for a contact.
    pub count: Option<u32>,
    /// The full English name of the weekday; null when none is given.
    pub day: Option<String>,
}

/// `count` rows. The same seed gives the same rows on every platform, and a longer set begins with the shorter one.
///
/// # Panics
/// When more than [`MAX_ROWS`] are asked for.
pub fn rows(seed: u64, count: usize) -> Vec<Chat> {
    assert!(count <= MAX_ROWS, "{count} rows asked for, at most {MAX_ROWS} can be made");
    let mut rng = Rng::new(seed, 0);
    let mut seen = HashSet::new();
    let mut rows = Vec::with_capacity(count);
    while rows.len() < count {
        let (text, answer) = message::draw(&mut rng);
        if seen.insert((answer.name.clone(), answer.item.clone())) {
            rows.push(chat(text, &answer));
        }
    }
    rows
}

/// Writes [`rows`] as JSON lines.
pub fn write(seed: u64, count: usize, mut out: impl Write) -> io::Result<()> {
    for row in rows(seed, count) {
        serde_json::to_writer(&mut out, &row)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

fn chat(text: String, answer: &Answer) -> Chat {
    let answer = serde_json::to_string(answer).expect("strings and numbers always serialise");
    let turns = [(Role::System, SYSTEM.to_owned()), (Role::User, text), (Role::Assistant, answer)];
    turns.map(|(role, text)| Message::new(role, text)).to_vec().into()
}
