//! The special tokens a tokenizer's configuration names.

use std::collections::BTreeMap;

use minijinja::value::Value;
use tokenizers::Tokenizer;

use crate::error::{Error, Result};

/// A special token: its text and its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecialToken {
    /// As the tokenizer's vocabulary spells it.
    pub text: String,
    /// Its id there.
    pub id: u32,
}

/// Special tokens by their names in `tokenizer_config.json` (`bos_token`, `eos_token`, `pad_token`...).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    named: BTreeMap<String, SpecialToken>,
    add_bos: bool,
}

impl SpecialTokens {
    /// Looks up the ids of `(name, text)` pairs, and whether the tokenizer itself puts `bos_token` before a text.
    ///
    /// # Errors
    /// [`Error::Setting`] when the tokenizer has no such token.
    pub fn new<'a>(
        tokenizer: &Tokenizer,
        named: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self> {
        let named = named.into_iter().map(|(name, text)| match tokenizer.token_to_id(text) {
            Some(id) => Ok((name.to_owned(), SpecialToken { text: text.to_owned(), id })),
            None => Err(Error::Setting {
                name: "tokenizer",
                message: format!(
                    "{name} is \"{text}\", which is not in the tokenizer's vocabulary"
                ),
            }),
        });
        let named: BTreeMap<String, SpecialToken> = named.collect::<Result<_>>()?;
        let first = tokenizer
            .encode_fast("a", true)
            .ok()
            .and_then(|encoding| encoding.get_ids().first().copied());
        let add_bos = first.is_some() && first == named.get("bos_token").map(|bos| bos.id);
        Ok(Self { named, add_bos })
    }

    /// Overrides whether [`Self::bos`] is put before plain text (GGUF's `tokenizer.ggml.add_bos_token`).
    #[must_use]
    pub fn with_add_bos(mut self, add_bos: bool) -> Self {
        self.add_bos = add_bos;
        self
    }

    /// The token with this name, e.g. `unk_token`.
    pub fn named(&self, name: &str) -> Option<&SpecialToken> {
        self.named.get(name)
    }

    /// `bos_token`.
    pub fn bos(&self) -> Option<&SpecialToken> {
        self.named.get("bos_token")
    }

    /// `eos_token`.
    pub fn eos(&self) -> Option<&SpecialToken> {
        self.named.get("eos_token")
    }

    /// Whether plain text (not a rendered chat) begins with [`Self::bos`].
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    pub(crate) fn variables(&self) -> Value {
        Value::from_pairs(
            self.named.iter().map(|(name, token)| (name.as_str(), token.text.as_str())),
        )
    }
}
