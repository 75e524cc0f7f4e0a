//! Rows -> token ids and loss labels.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use tokenizers::Tokenizer;

use crate::continuation::continuing;
use crate::dataset::Dataset;
use crate::error::{Error, Limit, Problem, Result, TemplateError};
use crate::length::{self, Fitted, Overlength};
use crate::rows::{Chat, Completion, Content, Message, Role, Row, Rows, Tokens};
use crate::spans::{self, Answer, Located};
use crate::special::SpecialTokens;
use crate::template::ChatTemplate;

/// The label of a position that the loss skips.
pub const IGNORE: u32 = u32::MAX;

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

/// How rows are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodeOptions {
    /// For `prompt`/`completion` rows.
    pub prompt_format: PromptFormat,
    /// The longest row in tokens; the model's context when absent.
    pub max_seq_len: Option<usize>,
    /// The model's context, in tokens.
    pub context: usize,
    /// For rows above the limit.
    pub overlength: Overlength,
    /// Whether rows are packed into bins of the limit.
    pub packing: bool,
}

/// One encoded row. Never padded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Token ids, at least two.
    pub input_ids: Vec<u32>,
    /// One entry per id, not shifted: the id where it is to be learned, [`IGNORE`] elsewhere.
    pub labels: Vec<u32>,
    /// The row's line in its file, counted from 1.
    pub line: usize,
}

impl Example {
    /// Tokens the loss covers. The first token is never predicted.
    pub fn trained_tokens(&self) -> usize {
        self.labels.iter().skip(1).filter(|label| **label != IGNORE).count()
    }
}

/// A prompt for generation and the answer it should get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerationCase {
    /// Everything before the answer, with the generation prompt.
    pub prompt_ids: Vec<u32>,
    /// The last thing said before the answer, for display.
    pub prompt: String,
    /// The answer of the row.
    pub expected: String,
    /// The row's line in its file, counted from 1.
    pub line: usize,
}

/// Turns rows into token ids with a model's tokenizer and template.
pub struct Encoder {
    tokenizer: Tokenizer,
    /// For text that goes on from other text; made when a row first has such text.
    continuing: OnceLock<Tokenizer>,
    special: SpecialTokens,
    template: Option<ChatTemplate>,
    ends: Vec<String>,
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
        Self { tokenizer, continuing: OnceLock::new(), special, template, ends }
    }

    /// The special token that closes an answer in the model's chat template, which training teaches. It need not be
    /// `eos_token`. `None` without a template, or when the template closes answers with no special token.
    pub fn turn_end(&self) -> Option<u32> {
        let Located { text, answers } =
            self.locate(&[user("question"), assistant("answer")]).ok()?;
        let Answer { span, end } = answers.last()?;
        self.tokenizer.token_to_id(&text[span.end - (*end)?..span.end])
    }

    /// Encodes every row, in order.
    ///
    /// # Errors
    /// The first row that cannot be used; see [`Problem`].
    pub fn encode(&self, rows: &Rows, options: &EncodeOptions) -> Result<Dataset> {
        let limit = length::limit(options)?;
        let packing = options.packing.then_some(limit.tokens());
        let mut dataset = Dataset { packing, ..Dataset::default() };
        for row in &rows.rows {
            let fail = Error::row(&rows.path, row.line);
            match self.example(row, options, limit) {
                Ok(Fitted::Whole(example)) => dataset.examples.push(example),
                Ok(Fitted::Cut(example)) => {
                    dataset.truncated += 1;
                    dataset.examples.push(example);
                }
                Ok(Fitted::Dropped) => dataset.dropped += 1,
                Err(problem) => return Err(fail(problem)),
            }
        }
        if dataset.examples.is_empty() {
            let message =
                format!("every row of {} is longer than {limit}; raise it", rows.path.display());
            return Err(Error::Setting { name: "max_seq_len", message });
        }
        Ok(dataset)
    }

    /// The prompt and the expected answer of every row.
    ///
    /// # Errors
    /// The first row without an answer; see [`Problem`].
    pub fn generation_cases(
        &self,
        rows: &Rows,
        prompt_format: PromptFormat,
    ) -> Result<Vec<GenerationCase>> {
        let case = |row: &Row| {
            self.generation_case(row, prompt_format).map_err(Error::row(&rows.path, row.line))
        };
        rows.rows.iter().map(case).collect()
    }

    /// Token ids of a conversation that the model is to continue.
    pub fn prompt_ids(&self, messages: &[Message]) -> Result<Vec<u32>, Problem> {
        let text = self.template()?.render(messages, true)?;
        Ok(tokenize(&self.tokenizer, &text)?.ids)
    }

    /// Token ids of a plain text that the model is to continue.
    ///
    /// It begins with `bos_token` once when the tokenizer adds one, also when the text has one already.
    pub fn text_ids(&self, text: &str) -> Result<Vec<u32>, Problem> {
        let mut ids = tokenize(&self.tokenizer, text)?.ids;
        if let Some(bos) =
            self.special.bos().filter(|bos| self.special.add_bos() && ids.first() != Some(&bos.id))
        {
            ids.insert(0, bos.id);
        }
        Ok(ids)
    }

    fn generation_case(
        &self,
        row: &Row,
        prompt_format: PromptFormat,
    ) -> Result<GenerationCase, Problem> {
        let case = |prompt_ids, prompt: &str, expected: &str| GenerationCase {
            prompt_ids,
            prompt: prompt.to_owned(),
            expected: expected.to_owned(),
            line: row.line,
        };
        match &row.content {
            Content::Chat(chat) => {
                let Some((last, before)) =
                    chat.messages.split_last().filter(|(last, _)| last.role == Role::Assistant)
                else {
                    return Err(Problem::NoAnswer(
                        "the conversation does not end with an assistant message",
                    ));
                };
                let prompt = before.last().map_or("", |message| &message.content);
                let expected = self.expected_answer(&chat.messages, last)?;
                Ok(case(self.prompt_ids(before)?, prompt, &expected))
            }
            Content::Completion(Completion { prompt, completion }) => {
                let prompt_ids = match prompt_format {
                    PromptFormat::Plain => self.text_ids(prompt)?,
                    PromptFormat::Chat => self.prompt_ids(&[user(prompt)])?,
                };
                Ok(case(prompt_ids, prompt, completion))
            }
            Content::Tokens(_) => {
                Err(Problem::NoAnswer("pre-tokenised rows do not tell prompt and answer apart"))
            }
        }
    }

    /// The last answer as the template writes it, which is what training teaches (Qwen3 puts an empty `<think>` block
    /// before it); as the row has it where it is not learned.
    fn expected_answer(&self, messages: &[Message], last: &Message) -> Result<String, Problem> {
        if !last.is_trained() {
            return Ok(last.content.clone());
        }
        let Located { text, answers } = self.locate(messages)?;
        let Some(Answer { span, end }) = answers.last() else { return Ok(last.content.clone()) };
        Ok(text[span.start..span.end - end.unwrap_or(0)].to_owned())
    }

    fn locate(&self, messages: &[Message]) -> Result<Located, Problem> {
        spans::locate(self.template()?, messages, &self.ends)
    }

    fn example(&self, row: &Row, options: &EncodeOptions, limit: Limit) -> Result<Fitted, Problem> {
        let (input_ids, labels) = match &row.content {
            Content::Chat(chat) => self.chat(chat)?,
            Content::Completion(Completion { prompt, completion }) => match options.prompt_format {
                PromptFormat::Plain => self.completion(prompt, completion)?,
                PromptFormat::Chat => {
                    self.chat(&Chat { messages: vec![user(prompt), assistant(completion)] })?
                }
            },
            Content::Tokens(tokens) => self.tokens(tokens)?,
        };
        let example = Example { input_ids, labels, line: row.line };
        if example.trained_tokens() == 0 {
            let reason =
                "the row has no assistant message, completion or label to learn from".to_owned();
            return Err(Problem::AllMasked { reason });
        }
        length::fit(example, limit, options.overlength)
    }

    fn chat(&self, chat: &Chat) -> Result<(Vec<u32>, Vec<u32>), Problem> {
        let located = self.locate(&chat.messages)?;
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
        Ok((ids, labels))
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
        let mut answer = tokenize(tokenizer, completion)?.ids;
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

fn user(content: &str) -> Message {
    Message { role: Role::User, content: content.to_owned(), train: None }
}

fn assistant(content: &str) -> Message {
    Message { role: Role::Assistant, content: content.to_owned(), train: None }
}
