//! 60 conversations through the program's own templates: ids and masks as transformers has them.

use std::path::Path;

use data::rows::{BadRows, Chat, Content, Format, Place, Row, Rows};
use data::{Builtin, ChatTemplate, Encoder, IGNORE, SpecialTokens};
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::common::OPTIONS;

fn fixture(name: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/templates");
    std::fs::read_to_string(dir.join(name)).unwrap()
}

fn encoder(source: &str) -> Encoder {
    let tokenizer: Tokenizer = fixture("tokenizer.json").parse().unwrap();
    let special =
        SpecialTokens::new(&tokenizer, [("bos_token", "<s>"), ("eos_token", "</s>")]).unwrap();
    let template = ChatTemplate::new(source, &special).unwrap();
    Encoder::new(&tokenizer, special, Some(template))
}

fn rows(chat: Chat) -> Rows {
    let row = Row { place: Place::default(), content: Content::Chat(chat), copies: 1 };
    Rows {
        path: "memory".into(),
        format: Format::Chat,
        rows: vec![row],
        bad: BadRows::default(),
        left_out: 0,
    }
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn ids_and_masks_are_those_of_transformers() {
    let golden: Value = serde_json::from_str(&fixture("conversations.json")).unwrap();
    let hermes = ("hermes", golden["hermes"].as_str().unwrap());
    let templates = Builtin::ALL.map(|builtin| (builtin.name, builtin.source));
    let mut compared = 0;
    for (name, source) in templates.into_iter().chain([hermes]) {
        let encoder = encoder(source);
        for case in
            golden["cases"].as_array().unwrap().iter().filter(|case| case["template"] == name)
        {
            let number = case["conversation"].as_u64().unwrap() as usize;
            let what = format!("conversation {number} through {name}");
            let chat: Chat =
                serde_json::from_value(golden["conversations"][number].clone()).unwrap();
            let prompt = encoder.prompt_ids(&chat);
            if let Some(error) = case["error"].as_str() {
                let found = prompt.unwrap_err().to_string();
                assert!(found.ends_with(error), "{what}: {found}");
                continue;
            }
            let whole = ids(&case["ids"]);
            let (shared, rest) = (case["prompt"][0].as_u64().unwrap(), ids(&case["prompt"][1]));
            let expected = [&whole[..shared as usize], &rest].concat();
            assert_eq!(prompt.unwrap(), expected, "{what}, to be continued");
            compared += 1;

            let spans: Vec<(usize, usize)> =
                serde_json::from_value(case["trained"].clone()).unwrap();
            let dataset = encoder.encode(&rows(chat), &OPTIONS).unwrap();
            if spans.is_empty() {
                assert_eq!(dataset.bad.count, 1, "{what}");
                continue;
            }
            let dataset = dataset.strict().unwrap_or_else(|error| panic!("{what}: {error}"));
            let example = dataset.example(0).unwrap();
            assert_eq!(example.input_ids, whole, "{what}");
            let mut labels = vec![IGNORE; whole.len()];
            for (start, end) in spans {
                labels[start..end].copy_from_slice(&whole[start..end]);
            }
            assert_eq!(example.labels, labels, "{what}");
        }
    }
    assert!(compared > 300, "{compared}");
}

/// Where the engine is known to be more lenient: `for` runs over `none` (a message whose content is null) as over an
/// empty list.
const LENIENT: &str = "'NoneType' object is not iterable";

/// What two renderings of one conversation differ in, or nothing.
fn difference(template: &ChatTemplate, chat: &Chat, case: &Value) -> Option<String> {
    let render = |prompt| template.render(&chat.messages, &chat.tools, prompt);
    match (case["text"].as_str(), render(false), render(true)) {
        (None, Ok(_), Ok(text)) => Some(format!("transformers: {}; here {text:?}", case["error"])),
        (None, ..) => None,
        (Some(_), Err(error), _) | (Some(_), _, Err(error)) => Some(format!("here: {error}")),
        (Some(whole), Ok(text), Ok(prompt)) => {
            let expected = case["prompt"].as_str().unwrap();
            let pairs = [(whole, &text), (expected, &prompt)];
            let (theirs, ours) = pairs.into_iter().find(|(theirs, ours)| theirs != ours)?;
            Some(format!("transformers {theirs:?}\n      here         {ours:?}"))
        }
    }
}

/// Run by scripts/check-templates.sh, which takes public templates from `PyPI` and renders them with transformers.
#[test]
#[ignore = "needs templates that are not part of the repository"]
fn public_templates_render_as_in_transformers() {
    let path = std::env::var("QLORA_PUBLIC_TEMPLATES").expect("scripts/check-templates.sh sets it");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let conversations: Vec<Chat> = serde_json::from_value(golden["conversations"].clone()).unwrap();
    let tokenizer: Tokenizer = fixture("tokenizer.json").parse().unwrap();
    let special =
        SpecialTokens::new(&tokenizer, [("bos_token", "<s>"), ("eos_token", "</s>")]).unwrap();
    let (mut agreeing, mut lenient, mut differing) = (0, 0, Vec::new());
    for (name, source) in golden["templates"].as_object().unwrap() {
        let template = match ChatTemplate::new(source.as_str().unwrap(), &special) {
            Ok(template) => template,
            Err(error) => {
                differing.push(format!("{name}: {error}"));
                continue;
            }
        };
        let before = differing.len() + lenient;
        for (number, chat) in conversations.iter().enumerate() {
            let case = &golden["cases"][name][number];
            let found = difference(&template, chat, case);
            if found.is_some() && case["error"] == LENIENT {
                lenient += 1;
                continue;
            }
            differing.extend(found.map(|found| format!("{name}, conversation {number}: {found}")));
        }
        agreeing += usize::from(differing.len() + lenient == before);
    }
    println!("{agreeing} of {} templates agree", golden["templates"].as_object().unwrap().len());
    println!("{lenient} conversations rendered that transformers refuses: {LENIENT}");
    for line in &differing {
        println!("  {line}");
    }
    assert!(differing.is_empty(), "{} renderings differ", differing.len());
}
