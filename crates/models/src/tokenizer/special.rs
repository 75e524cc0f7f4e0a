//! The special tokens with a role.

use tokenizers::AddedToken;

use crate::{Error, Result};

/// A special token: its text and its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecialToken {
    /// As the vocabulary spells it.
    pub content: String,
    /// Its id.
    pub id: u32,
}

/// The special tokens that a checkpoint names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begins a text.
    pub bos: Option<SpecialToken>,
    /// Ends a text or a turn.
    pub eos: Option<SpecialToken>,
    /// Fills batches.
    pub pad: Option<SpecialToken>,
    /// Stands for what the vocabulary cannot spell.
    pub unk: Option<SpecialToken>,
}

impl SpecialTokens {
    /// The tokens that are there, by their names in `tokenizer_config.json` (`"bos_token"`).
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &SpecialToken)> {
        [
            ("bos_token", &self.bos),
            ("eos_token", &self.eos),
            ("pad_token", &self.pad),
            ("unk_token", &self.unk),
        ]
        .into_iter()
        .filter_map(|(name, token)| Some((name, token.as_ref()?)))
    }

    /// Makes the tokenizer treat these tokens as special where its own files do not, as transformers does.
    pub(super) fn mark(&self, tokenizer: &mut tokenizers::Tokenizer) -> Result<()> {
        let added = tokenizer.get_added_tokens_decoder();
        let unmarked: Vec<_> = self
            .named()
            .filter_map(|(_, token)| match added.get(&token.id) {
                Some(known) if known.special => None,
                Some(known) => Some(known.clone().special(true)),
                None => Some(AddedToken::from(token.content.clone(), true)),
            })
            .collect();
        tokenizer.add_special_tokens(unmarked).map_err(Error::tokenizer)?;
        Ok(())
    }
}
