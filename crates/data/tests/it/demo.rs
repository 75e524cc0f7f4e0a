//! The demonstration set.

use std::collections::HashSet;

use data::demo::{self, Answer, Kind};
use data::rows::{Chat, Format};
use sha2::{Digest, Sha256};

use crate::common::read;

/// The first eight bytes of the SHA-256 of the 600 rows that seed 1 gives. The README's figures are of this set; a
/// change here asks for new ones.
const DIGEST: u64 = 0x1e74_b667_de32_ddc4;

fn answer(chat: &Chat) -> Answer {
    serde_json::from_str(chat.messages[2].text()).unwrap()
}

fn question(chat: &Chat) -> String {
    chat.messages[1].text().to_lowercase()
}

#[test]
fn the_set_never_changes() {
    let mut bytes = Vec::new();
    demo::write(1, 600, &mut bytes).unwrap();
    let digest = Sha256::digest(&bytes);
    assert_eq!(u64::from_be_bytes(digest[..8].try_into().unwrap()), DIGEST);
    let rows = read(std::str::from_utf8(&bytes).unwrap(), None).unwrap();
    assert_eq!((rows.format, rows.rows.len()), (Format::Chat, 600));
    assert_eq!(demo::rows(1, 20), demo::rows(1, 600)[..20]);
    assert_ne!(demo::rows(2, 20), demo::rows(1, 20));
}

#[test]
fn keys_are_fixed_and_compact() {
    let row = &demo::rows(1, 1)[0];
    let answer = answer(row);
    let quoted = |text: &Option<String>| {
        text.as_ref().map_or("null".to_owned(), |text| format!("\"{text}\""))
    };
    let kind = serde_json::to_string(&answer.kind).unwrap();
    let count = answer.count.map_or("null".to_owned(), |count| count.to_string());
    let (name, item, day) = (&answer.name, &answer.item, quoted(&answer.day));
    let expected =
        format!(r#"{{"type":{kind},"name":"{name}","item":"{item}","count":{count},"day":{day}}}"#);
    assert_eq!(row.messages[2].text(), expected);
}

#[test]
fn every_answer_can_be_read_off_its_message() {
    for row in demo::rows(5, 1000) {
        let (question, answer) = (question(&row), answer(&row));
        assert!(question.contains(&answer.name.to_lowercase()), "{question}");
        assert!(question.contains(&answer.item), "{question}");
        assert_eq!(answer.count.is_none(), answer.kind == Kind::Contact, "{question}");
        if let Some(day) = &answer.day {
            assert!(question.contains(&day[..3].to_lowercase()), "{question}");
        }
        assert!(!question.contains('{'), "{question}");
    }
}

#[test]
fn no_two_rows_share_name_and_item_and_wordings_vary() {
    let rows = demo::rows(1, 600);
    let pairs: HashSet<_> = rows.iter().map(|row| (answer(row).name, answer(row).item)).collect();
    let questions: HashSet<_> = rows.iter().map(question).collect();
    assert_eq!((pairs.len(), questions.len()), (600, 600));
    for kind in [Kind::Order, Kind::Booking, Kind::Contact] {
        let share = rows.iter().filter(|row| answer(row).kind == kind).count();
        assert!((150..250).contains(&share), "{share} rows of {kind:?}");
    }
}
