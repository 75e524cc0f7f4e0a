//! Turns in an order that a template does not have.

use super::outcome_of;
use crate::common::encoder_of;

/// As Llama 2's and Mistral's do.
const STRICT: &str = "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}\
                      {{ raise_exception('roles must alternate') }}{% endif %}<s>{{ m.content }}</s>{% endfor %}";

#[test]
fn an_order_that_the_template_refuses_names_its_line() {
    let encoder = encoder_of(STRICT, "</s>");
    let row = |roles: &[&str]| {
        let turns = roles.iter().map(|role| format!(r#"{{"role": "{role}", "content": "a"}}"#));
        format!("{{\"messages\": [{}]}}\n", turns.collect::<Vec<_>>().join(", "))
    };
    let good = row(&["user", "assistant"]);
    for roles in [
        &["assistant"][..],
        &["assistant", "user"],
        &["assistant", "assistant"],
        &["user", "user", "assistant"],
        &["user", "assistant", "assistant"],
        &["user", "assistant", "tool", "assistant"],
        &["system", "user", "assistant"],
        &["system", "assistant"],
        &["tool", "assistant"],
        &["developer", "assistant"],
    ] {
        let text = format!("{good}{}{good}", row(roles));
        let message = outcome_of(&encoder, "rows.jsonl", text.as_bytes()).unwrap_err();
        let said = message.contains("line 2: ") && message.contains("roles must alternate");
        assert!(said, "{roles:?}: {message}");
    }
}
