//! Decoding while tokens arrive.

use super::Tokenizer;
use crate::Result;

/// What decoders write for bytes that are not a character, or not yet.
const REPLACEMENT: char = '\u{fffd}';

/// Turns ids into text piece by piece; a character whose bytes are spread over tokens comes when it is whole.
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special_tokens: bool,
    ids: Vec<u32>,
    /// Ids from here on are decoded again: what one token says can depend on the one before it.
    context: usize,
    /// Ids before this one have been handed out.
    done: usize,
}

impl<'a> DecodeStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, skip_special_tokens: bool) -> Self {
        Self { tokenizer, skip_special_tokens, ids: Vec::new(), context: 0, done: 0 }
    }

    /// The text that `id` completes; empty while a character is unfinished.
    ///
    /// # Errors
    /// [`Error::Tokenizer`](crate::Error::Tokenizer) when the tokenizer's decoder refuses the ids.
    pub fn step(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let (known, text) = self.window()?;
        if text.ends_with(REPLACEMENT) || text.len() <= known.len() {
            return Ok(String::new());
        }
        self.context = self.done;
        self.done = self.ids.len();
        Ok(text[shared_prefix(&known, &text)..].to_owned())
    }

    /// What is left at the end: a character cut off in its middle, shown as `U+FFFD`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`](crate::Error::Tokenizer) when the tokenizer's decoder refuses the ids.
    pub fn finish(self) -> Result<String> {
        let (known, text) = self.window()?;
        // A byte-fallback decoder gives up the whole run of bytes for one that is cut off, also those before it.
        Ok(text.strip_prefix(&known).map_or_else(|| REPLACEMENT.to_string(), str::to_owned))
    }

    /// The text of the context, and of all from there on.
    fn window(&self) -> Result<(String, String)> {
        let decode = |ids| self.tokenizer.decode(ids, self.skip_special_tokens);
        Ok((decode(&self.ids[self.context..self.done])?, decode(&self.ids[self.context..])?))
    }
}

/// Bytes of the characters that two texts begin with in common.
fn shared_prefix(a: &str, b: &str) -> usize {
    let shared = a.chars().zip(b.chars()).take_while(|(a, b)| a == b);
    shared.map(|(c, _)| c.len_utf8()).sum()
}
