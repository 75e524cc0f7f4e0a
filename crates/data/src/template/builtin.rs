//! Chat templates for base models that bring none.
//!
//! Each is written after the public prompt format that its name tells, marks answers with `{% generation %}` and
//! begins with what its family begins with. They refuse what they cannot show.

use tokenizers::Tokenizer;

use crate::error::TemplateError;

/// A chat template of this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Builtin {
    /// How a recipe calls it.
    pub name: &'static str,
    /// Jinja.
    pub source: &'static str,
    /// Tokens that it writes and that only a vocabulary that has them can learn as one.
    pub tokens: &'static [&'static str],
}

macro_rules! builtin {
    ($name:literal, $tokens:expr) => {
        Builtin { name: $name, source: include_str!(concat!($name, ".jinja")), tokens: $tokens }
    };
}

impl Builtin {
    /// All of them.
    pub const ALL: [Self; 8] = [
        builtin!("chatml", &["<|im_start|>", "<|im_end|>"]),
        builtin!("llama-2", &[]),
        builtin!("llama-3", &["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]),
        builtin!("mistral", &[]),
        builtin!("gemma", &["<start_of_turn>", "<end_of_turn>"]),
        builtin!("phi", &["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]),
        builtin!("alpaca", &[]),
        builtin!("zephyr", &[]),
    ];

    /// The one with this name, if the tokenizer has its tokens.
    ///
    /// # Errors
    /// [`TemplateError::Unknown`] or [`TemplateError::NoToken`].
    pub fn named(name: &str, tokenizer: &Tokenizer) -> Result<Self, TemplateError> {
        let Some(found) = Self::ALL.into_iter().find(|builtin| builtin.name == name) else {
            let known = Self::ALL.map(|builtin| builtin.name).join(", ");
            return Err(TemplateError::Unknown { name: name.to_owned(), known });
        };
        match found.tokens.iter().find(|token| tokenizer.token_to_id(token).is_none()) {
            Some(token) => Err(TemplateError::NoToken { name: found.name, token }),
            None => Ok(found),
        }
    }
}
