//! One message and its answer.

use super::words::{
    ASIDES, BOOKABLE, BOOKINGS, CONTACTS, COUNTS, DAYS, ENDINGS, GOODS, GREETINGS, INTRODUCTIONS,
    MATTERS, NAMES, ORDERS, SIGNATURES,
};
use super::{Answer, Kind};
use crate::rng::Rng;

/// Draws a message and the answer it calls for.
pub(super) fn draw(rng: &mut Rng) -> (String, Answer) {
    let kind = rng.pick(&[Kind::Order, Kind::Booking, Kind::Contact]);
    let (wordings, items) = match kind {
        Kind::Order => (ORDERS, GOODS),
        Kind::Booking => (BOOKINGS, BOOKABLE),
        Kind::Contact => (CONTACTS, MATTERS),
    };
    let name = rng.pick(NAMES);
    let item = rng.pick(items);
    let (count_text, count) = draw_count(rng, kind);
    let (day_text, day) = draw_day(rng);
    let text = frame(rng, wordings)
        .replace("{name}", name)
        .replace("{n}", count_text)
        .replace("{i}", item)
        .replace("{d}", &day_text);
    // Some people never use capitals.
    let text = if rng.chance(15) { text.to_lowercase() } else { text };
    let count = (kind != Kind::Contact).then_some(count);
    (text, Answer { kind, name: name.to_owned(), item: item.to_owned(), count, day })
}

/// Everything but the facts: greeting, wording, asides, name before or after, typing errors; placeholders still open.
fn frame(rng: &mut Rng, wordings: &[&str]) -> String {
    let introduced = rng.chance(50);
    let mut text = String::new();
    if rng.chance(60) {
        text += rng.pick(GREETINGS);
    }
    if introduced {
        text += rng.pick(INTRODUCTIONS);
    }
    text += rng.pick(wordings);
    if rng.chance(35) {
        text += rng.pick(ASIDES);
    }
    let mut text = if rng.chance(35) { mistype(rng, &text) } else { text };
    if !introduced {
        text += rng.pick(SIGNATURES);
    }
    if rng.chance(20) {
        text += rng.pick(ENDINGS);
    }
    capitalise(&text)
}

/// "a couple of" wants a thing after it, so only orders say it.
fn draw_count(rng: &mut Rng, kind: Kind) -> (&'static str, u32) {
    loop {
        let (text, count) = rng.pick(COUNTS);
        if kind == Kind::Order || !text.starts_with("a ") {
            return (text, count);
        }
    }
}

/// The day as the message writes it, and its full name; both empty in three of ten messages.
fn draw_day(rng: &mut Rng) -> (String, Option<String>) {
    if rng.chance(30) {
        return (String::new(), None);
    }
    let day = rng.pick(DAYS);
    let written = match rng.below(4) {
        0 => day[..3].to_lowercase(),
        1 => day.to_lowercase(),
        _ => day.to_owned(),
    };
    let preposition = rng.pick(&[" on ", " this ", " next "]);
    (format!("{preposition}{written}"), Some(day.to_owned()))
}

/// Swaps two neighbouring letters inside one plain word, never inside a placeholder.
fn mistype(rng: &mut Rng, text: &str) -> String {
    let mut words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    let plain: Vec<usize> = (0..words.len())
        .filter(|&index| {
            words[index].len() >= 4 && words[index].bytes().all(|byte| byte.is_ascii_alphabetic())
        })
        .collect();
    if plain.is_empty() {
        return text.to_owned();
    }
    let word = &mut words[rng.pick(&plain)];
    let at = 1 + rng.below(word.len() - 2);
    let mut bytes = std::mem::take(word).into_bytes();
    bytes.swap(at, at + 1);
    *word = String::from_utf8(bytes).expect("plain words are ASCII");
    words.join(" ")
}

fn capitalise(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
