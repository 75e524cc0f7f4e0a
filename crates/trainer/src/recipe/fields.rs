//! The names of a struct's fields, asked of its `Deserialize` implementation.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor};

use super::{DataSection, ModelSection, OutputSection, Recipe, Suggestion, TrainSection};

/// Jaro-Winkler similarity above which a misspelt name is taken for the valid one.
const NEAR: f64 = 0.75;

/// Sections of a recipe.
pub(super) fn sections() -> &'static [&'static str] {
    fields_of::<Recipe>()
}

/// Fields of a section.
pub(super) fn fields(section: &str) -> &'static [&'static str] {
    match section {
        "model" => fields_of::<ModelSection>(),
        "lora" => fields_of::<models::LoraConfig>(),
        "data" => fields_of::<DataSection>(),
        "train" => fields_of::<TrainSection>(),
        "output" => fields_of::<OutputSection>(),
        _ => &[],
    }
}

/// What may have been meant by `section`.
pub(super) fn suggest_section(section: &str) -> Suggestion {
    // A field written outside its section is more often the mistake than a misspelt section.
    let home = sections().iter().find(|s| fields(s).contains(&section));
    match home {
        Some(home) => Suggestion::Nearest(format!("{home}.{section}")),
        None => nearest(section, sections().iter().map(|&s| s.to_owned())),
    }
}

/// What may have been meant by `section.field`: a field of that section, or the same name elsewhere.
pub(super) fn suggest_field(section: &str, field: &str) -> Suggestion {
    let home = sections().iter().find(|s| fields(s).contains(&field));
    match home {
        Some(home) => Suggestion::Nearest(format!("{home}.{field}")),
        None => nearest(field, fields(section).iter().map(|&f| f.to_owned())).within(section),
    }
}

impl Suggestion {
    fn within(self, section: &str) -> Self {
        match self {
            Self::Nearest(field) => Self::Nearest(format!("{section}.{field}")),
            Self::OneOf(_) => self,
        }
    }
}

fn nearest(name: &str, valid: impl Iterator<Item = String>) -> Suggestion {
    let valid: Vec<String> = valid.collect();
    let similarity = |candidate: &String| strsim::jaro_winkler(name, candidate);
    let best = valid.iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    match best {
        Some(best) if similarity(best) >= NEAR => Suggestion::Nearest(best.clone()),
        _ => Suggestion::OneOf(valid),
    }
}

fn fields_of<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    T::deserialize(Probe).err().and_then(|asked| asked.0).unwrap_or(&[])
}

/// A deserializer that fails with the fields that a derived implementation asks for.
struct Probe;

#[derive(Debug)]
struct Asked(Option<&'static [&'static str]>);

impl<'de> Deserializer<'de> for Probe {
    type Error = Asked;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Asked> {
        Err(Asked(Some(fields)))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Asked> {
        Err(Asked(None))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fields {:?}", self.0)
    }
}

impl std::error::Error for Asked {}

impl de::Error for Asked {
    fn custom<T: fmt::Display>(_message: T) -> Self {
        Self(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_tells_its_fields() {
        assert_eq!(sections(), ["model", "lora", "data", "train", "output"]);
        for section in sections() {
            assert!(!fields(section).is_empty(), "{section}");
        }
        assert!(fields("lora").contains(&"target_modules"));
    }

    #[test]
    fn the_nearest_name_is_offered() {
        let near = |name: &str| Suggestion::Nearest(name.to_owned());
        assert_eq!(suggest_field("train", "learning_rat"), near("train.learning_rate"));
        assert_eq!(suggest_field("train", "warmup_step"), near("train.warmup_steps"));
        assert_eq!(suggest_field("train", "max_seq_len"), near("data.max_seq_len"));
        assert_eq!(suggest_section("trian"), near("train"));
        assert_eq!(suggest_section("lora_alpha"), near("lora.lora_alpha"));
        assert!(matches!(suggest_field("output", "qqq"), Suggestion::OneOf(_)));
    }
}
