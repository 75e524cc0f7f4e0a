//! The model's own chat template (Jinja), rendered as transformers renders it.
//!
//! Facts from transformers' `utils/chat_template_utils.py`: `trim_blocks` and `lstrip_blocks` on, loop controls,
//! `raise_exception`, `strftime_now`, a `tojson` without HTML escapes, `{% generation %}` blocks, and the special
//! tokens, `tools`, `documents` (none here) and `add_generation_prompt` as variables.

mod builtin;
mod functions;
mod limit;
mod print;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, ErrorKind, context};
use regex::Regex;
use serde_json::Value as Json;

use crate::error::TemplateError;
use crate::rows::{Message, Role};
use crate::special::SpecialTokens;
use limit::limited;

pub use builtin::Builtin;

/// Steps and 64-byte units of text one rendering may use, which limits its time and its output: far above what a template needs for a million tokens,
/// low enough that an endless loop ends in about a second.
const FUEL: u64 = 2_000_000;

/// Unicode noncharacters that wrap what a `{% generation %}` block renders; they never reach the tokenizer.
const OPEN: char = '\u{FDD0}';
const CLOSE: char = '\u{FDD1}';

const NAME: &str = "chat_template";

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    environment: Arc<Environment<'static>>,
    tokens: Value,
    has_generation: bool,
    /// Whether a rendering was given up: the next rows would only take as long.
    endless: AtomicBool,
}

/// A rendered conversation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rendered {
    pub(crate) text: String,
    /// Byte ranges of the `{% generation %}` blocks, in order; `None` when the template has no such block.
    pub(crate) generation: Option<Vec<Range<usize>>>,
}

impl ChatTemplate {
    /// Compiles `source` and tries it on a short conversation. `strftime_now` tells the time of this call, in UTC.
    ///
    /// # Errors
    /// [`TemplateError::Failed`] when it does not compile, [`TemplateError::Endless`] when the trial does not end.
    pub fn new(source: &str, special: &SpecialTokens) -> Result<Self, TemplateError> {
        let (source, special) = (source.to_owned(), special.clone());
        let template = limited(move || Self::compile(&source, &special))??;
        let turns = [Message::new(Role::User, "a"), Message::new(Role::Assistant, "b")];
        match template.render(&turns, &[], false) {
            Err(endless @ TemplateError::Endless { .. }) => Err(endless),
            // What it cannot render is told when a row asks for it.
            _ => Ok(template),
        }
    }

    fn compile(source: &str, special: &SpecialTokens) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        environment.set_syntax(functions::syntax());
        environment.set_fuel(Some(FUEL));
        environment.set_formatter(print::print);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", functions::raise_exception);
        environment.add_filter("tojson", |value: &Value, options: Kwargs| {
            functions::tojson(value, &options)
        });
        environment.add_filter("string", print::string);
        environment.add_test("iterable", functions::is_iterable);
        environment.add_filter("generation_block", |text: String| format!("{OPEN}{text}{CLOSE}"));
        let (rewritten, has_generation) =
            rewrite_generation_tags(&functions::unix_newlines(source));
        environment.add_template_owned(NAME, rewritten).map_err(|error| failure(&error))?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |elapsed| elapsed.as_secs() as i64);
        let source = source.to_owned();
        let this = Self {
            source,
            environment: Arc::new(environment),
            tokens: special.variables(),
            has_generation,
            endless: AtomicBool::new(false),
        };
        Ok(this.at(now))
    }

    /// The source in Jinja.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Sets the time that `strftime_now` tells, in seconds since 1970 (UTC), so that a run can be repeated exactly.
    #[must_use]
    pub fn at(mut self, unix_seconds: i64) -> Self {
        let environment = Arc::make_mut(&mut self.environment);
        environment.add_function("strftime_now", move |format: &str| {
            functions::strftime(format, unix_seconds)
        });
        self
    }

    /// The conversation as text, ready for a tokenizer that adds no special tokens of its own.
    pub fn render(
        &self,
        messages: &[Message],
        tools: &[Json],
        add_generation_prompt: bool,
    ) -> Result<String, TemplateError> {
        self.render_marked(messages, tools, add_generation_prompt).map(|rendered| rendered.text)
    }

    pub(crate) fn render_marked(
        &self,
        messages: &[Message],
        tools: &[Json],
        add_generation_prompt: bool,
    ) -> Result<Rendered, TemplateError> {
        let messages: Vec<Value> = messages.iter().map(variable).collect();
        let tools = if tools.is_empty() { Value::from(()) } else { Value::from(Serde(tools)) };
        let variables = context! {
            messages => messages,
            add_generation_prompt => add_generation_prompt,
            tools => tools,
            documents => (),
            ..self.tokens.clone()
        };
        let text = self.text(variables)?;
        Ok(if self.has_generation {
            unwrap_blocks(&text)
        } else {
            Rendered { text, generation: None }
        })
    }

    fn text(&self, variables: Value) -> Result<String, TemplateError> {
        if self.endless.load(Ordering::Relaxed) {
            return Err(limit::endless());
        }
        let environment = Arc::clone(&self.environment);
        let rendered = limited(move || environment.get_template(NAME)?.render(variables));
        if matches!(rendered, Err(TemplateError::Endless { .. })) {
            self.endless.store(true, Ordering::Relaxed);
        }
        rendered?.map_err(|error| failure(&error))
    }
}

/// What the template sees of a message: all but what is for training alone.
fn variable(message: &Message) -> Value {
    let content = message.content.as_ref().map(|text| text.replace([OPEN, CLOSE], ""));
    let fields = [("role", message.role.name().into()), ("content", content.into())];
    let more = message.more.iter().map(|(key, value)| (key.as_str(), Value::from(Serde(value))));
    Value::from_pairs(fields.into_iter().chain(more))
}

/// `{% generation %}` is an extension of transformers. A filter block has the same whitespace rules.
fn rewrite_generation_tags(source: &str) -> (String, bool) {
    let tag =
        Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").expect("the pattern is valid");
    let rewritten = tag.replace_all(source, |captures: &regex::Captures<'_>| {
        let name = if captures.get(2).is_some() { "endfilter" } else { "filter generation_block" };
        format!("{{%{} {name} {}%}}", &captures[1], &captures[3])
    });
    let found = tag.is_match(source);
    (rewritten.into_owned(), found)
}

fn unwrap_blocks(marked: &str) -> Rendered {
    let mut text = String::with_capacity(marked.len());
    let mut blocks = Vec::new();
    let mut start = 0;
    for part in marked.split_inclusive([OPEN, CLOSE]) {
        text.push_str(part.trim_end_matches([OPEN, CLOSE]));
        if part.ends_with(OPEN) {
            start = text.len();
        } else if part.ends_with(CLOSE) {
            blocks.push(start..text.len());
        }
    }
    Rendered { text, generation: Some(blocks) }
}

fn failure(error: &minijinja::Error) -> TemplateError {
    let line = error.line().unwrap_or(1);
    if error.kind() == ErrorKind::OutOfFuel {
        return TemplateError::TooMuchWork { line };
    }
    let mut message = error.kind().to_string();
    if let Some(detail) = error.detail() {
        message = if functions::is_refusal(detail) {
            detail.to_owned()
        } else {
            format!("{message}: {detail}")
        };
    }
    TemplateError::Failed { line, message }
}
