//! The tokenizer of a checkpoint with what belongs to it: special tokens, chat template, and its files.

mod byte_level;
mod from_dir;
mod from_gguf;
mod save;
mod sentencepiece;
mod special;
mod stream;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde_json::{Map, Value};

use crate::{
    Error, Result,
    gguf::{self, GgufFile},
};

pub use special::{SpecialToken, SpecialTokens};
pub use stream::DecodeStream;

/// A [`tokenizers::Tokenizer`] with its special tokens and chat template.
///
/// What `tokenizer.json` says is what is done: its post-processor alone decides about added begin and end tokens,
/// and truncation and padding are switched off.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: SpecialTokens,
    eos_token_ids: Vec<u32>,
    chat_template: Option<String>,
    /// Fields of `tokenizer_config.json` that are kept when it is written again.
    config: Map<String, Value>,
    warnings: Vec<String>,
}

impl Tokenizer {
    /// Opens the tokenizer of a model: of a Hugging Face directory, or rebuilt from a GGUF file (or a directory whose
    /// only model is one).
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Format`] or [`Error::Field`], with the file and what to do.
    pub fn open(path: &Path) -> Result<Self> {
        match gguf::find(path)? {
            Some(file) => Self::from_gguf(&GgufFile::open(&file)?),
            None => Self::from_dir(path),
        }
    }

    fn new(
        mut inner: tokenizers::Tokenizer,
        special: SpecialTokens,
        config: Map<String, Value>,
    ) -> Result<Self> {
        // A silently truncated text would be trained on as if it were whole.
        inner.with_truncation(None).map_err(Error::tokenizer)?;
        inner.with_padding(None);
        special.mark(&mut inner)?;
        let eos_token_ids = special.eos.iter().map(|token| token.id).collect();
        Ok(Self {
            inner,
            special,
            eos_token_ids,
            chat_template: None,
            config,
            warnings: Vec::new(),
        })
    }

    /// The tokenizer itself.
    pub fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }

    /// The special tokens that the files name.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special
    }

    /// Tokens that end a generation; the end-of-sequence token first.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.eos_token_ids
    }

    /// The Jinja source of the default chat template.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// Replaces it; [`save`](Self::save) writes the new one.
    pub fn set_chat_template(&mut self, source: String) {
        self.chat_template = Some(source);
    }

    /// Settings that are not followed, one sentence each; show them to the user.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether encoding with special tokens puts the begin token in front.
    pub fn adds_bos_token(&self) -> bool {
        let ids = self.encode("a", true).unwrap_or_default();
        self.special.bos.as_ref().is_some_and(|bos| ids.first() == Some(&bos.id))
    }

    /// Whether encoding with special tokens puts the end token behind.
    pub fn adds_eos_token(&self) -> bool {
        let ids = self.encode("a", true).unwrap_or_default();
        self.special.eos.as_ref().is_some_and(|eos| ids.last() == Some(&eos.id))
    }

    /// Number of token ids: one more than the largest.
    pub fn vocab_size(&self) -> usize {
        let largest = self.inner.get_vocab(true).into_values().max();
        largest.map_or(0, |id| id as usize + 1)
    }

    /// Token ids of a text. Special tokens written in the text are always recognised; `add_special_tokens` is about
    /// those the tokenizer adds itself.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the tokenizer has no token for a piece of the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding =
            self.inner.encode_fast(text, add_special_tokens).map_err(Error::tokenizer)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of token ids.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the tokenizer's decoder refuses them.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        self.inner.decode(ids, skip_special_tokens).map_err(Error::tokenizer)
    }

    /// Decodes ids one after the other, as generation produces them.
    pub fn decode_stream(&self, skip_special_tokens: bool) -> DecodeStream<'_> {
        DecodeStream::new(self, skip_special_tokens)
    }
}
