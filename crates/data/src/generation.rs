//! Prompts for generation, and the answers that they should get.

use crate::encode::{Encoder, PromptFormat, TrainOn};
use crate::error::{Error, Problem, Result};
use crate::rows::{Chat, Completion, Content, Message, Place, Role, Row, Rows};
use crate::spans::{Answer, Located};

/// A prompt for generation and the answer it should get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerationCase {
    /// Everything before the answer, with the generation prompt.
    pub prompt_ids: Vec<u32>,
    /// The last thing said before the answer, for display.
    pub prompt: String,
    /// The answer of the row.
    pub expected: String,
    /// Where the row is from.
    pub place: Place,
}

impl Encoder {
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
            self.generation_case(row, prompt_format)
                .map_err(|problem| Error::Row { place: row.place.clone(), problem })
        };
        rows.rows.iter().map(case).collect()
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
            place: row.place.clone(),
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
                let prompt = before.last().map_or("", Message::text);
                let expected = self.expected_answer(chat, last)?;
                let before = Chat { messages: before.to_vec(), tools: chat.tools.clone() };
                Ok(case(self.prompt_ids(&before)?, prompt, &expected))
            }
            Content::Completion(Completion { prompt, completion }) => {
                let prompt_ids = match prompt_format {
                    PromptFormat::Plain => self.text_ids(prompt)?,
                    PromptFormat::Chat => {
                        self.prompt_ids(&vec![Message::new(Role::User, prompt)].into())?
                    }
                };
                Ok(case(prompt_ids, prompt, completion))
            }
            Content::Text(_) => Err(Problem::NoAnswer("a text has no prompt")),
            Content::Tokens(_) => {
                Err(Problem::NoAnswer("pre-tokenised rows do not tell prompt and answer apart"))
            }
            Content::Preference(_) => Err(Problem::Preference),
        }
    }

    /// The last answer as the template writes it, which is what training teaches (Qwen3 puts an empty `<think>` block
    /// before it); as the row has it where it is not learned.
    fn expected_answer(&self, chat: &Chat, last: &Message) -> Result<String, Problem> {
        if !last.is_trained() {
            return Ok(last.text().to_owned());
        }
        let Located { text, answers } = self.locate(chat, TrainOn::LastAnswer)?;
        let Some(Answer { span, end }) = answers.last() else { return Ok(last.text().to_owned()) };
        Ok(text[span.start..span.end - end.unwrap_or(0)].to_owned())
    }
}
