//! The checks, each on its own.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::{Check, Finding, Places, Side};
use crate::encode::{Encoder, Example, IGNORE};
use crate::rows::{Content, Format, Message, Place, Preference, Row};
use crate::unseen::Unseen;

/// Trained tokens at the end of a row among which its end is looked for: templates may write spaces after it.
const TAIL: usize = 4;

pub(super) fn findings(encoder: &Encoder, train: Side<'_>, eval: Option<Side<'_>>) -> Vec<Finding> {
    let sides: Vec<Side<'_>> = std::iter::once(train).chain(eval).collect();
    let found = [
        bad_rows(&sides),
        double_bos(encoder, &sides),
        missing_end(encoder, &sides),
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

fn examples<'a>(sides: &'a [Side<'_>]) -> impl Iterator<Item = &'a Example> {
    sides.iter().flat_map(|side| &side.dataset.examples)
}

fn bad_rows(sides: &[Side<'_>]) -> Option<Finding> {
    let mut places = Places::default();
    for side in sides {
        for bad in [&side.rows.bad, &side.dataset.bad] {
            for row in &bad.first {
                places.add_text(|| format!("{}: {}", row.place, row.problem));
            }
            places.count += bad.count - bad.first.len();
        }
    }
    places.finding(Check::BadRows, |count| format!("{count} rows cannot be used"))
}

fn double_bos(encoder: &Encoder, sides: &[Side<'_>]) -> Option<Finding> {
    let bos = encoder.special.bos()?;
    let mut places = Places::default();
    for example in examples(sides) {
        if example.input_ids.starts_with(&[bos.id, bos.id]) {
            places.add(&example.place);
        }
    }
    places.finding(Check::DoubleBos, |count| {
        format!(
            "{count} rows begin with {0}{0}; take it out of the rows or of the chat template",
            bos.text
        )
    })
}

fn missing_end(encoder: &Encoder, sides: &[Side<'_>]) -> Option<Finding> {
    let ends: HashSet<u32> = encoder
        .special_texts()
        .iter()
        .filter_map(|text| encoder.tokenizer.token_to_id(text))
        .collect();
    let cut: HashSet<&Place> = sides.iter().flat_map(|side| &side.dataset.truncated).collect();
    let (mut places, mut whole) = (Places::default(), 0);
    for example in examples(sides).filter(|example| !cut.contains(&example.place)) {
        whole += 1;
        let tail = example.labels.iter().rev().skip_while(|label| **label == IGNORE).take(TAIL);
        if !tail.into_iter().any(|label| ends.contains(label)) {
            places.add(&example.place);
        }
    }
    let most = 2 * places.count > whole;
    let mut finding = places.finding(Check::MissingEnd, |count| {
        format!("{count} of {whole} rows do not end with a special token: the model does not learn to stop")
    })?;
    // Some rows may be meant to stop short, and whoever made the ids may know better; all rows of text never are.
    finding.fatal &= most && sides.iter().all(|side| side.rows.format != Format::Tokens);
    Some(finding)
}

fn hidden_tools(sides: &[Side<'_>]) -> Option<Finding> {
    let mut places = Places::default();
    for (place, part) in sides.iter().flat_map(|side| &side.dataset.unseen) {
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

fn hidden_text(sides: &[Side<'_>]) -> Option<Finding> {
    let mut places = Places::default();
    for (place, part) in sides.iter().flat_map(|side| &side.dataset.unseen) {
        if let Unseen::Words(index) = part {
            places.add_text(|| format!("{place}: messages[{index}]"));
        }
    }
    places.finding(Check::HiddenText, |count| {
        format!("the chat template leaves out or changes a message of {count} rows; look with `data show`")
    })
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Of all that is trained on.
fn whole(example: &Example) -> u64 {
    hash((&example.input_ids, &example.labels))
}

/// Of what comes before the first trained token, if there is any but a begin token.
fn prompt(example: &Example) -> Option<u64> {
    let answer = example.labels.iter().position(|label| *label != IGNORE)?;
    (answer > 1).then(|| hash(&example.input_ids[..answer]))
}

fn duplicates(train: Side<'_>) -> Option<Finding> {
    let mut first: HashMap<u64, &Place> = HashMap::new();
    let mut places = Places::default();
    for example in &train.dataset.examples {
        let earlier = *first.entry(whole(example)).or_insert(&example.place);
        if *earlier != example.place {
            places.add_text(|| format!("{} is {earlier} again", example.place));
        }
    }
    places.finding(Check::Duplicates, |count| {
        format!("{count} training rows are there before, and are learned that much more")
    })
}

fn leakage(train: Side<'_>, eval: Side<'_>) -> Option<Finding> {
    let learned: HashSet<u64> = train.dataset.examples.iter().map(whole).collect();
    let mut places = Places::default();
    for example in &eval.dataset.examples {
        if learned.contains(&whole(example)) {
            places.add(&example.place);
        }
    }
    let all = eval.dataset.examples.len();
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

fn shared_prompts(train: Side<'_>, eval: Side<'_>) -> Option<Finding> {
    let learned: HashSet<u64> = train.dataset.examples.iter().map(whole).collect();
    let asked: HashSet<u64> = train.dataset.examples.iter().filter_map(prompt).collect();
    let mut places = Places::default();
    for example in &eval.dataset.examples {
        let shared = prompt(example).is_some_and(|prompt| asked.contains(&prompt));
        if shared && !learned.contains(&whole(example)) {
            places.add(&example.place);
        }
    }
    let all = eval.dataset.examples.len();
    places.finding(Check::SharedPrompts, |count| {
        format!("the questions of {count} of {all} evaluation rows are learned with other answers")
    })
}

fn unknown_tokens(encoder: &Encoder, sides: &[Side<'_>]) -> Option<Finding> {
    let unknown = encoder.special.named("unk_token")?;
    let (mut places, mut tokens) = (Places::default(), 0);
    // Models without one name another token so.
    let named = [encoder.special.bos(), encoder.special.eos()];
    if named.into_iter().flatten().any(|token| token.id == unknown.id) {
        return None;
    }
    for example in examples(sides) {
        let here = example.input_ids.iter().filter(|id| **id == unknown.id).count();
        if here > 0 {
            tokens += here;
            places.add(&example.place);
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
fn special_text(encoder: &Encoder, sides: &[Side<'_>]) -> Option<Finding> {
    let mut places = Places::default();
    // One character alone is how a few vocabularies spell special tokens that text is full of.
    let special: Vec<&String> =
        encoder.special_texts().iter().filter(|text| text.len() > 2).collect();
    let found =
        |text: &str| special.iter().find(|special| text.contains(special.as_str())).copied();
    for row in sides.iter().flat_map(|side| &side.rows.rows) {
        let Row { place, content, .. } = row;
        let messages: &[Message] = match content {
            Content::Chat(chat) => &chat.messages,
            Content::Preference(Preference::Chat { prompt, .. }) => prompt,
            _ => &[],
        };
        let hit = messages.iter().enumerate().find_map(|(i, m)| Some((i, found(m.text())?)));
        if let Some((index, token)) = hit {
            places.add_text(|| format!("{place}: messages[{index}] has {token}"));
        }
    }
    places.finding(Check::SpecialText, |count| {
        format!("special tokens are written in the messages of {count} rows, and act as such")
    })
}

fn overlength(sides: &[Side<'_>]) -> Option<Finding> {
    let mut places = Places::default();
    let mut all = 0;
    for side in sides {
        all += side.dataset.examples.len() + side.dataset.dropped.len();
        side.dataset
            .dropped
            .iter()
            .chain(&side.dataset.truncated)
            .for_each(|place| places.add(place));
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

fn little_trained(train: Side<'_>) -> Option<Finding> {
    let stats = train.dataset.stats();
    let share = stats.trained_tokens as f64 / stats.tokens.max(1) as f64;
    let mut places = Places::default();
    if stats.rows > 0 && share < LITTLE {
        places.count = 1;
    }
    places.finding(Check::LittleTrained, |_| {
        format!("only {:.2} % of the training tokens are learned from", 100.0 * share)
    })
}
