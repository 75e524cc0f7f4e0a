//! The checks, each on its own.

use std::collections::{HashMap, HashSet};

use super::{Check, Finding, Places};
use crate::dataset::{Dataset, Entry, Note, What};
use crate::encode::Encoder;
use crate::rows::{Format, Place};
use crate::unseen::Unseen;

pub(super) fn findings(encoder: &Encoder, train: &Dataset, eval: Option<&Dataset>) -> Vec<Finding> {
    let sides: Vec<&Dataset> = std::iter::once(train).chain(eval).collect();
    let found = [
        bad_rows(&sides),
        double_bos(encoder, &sides),
        missing_end(&sides),
        hidden_tools(&sides),
        hidden_text(&sides),
        duplicates(train),
        unknown_tokens(encoder, &sides),
        special_text(encoder, &sides),
        overlength(&sides),
        little_trained(train),
    ];
    let compared =
        eval.into_iter().flat_map(|eval| [leakage(train, eval), shared_prompts(train, eval)]);
    found.into_iter().chain(compared).flatten().collect()
}

fn entries<'a>(sides: &'a [&Dataset]) -> impl Iterator<Item = &'a Entry> {
    sides.iter().flat_map(|side| &side.entries)
}

fn notes<'a>(sides: &'a [&Dataset]) -> impl Iterator<Item = &'a Note> {
    sides.iter().flat_map(|side| &side.notes)
}

fn bad_rows(sides: &[&Dataset]) -> Option<Finding> {
    let mut places = Places::default();
    for side in sides {
        for bad in [&side.unread, &side.bad] {
            for row in &bad.first {
                places.add_text(|| format!("{}: {}", row.place, row.problem));
            }
            places.count += bad.count - bad.first.len();
        }
    }
    places.finding(Check::BadRows, |count| format!("{count} rows cannot be used"))
}

fn double_bos(encoder: &Encoder, sides: &[&Dataset]) -> Option<Finding> {
    let bos = encoder.special.bos()?;
    let mut places = Places::default();
    for entry in entries(sides).filter(|entry| entry.marks.double_bos) {
        places.add(&entry.place);
    }
    places.finding(Check::DoubleBos, |count| {
        format!(
            "{count} rows begin with {0}{0}; take it out of the rows or of the chat template",
            bos.text
        )
    })
}

fn missing_end(sides: &[&Dataset]) -> Option<Finding> {
    let (mut places, mut whole) = (Places::default(), 0);
    for entry in entries(sides).filter(|entry| !entry.marks.cut) {
        whole += 1;
        if !entry.marks.ends {
            places.add(&entry.place);
        }
    }
    let most = 2 * places.count > whole;
    let mut finding = places.finding(Check::MissingEnd, |count| {
        format!("{count} of {whole} rows do not end with a special token: the model does not learn to stop")
    })?;
    // Some rows may be meant to stop short, and whoever made the ids may know better; all rows of text never are.
    finding.fatal &= most && sides.iter().all(|side| side.format != Format::Tokens);
    Some(finding)
}

fn hidden_tools(sides: &[&Dataset]) -> Option<Finding> {
    let mut places = Places::default();
    for (place, part) in sides.iter().flat_map(|side| side.unseen()) {
        match part {
            Unseen::Tool => places.add_text(|| format!("{place}: tools")),
            Unseen::Call(index) => {
                places.add_text(|| format!("{place}: messages[{index}].tool_calls"));
            }
            Unseen::Words(_) => {}
        }
    }
    places.finding(Check::HiddenTools, |count| {
        format!("the chat template does not show the tools or tool calls of {count} rows; choose one that does")
    })
}

fn hidden_text(sides: &[&Dataset]) -> Option<Finding> {
    let mut places = Places::default();
    for (place, part) in sides.iter().flat_map(|side| side.unseen()) {
        if let Unseen::Words(index) = part {
            places.add_text(|| format!("{place}: messages[{index}]"));
        }
    }
    places.finding(Check::HiddenText, |count| {
        format!("the chat template leaves out or changes a message of {count} rows; look with `data show`")
    })
}

fn duplicates(train: &Dataset) -> Option<Finding> {
    let mut first: HashMap<u64, &Place> = HashMap::with_capacity(train.len());
    let mut places = Places::default();
    for Entry { place, whole, .. } in &train.entries {
        let earlier = *first.entry(*whole).or_insert(place);
        if earlier != place {
            places.add_text(|| format!("{place} is {earlier} again"));
        }
    }
    places.finding(Check::Duplicates, |count| {
        format!("{count} training rows are there before, and are learned that much more")
    })
}

/// Hashes of all that is trained on.
fn learned(train: &Dataset) -> HashSet<u64> {
    train.entries.iter().map(|entry| entry.whole).collect()
}

fn leakage(train: &Dataset, eval: &Dataset) -> Option<Finding> {
    let learned = learned(train);
    let mut places = Places::default();
    for entry in eval.entries.iter().filter(|entry| learned.contains(&entry.whole)) {
        places.add(&entry.place);
    }
    let all = eval.len();
    let most = 2 * places.count > all;
    let mut finding = places.finding(Check::Leakage, |count| {
        format!(
            "{count} of {all} evaluation rows are training rows too, so that the evaluation says less than it seems to; \
             take them out of either"
        )
    })?;
    finding.fatal &= most;
    Some(finding)
}

fn shared_prompts(train: &Dataset, eval: &Dataset) -> Option<Finding> {
    let learned = learned(train);
    let asked: HashSet<_> = train.entries.iter().filter_map(|entry| entry.prompt).collect();
    let mut places = Places::default();
    for entry in &eval.entries {
        let shared = entry.prompt.is_some_and(|prompt| asked.contains(&prompt));
        if shared && !learned.contains(&entry.whole) {
            places.add(&entry.place);
        }
    }
    let all = eval.len();
    places.finding(Check::SharedPrompts, |count| {
        format!("the questions of {count} of {all} evaluation rows are learned with other answers")
    })
}

fn unknown_tokens(encoder: &Encoder, sides: &[&Dataset]) -> Option<Finding> {
    let unknown = encoder.special.named("unk_token")?;
    let (mut places, mut tokens) = (Places::default(), 0);
    for note in notes(sides) {
        if let What::Unknown(here) = note.what {
            tokens += here as usize;
            places.add(&note.place);
        }
    }
    places.finding(Check::UnknownTokens, |count| {
        format!(
            "{tokens} tokens of {count} rows are {}: the vocabulary cannot spell the text there",
            unknown.text
        )
    })
}

/// A special token that somebody says acts as one: a conversation about templates ends in the middle.
fn special_text(encoder: &Encoder, sides: &[&Dataset]) -> Option<Finding> {
    let mut places = Places::default();
    for Note { place, what, .. } in notes(sides) {
        if let What::Special { message, token } = what {
            let token = &encoder.special_texts()[*token as usize];
            places.add_text(|| format!("{place}: messages[{message}] has {token}"));
        }
    }
    places.finding(Check::SpecialText, |count| {
        format!("special tokens are written in the messages of {count} rows, and act as such")
    })
}

fn overlength(sides: &[&Dataset]) -> Option<Finding> {
    let mut places = Places::default();
    let mut all = 0;
    for side in sides {
        all += side.len() + side.dropped();
        let dropped = side.notes.iter().filter(|note| note.what == What::Dropped);
        let cut = side.entries.iter().filter(|entry| entry.marks.cut);
        let cut = cut.map(|entry| &entry.place);
        dropped.map(|note| &note.place).chain(cut).for_each(|place| places.add(place));
    }
    places.finding(Check::Overlength, |count| {
        let share = 100.0 * count as f64 / all.max(1) as f64;
        format!(
            "{count} of {all} rows ({share:.1} %) are longer than allowed and were cut or dropped"
        )
    })
}

/// Below this share of trained tokens most of the work is for nothing.
const LITTLE: f64 = 0.02;

fn little_trained(train: &Dataset) -> Option<Finding> {
    let stats = train.stats();
    let share = stats.trained_tokens as f64 / stats.tokens.max(1) as f64;
    let mut places = Places::default();
    if stats.rows > 0 && share < LITTLE {
        places.count = 1;
    }
    places.finding(Check::LittleTrained, |_| {
        format!("only {:.2} % of the training tokens are learned from", 100.0 * share)
    })
}
