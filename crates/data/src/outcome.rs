//! What becomes of a row: its entry and its stored tokens, or why there are none, and what the preflight checks ask.

use crate::dataset::{Entry, Marks, What, content_hash};
use crate::encode::{EncodeOptions, Encoder, Example, IGNORE};
use crate::error::{Limit, Problem};
use crate::length::{self, Fitted};
use crate::rows::{Content, Message, Place, Preference, Row};
use crate::unseen::Unseen;

/// Trained tokens at the end of a row among which its end is looked for: templates may write spaces after it.
const TAIL: usize = 4;

/// What became of a row.
pub(crate) struct Coded {
    pub(crate) place: Place,
    pub(crate) key: u64,
    pub(crate) special: Option<What>,
    pub(crate) outcome: Result<Outcome, Problem>,
}

pub(crate) enum Outcome {
    Kept {
        entry: Entry,
        bytes: Vec<u8>,
        unseen: Option<Unseen>,
        /// Tokens that stand for what the vocabulary cannot spell.
        unknown: u32,
    },
    Dropped,
}

impl Encoder {
    /// A row's tokens, and what there is to tell of it. With `seed` it gets the hash by which it may be held out.
    pub(crate) fn code(
        &self,
        row: &Row,
        options: &EncodeOptions,
        limit: Limit,
        seed: Option<u64>,
    ) -> Coded {
        Coded {
            place: row.place.clone(),
            key: seed.map_or(0, |seed| content_hash(&row.content, seed)),
            special: self.special_text(&row.content),
            outcome: self.outcome(row, options, limit),
        }
    }

    fn outcome(
        &self,
        row: &Row,
        options: &EncodeOptions,
        limit: Limit,
    ) -> Result<Outcome, Problem> {
        let (input_ids, labels, unseen) = self.tokens_of(&row.content, options)?;
        let example = Example { input_ids, labels, place: row.place.clone() };
        if example.trained_tokens() == 0 {
            let reason =
                "the row has no assistant message, completion or label to learn from".to_owned();
            return Err(Problem::AllMasked { reason });
        }
        let bos = self.special.bos().map(|bos| bos.id);
        let (example, cut) = match length::fit(example, limit, options.overlength, bos)? {
            Fitted::Dropped => return Ok(Outcome::Dropped),
            Fitted::Cut(example) => (example, true),
            Fitted::Whole(example) => (example, false),
        };
        let (mut entry, bytes) = Entry::new(&example);
        entry.copies = row.copies as u32;
        entry.marks = Marks {
            cut,
            double_bos: bos.is_some_and(|bos| example.input_ids.starts_with(&[bos, bos])),
            ends: self.learns_end(&example),
        };
        Ok(Outcome::Kept { entry, bytes, unseen, unknown: self.unknown_tokens(&example) })
    }

    /// Whether a special token is learned near the end.
    fn learns_end(&self, example: &Example) -> bool {
        let labels = example.labels.iter().rev();
        let mut tail = labels.skip_while(|label| **label == IGNORE).take(TAIL);
        tail.any(|label| self.end_ids.contains(label))
    }

    /// Tokens that stand for what the vocabulary cannot spell.
    fn unknown_tokens(&self, example: &Example) -> u32 {
        let Some(unknown) = self.special.named("unk_token") else { return 0 };
        // Models without one name another token so.
        let named = [self.special.bos(), self.special.eos()];
        if named.into_iter().flatten().any(|token| token.id == unknown.id) {
            return 0;
        }
        example.input_ids.iter().filter(|id| **id == unknown.id).count() as u32
    }

    /// The first special token that somebody says.
    fn special_text(&self, content: &Content) -> Option<What> {
        let messages: &[Message] = match content {
            Content::Chat(chat) => &chat.messages,
            Content::Preference(Preference::Chat { prompt, .. }) => prompt,
            _ => &[],
        };
        // One character alone is how a few vocabularies spell special tokens that text is full of.
        let said = |text: &str| {
            let mut special = self.special_texts().iter();
            special.position(|special| special.len() > 2 && text.contains(special.as_str()))
        };
        let mut messages = messages.iter().enumerate();
        messages.find_map(|(message, it)| {
            let token = said(it.text())? as u32;
            Some(What::Special { message: message as u32, token })
        })
    }
}
