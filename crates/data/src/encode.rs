//! Rows -> token ids and loss labels.

use std::sync::OnceLock;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tokenizers::Tokenizer;

use crate::continuation::continuing;
use crate::dataset::{Collector, Dataset, Sink, Store};
use crate::error::{Problem, Result, TemplateError};
use crate::length::{self, Overlength};
use crate::rows::{Chat, Completion, Content, Head, Message, Place, Role, Rows, Tokens};
use crate::spans::{self, Answer, Located};
use crate::special::SpecialTokens;
use crate::template::ChatTemplate;
use crate::unseen::{Unseen, unseen};

/// The label of a position that the loss skips.
pub const IGNORE: u32 = u32::MAX;

/// Rows that are encoded at a time.
pub(crate) const CHUNK: usize = 2048;

/// How `prompt`/`completion` rows become text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PromptFormat {
    /// As written: prompt, completion, end of text.
    #[default]
    Plain,
    /// As a user turn and an assistant turn of the model's chat template.
    Chat,
}

/// What the loss covers. The token that ends an answer is always part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrainOn {
    /// Every assistant turn; of prompt and completion, the completion.
    #[default]
    Answers,
    /// The last assistant turn alone.
    LastAnswer,
    /// Every token, those of questions too.
    Everything,
}

/// How rows are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodeOptions {
    /// For `prompt`/`completion` rows.
    pub prompt_format: PromptFormat,
    /// What the loss covers in rows that do not say it by labels.
    pub train_on: TrainOn,
    /// The longest row in tokens; the model's context when absent.
    pub max_seq_len: Option<usize>,
    /// The model's context, in tokens.
    pub context: usize,
    /// For rows above the limit.
    pub overlength: Overlength,
    /// Whether rows are packed into bins of the limit.
    pub packing: bool,
}

impl EncodeOptions {
    /// Every row as it is, for a model with this context.
    pub fn whole(context: usize) -> Self {
        Self {
            prompt_format: PromptFormat::default(),
            train_on: TrainOn::default(),
            max_seq_len: None,
            context,
            overlength: Overlength::default(),
            packing: false,
        }
    }
}

/// One encoded row. Never padded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Token ids, at least two.
    pub input_ids: Vec<u32>,
    /// One entry per id, not shifted: the id where it is to be learned, [`IGNORE`] elsewhere.
    pub labels: Vec<u32>,
    /// Where the row is from.
    pub place: Place,
}

impl Example {
    /// Tokens the loss covers. The first token is never predicted.
    pub fn trained_tokens(&self) -> usize {
        self.labels.iter().skip(1).filter(|label| **label != IGNORE).count()
    }
}

/// Turns rows into token ids with a model's tokenizer and template.
pub struct Encoder {
    pub(crate) tokenizer: Tokenizer,
    /// For text that goes on from other text; made when a row first has such text.
    continuing: OnceLock<Tokenizer>,
    pub(crate) special: SpecialTokens,
    pub(crate) template: Option<ChatTemplate>,
    ends: Vec<String>,
    /// The ids of `ends`.
    pub(crate) end_ids: Vec<u32>,
}

impl Encoder {
    /// An encoder for one model.
    ///
    /// The tokenizer is copied without its post-processor: that would add special tokens (here they are added by
    /// position) and trim the offsets that the loss mask is made from. Its own truncation and padding are off too.
    pub fn new(
        tokenizer: &Tokenizer,
        special: SpecialTokens,
        template: Option<ChatTemplate>,
    ) -> Self {
        let mut ends: Vec<String> = tokenizer
            .get_added_tokens_decoder()
            .into_values()
            .filter(|token| token.special && !token.content.is_empty())
            .map(|token| token.content)
            .collect();
        ends.extend(special.eos().map(|eos| eos.text.clone()));
        ends.sort();
        ends.dedup();
        let mut tokenizer = tokenizer.clone();
        tokenizer.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).expect("switching truncation off cannot fail");
        let end_ids = ends.iter().filter_map(|text| tokenizer.token_to_id(text)).collect();
        Self { tokenizer, continuing: OnceLock::new(), special, template, ends, end_ids }
    }

    /// The special token that closes an answer in the model's chat template, which training teaches. It need not be
    /// `eos_token`. `None` without a template, or when the template closes answers with no special token.
    pub fn turn_end(&self) -> Option<u32> {
        let chat = exchange("question", "answer");
        let Located { text, answers } = self.locate(&chat, TrainOn::Answers).ok()?;
        let Answer { span, end } = answers.last()?;
        self.tokenizer.token_to_id(&text[span.end - (*end)?..span.end])
    }

    /// The texts of the tokenizer's special tokens, any of which can close an answer.
    pub fn special_texts(&self) -> &[String] {
        &self.ends
    }

    /// Encodes every row, in order, on all threads. Rows that cannot be used are in the data set's `bad`; those that
    /// could not be read stay with `rows`.
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) when no row is left.
    pub fn encode(&self, rows: &Rows, options: &EncodeOptions) -> Result<Dataset> {
        let limit = length::limit(options)?;
        let mut collector = Collector::new(Sink::Memory(Vec::new()));
        for rows in rows.rows.chunks(CHUNK) {
            let rows = rows.par_iter().with_min_len(16);
            let coded: Vec<_> = rows.map(|row| self.code(row, options, limit, None)).collect();
            coded.into_iter().try_for_each(|coded| collector.add(Ok(coded)))?;
        }
        let (all, sink) = collector.finish();
        let store = match sink {
            Sink::Memory(bytes) => Store::Memory(bytes),
            Sink::File(_) => unreachable!("it was made as memory"),
        };
        let head = Head { path: rows.path.clone(), format: rows.format, left_out: rows.left_out };
        let (dataset, _) = all.dataset(store, head, options.packing.then_some(limit.tokens()));
        dataset.some(limit)
    }

    /// Token ids of a conversation that the model is to continue.
    pub fn prompt_ids(&self, chat: &Chat) -> Result<Vec<u32>, Problem> {
        let text = self.template()?.render(&chat.messages, &chat.tools, true)?;
        ids_of(&self.tokenizer, &text)
    }

    /// Token ids of a plain text that the model is to continue.
    ///
    /// It begins with `bos_token` once when the tokenizer adds one, also when the text has one already.
    pub fn text_ids(&self, text: &str) -> Result<Vec<u32>, Problem> {
        let mut ids = ids_of(&self.tokenizer, text)?;
        if let Some(bos) =
            self.special.bos().filter(|bos| self.special.add_bos() && ids.first() != Some(&bos.id))
        {
            ids.insert(0, bos.id);
        }
        Ok(ids)
    }

    pub(crate) fn locate(&self, chat: &Chat, train_on: TrainOn) -> Result<Located, Problem> {
        spans::locate(self.template()?, chat, &self.ends, train_on)
    }

    /// Ids and labels of a row as it is, and what of it the template does not show.
    pub(crate) fn tokens_of(
        &self,
        content: &Content,
        options: &EncodeOptions,
    ) -> Result<EncodedChat, Problem> {
        let train_on = options.train_on;
        let shown = |(ids, labels)| (ids, labels, None);
        let (ids, mut labels, unseen) = match content {
            Content::Chat(turns) => self.chat(turns, train_on)?,
            Content::Completion(Completion { prompt, completion }) => match options.prompt_format {
                PromptFormat::Plain => shown(self.completion(prompt, completion)?),
                PromptFormat::Chat => self.chat(&exchange(prompt, completion), train_on)?,
            },
            Content::Text(text) => shown(self.completion("", text)?),
            Content::Tokens(tokens) => shown(self.tokens(tokens)?),
            Content::Preference(_) => return Err(Problem::Preference),
        };
        if train_on == TrainOn::Everything && !matches!(content, Content::Tokens(_)) {
            labels.clone_from(&ids);
        }
        Ok((ids, labels, unseen))
    }

    fn chat(&self, chat: &Chat, train_on: TrainOn) -> Result<EncodedChat, Problem> {
        let located = self.locate(chat, train_on)?;
        let Tokenized { mut ids, offsets } = tokenize(&self.tokenizer, &located.text)?;
        let mut labels = vec![IGNORE; ids.len()];
        // From the last answer to the first, so that an added end moves no token that is still to be visited.
        for Answer { span, end } in located.answers.iter().rev() {
            // A token is learned when it holds any part of an answer: one that also holds the end of the prompt
            // (" Yes" after "Answer:") would otherwise leave the answer's first word out.
            for (index, &(start, end)) in offsets.iter().enumerate() {
                if start < span.end && end > span.start {
                    labels[index] = ids[index];
                }
            }
            if end.is_none() {
                let eos = self.special.eos().ok_or(Problem::NoEnd)?.id;
                let after = offsets.partition_point(|(start, _)| *start < span.end);
                ids.insert(after, eos);
                labels.insert(after, eos);
            }
        }
        Ok((ids, labels, unseen(chat, &located.text)))
    }

    /// Prompt and completion are tokenised apart, so that the boundary is exact and the prompt reads as it will when
    /// the model is asked to continue it. A row ends with one `eos_token`, which is learned.
    fn completion(&self, prompt: &str, completion: &str) -> Result<(Vec<u32>, Vec<u32>), Problem> {
        let mut ids = self.text_ids(prompt)?;
        let mut labels = vec![IGNORE; ids.len()];
        let tokenizer = if prompt.is_empty() {
            &self.tokenizer
        } else {
            self.continuing.get_or_init(|| continuing(&self.tokenizer))
        };
        let mut answer = ids_of(tokenizer, completion)?;
        // A text that brings its own begin token does not get a second one.
        if prompt.is_empty() && !ids.is_empty() && answer.first() == ids.first() {
            answer.remove(0);
        }
        let eos = self.special.eos().ok_or(Problem::NoEnd)?.id;
        if answer.last() != Some(&eos) {
            answer.push(eos);
        }
        labels.extend(&answer);
        ids.extend(answer);
        Ok((ids, labels))
    }

    fn tokens(&self, tokens: &Tokens) -> Result<(Vec<u32>, Vec<u32>), Problem> {
        let vocabulary = self.tokenizer.get_vocab_size(true);
        let check = |field: &str, index: usize, id: u32| {
            if (id as usize) < vocabulary {
                return Ok(id);
            }
            let message =
                format!("token id {id} is outside the tokenizer's vocabulary of {vocabulary}");
            Err(Problem::field(format!("{field}[{index}]"), message))
        };
        let ids =
            tokens.input_ids.iter().enumerate().map(|(index, id)| check("input_ids", index, *id));
        let ids: Vec<u32> = ids.collect::<Result<_, _>>()?;
        let Some(labels) = &tokens.labels else {
            return Ok((ids.clone(), ids));
        };
        let labels = labels.iter().enumerate().map(|(index, label)| match label {
            Some(id) => check("labels", index, *id),
            None => Ok(IGNORE),
        });
        Ok((ids, labels.collect::<Result<_, _>>()?))
    }

    fn template(&self) -> Result<&ChatTemplate, TemplateError> {
        self.template.as_ref().ok_or(TemplateError::Missing)
    }
}

/// Ids and labels of a conversation, and what of it the template does not show.
pub(crate) type EncodedChat = (Vec<u32>, Vec<u32>, Option<Unseen>);

struct Tokenized {
    ids: Vec<u32>,
    /// Byte ranges in the text.
    offsets: Vec<(usize, usize)>,
}

fn tokenize(tokenizer: &Tokenizer, text: &str) -> Result<Tokenized, Problem> {
    let encoding =
        tokenizer.encode(text, false).map_err(|error| Problem::Tokenizer(error.to_string()))?;
    Ok(Tokenized { ids: encoding.get_ids().to_vec(), offsets: encoding.get_offsets().to_vec() })
}

/// Ids alone, which take less time.
fn ids_of(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, Problem> {
    let encoding = tokenizer.encode_fast(text, false);
    let encoding = encoding.map_err(|error| Problem::Tokenizer(error.to_string()))?;
    Ok(encoding.get_ids().to_vec())
}

/// A question and its answer.
pub(crate) fn exchange(question: &str, answer: &str) -> Chat {
    vec![Message::new(Role::User, question), Message::new(Role::Assistant, answer)].into()
}
