//! Preference rows: a prompt, a better and a worse answer.

use serde::Serialize;
use serde_json::Value;

use super::chat::{self, Message, Role};
use super::{Object, fields, sharegpt};
use crate::error::Problem;

/// A better and a worse answer to the same prompt.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Preference {
    /// Texts.
    Text {
        /// What both answers go on from.
        prompt: String,
        /// The better answer.
        chosen: String,
        /// The worse answer.
        rejected: String,
    },
    /// Conversations.
    Chat {
        /// What both answers go on from.
        prompt: Vec<Message>,
        /// The better answer's turns.
        chosen: Vec<Message>,
        /// The worse answer's turns.
        rejected: Vec<Message>,
        /// Tools that the model may call, as JSON schemas.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        tools: Vec<Value>,
    },
}

pub(super) fn row(object: &Object) -> Result<Preference, Problem> {
    if object.get("chosen").is_some_and(Value::is_string) {
        return text(object);
    }
    let side = |key: &str| sharegpt::turns(&fields::list(object, key)?, key);
    let (mut chosen, mut rejected) = (side("chosen")?, side("rejected")?);
    let prompt = match fields::get(object, "prompt") {
        Some(Value::Array(turns)) => sharegpt::turns(turns, "prompt")?,
        // A prompt in words beside whole conversations (UltraFeedback) says what they begin with.
        _ => common_start(&mut chosen, &mut rejected)?,
    };
    for (key, side) in [("chosen", &chosen), ("rejected", &rejected)] {
        if side.last().is_none_or(|last| last.role != Role::Assistant) {
            return Err(Problem::field(key, "must end with an assistant message"));
        }
    }
    if chosen == rejected {
        return Err(Problem::field("rejected", SAME));
    }
    Ok(Preference::Chat { prompt, chosen, rejected, tools: chat::tools(object)? })
}

const SAME: &str = "is the same as `chosen`; there is nothing to prefer";

fn text(object: &Object) -> Result<Preference, Problem> {
    let [prompt, chosen, rejected] =
        ["prompt", "chosen", "rejected"].map(|key| fields::string(object, key));
    let (prompt, chosen, rejected) = (prompt?, chosen?, rejected?);
    if chosen == rejected {
        return Err(Problem::field("rejected", SAME));
    }
    Ok(Preference::Text { prompt, chosen, rejected })
}

/// Takes the turns that both begin with off them.
fn common_start(
    chosen: &mut Vec<Message>,
    rejected: &mut Vec<Message>,
) -> Result<Vec<Message>, Problem> {
    let same = chosen.iter().zip(rejected.iter()).take_while(|(a, b)| a == b).count();
    // Both end with an answer, even where these are equal.
    let same = same.min(chosen.len() - 1).min(rejected.len() - 1);
    if same == 0 {
        let message = "has no turn in common with `rejected`, and there is no `prompt`";
        return Err(Problem::field("chosen", message));
    }
    rejected.drain(..same);
    Ok(chosen.drain(..same).collect())
}
