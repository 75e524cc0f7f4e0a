//! Tokenising text that goes on from other text.

use tokenizers::normalizers::Sequence as Normalizers;
use tokenizers::pre_tokenizers::metaspace::PrependScheme;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, Tokenizer};

/// A copy that does not put a space before the text. `SentencePiece` tokenizers (Llama 2, Mistral) do so for the first
/// word of a text, which the middle of one does not have.
pub(crate) fn continuing(tokenizer: &Tokenizer) -> Tokenizer {
    let mut copy = tokenizer.clone();
    let normalizer = copy.get_normalizer().cloned().and_then(without_prepended);
    copy.with_normalizer(normalizer).expect("the added tokens are those of the original");
    let pre_tokenizer = copy.get_pre_tokenizer().cloned().map(without_space);
    copy.with_pre_tokenizer(pre_tokenizer);
    copy
}

fn without_prepended(normalizer: NormalizerWrapper) -> Option<NormalizerWrapper> {
    match normalizer {
        NormalizerWrapper::Prepend(_) => None,
        NormalizerWrapper::Sequence(parts) => {
            let parts = parts.as_ref().iter().cloned().filter_map(without_prepended);
            Some(Normalizers::new(parts.collect()).into())
        }
        other => Some(other),
    }
}

fn without_space(pre_tokenizer: PreTokenizerWrapper) -> PreTokenizerWrapper {
    match pre_tokenizer {
        PreTokenizerWrapper::Metaspace(mut metaspace) => {
            metaspace.set_prepend_scheme(PrependScheme::Never);
            metaspace.into()
        }
        PreTokenizerWrapper::ByteLevel(byte_level) => byte_level.add_prefix_space(false).into(),
        PreTokenizerWrapper::Sequence(parts) => {
            let parts = parts.as_ref().iter().cloned().map(without_space);
            PreTokenizers::new(parts.collect()).into()
        }
        other => other,
    }
}
