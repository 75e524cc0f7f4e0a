//! Decoding while tokens arrive.

use super::Tokenizer;
use crate::{Error, Result};

/// Turns ids into text piece by piece; a character whose bytes are spread over tokens comes when it is whole.
///
/// The pieces and the end joined are what decoding all ids at once gives.
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special_tokens: bool,
    stream: TokenStream<'a>,
    ids: Vec<u32>,
    text: String,
}

type TokenStream<'a> = tokenizers::DecodeStream<
    'a,
    tokenizers::ModelWrapper,
    tokenizers::NormalizerWrapper,
    tokenizers::PreTokenizerWrapper,
    tokenizers::PostProcessorWrapper,
    tokenizers::DecoderWrapper,
>;

impl<'a> DecodeStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, skip_special_tokens: bool) -> Self {
        let stream = tokenizer.inner.decode_stream(skip_special_tokens);
        Self { tokenizer, skip_special_tokens, stream, ids: Vec::new(), text: String::new() }
    }

    /// The text that `id` completes; empty while a character is unfinished.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the tokenizer's decoder refuses the ids.
    pub fn step(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let piece = self.stream.step(id).map_err(Error::tokenizer)?.unwrap_or_default();
        self.text.push_str(&piece);
        Ok(piece)
    }

    /// What is left at the end: a character cut off in its middle, shown as `U+FFFD`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the tokenizer's decoder refuses the ids.
    pub fn finish(self) -> Result<String> {
        let whole = self.tokenizer.decode(&self.ids, self.skip_special_tokens)?;
        Ok(whole.strip_prefix(&self.text).unwrap_or_default().to_owned())
    }
}
