//! From a TOML file and overrides to a recipe, and back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use toml::{Table, Value};

use super::{Recipe, RecipeError, check, default_lora, fields};

/// One field given on the command line.
#[derive(Debug, Clone, PartialEq)]
pub struct Override {
    /// The option as typed, for messages.
    origin: String,
    section: String,
    field: String,
    /// Key within a field that is a table, e.g. a module pattern of `lora.rank_pattern`.
    key: Option<String>,
    value: Value,
}

impl Override {
    /// A path given by an option of its own, e.g. `--model`.
    pub fn path(option: &str, section: &str, field: &str, path: &Path) -> Self {
        Self::option(option, section, field, path.to_string_lossy().into_owned())
    }

    /// A string given by an option of its own, e.g. `--memory-budget`.
    pub fn text(option: &str, section: &str, field: &str, text: String) -> Self {
        Self::option(option, section, field, text)
    }

    /// A switch with an option of its own, e.g. `--cuda-graphs`.
    pub fn on(option: &str, section: &str, field: &str) -> Self {
        Self::option(option, section, field, true)
    }

    fn option(option: &str, section: &str, field: &str, value: impl Into<Value>) -> Self {
        Self {
            origin: option.to_owned(),
            section: section.to_owned(),
            field: field.to_owned(),
            key: None,
            value: value.into(),
        }
    }
}

impl FromStr for Override {
    type Err = RecipeError;

    /// Parses `section.field=value`; the value is TOML, or a bare string.
    fn from_str(text: &str) -> Result<Self, RecipeError> {
        let origin = format!("--set {text}");
        let invalid = |message: &str| RecipeError::Override {
            origin: origin.clone(),
            message: message.to_owned(),
        };
        let (name, value) =
            text.split_once('=').ok_or_else(|| invalid("expected section.field=value"))?;
        let mut parts = name.trim().splitn(3, '.');
        let (Some(section), Some(field)) = (parts.next(), parts.next()) else {
            return Err(invalid("expected section.field=value, e.g. train.learning_rate=1e-4"));
        };
        let value = parse_value(value.trim()).map_err(|message| invalid(&message))?;
        Ok(Self {
            section: section.to_owned(),
            field: field.to_owned(),
            key: parts.next().map(|key| key.trim_matches('"').to_owned()),
            value,
            origin,
        })
    }
}

/// TOML where it parses; what does not look like TOML is a string.
fn parse_value(text: &str) -> Result<Value, String> {
    match toml::from_str::<Table>(&format!("value = {text}")) {
        Ok(mut table) if table.len() == 1 => Ok(table.remove("value").expect("the only key")),
        _ if text.starts_with(['"', '\'', '[', '{']) || text.contains('\n') => {
            Err(format!("`{text}` is not a TOML value"))
        }
        _ => Ok(Value::String(text.to_owned())),
    }
}

/// Where each field came from, for messages.
pub(super) struct Origins {
    file: PathBuf,
    overridden: BTreeMap<String, String>,
}

impl Origins {
    pub(super) fn of(&self, field: &str) -> String {
        let file = || self.file.display().to_string();
        self.overridden.get(field).cloned().unwrap_or_else(file)
    }

    pub(super) fn error(&self, field: &str, message: impl Into<String>) -> RecipeError {
        let (origin, field) = (self.of(field), field.to_owned());
        RecipeError::Value { origin, field, message: message.into() }
    }
}

impl Recipe {
    /// Reads a recipe, applies overrides in order, fills in defaults and checks every value.
    pub fn read(path: &Path, overrides: &[Override]) -> Result<Self, RecipeError> {
        let (recipe, origins) = Self::parse(path, &read(path)?, overrides)?;
        check::required(&recipe, &origins, true)?;
        Ok(recipe)
    }

    /// [`read`](Self::read) for what writes nothing, and needs no `output.dir`.
    pub fn read_inputs(path: &Path, overrides: &[Override]) -> Result<Self, RecipeError> {
        let (recipe, origins) = Self::parse(path, &read(path)?, overrides)?;
        check::required(&recipe, &origins, false)?;
        Ok(recipe)
    }

    /// As [`read`](Self::read), but of a run that need not be complete: no model, no data and no output, or no
    /// recipe at all.
    pub fn draft(path: Option<&Path>, overrides: &[Override]) -> Result<Self, RecipeError> {
        let text = path.map_or_else(|| Ok(String::new()), read)?;
        let path = path.unwrap_or(Path::new("the command line"));
        Ok(Self::parse(path, &text, overrides)?.0)
    }

    fn parse(
        path: &Path,
        text: &str,
        overrides: &[Override],
    ) -> Result<(Self, Origins), RecipeError> {
        let mut user: Table = toml::from_str(text).map_err(|error| RecipeError::Syntax {
            path: path.to_owned(),
            message: error.to_string().trim_end().to_owned(),
        })?;
        check_names(path, &user)?;
        let mut origins = Origins { file: path.to_owned(), overridden: BTreeMap::new() };
        for given in overrides {
            apply(&mut user, given)?;
            let name = format!("{}.{}", given.section, given.field);
            origins.overridden.insert(name, given.origin.clone());
        }
        let recipe = with_defaults(user, &origins)?;
        check::check(&recipe, &origins)?;
        Ok((recipe, origins))
    }

    /// The recipe as a TOML file that [`read`](Self::read) reads back to the same recipe.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a recipe is tables of plain values")
    }
}

fn read(path: &Path) -> Result<String, RecipeError> {
    std::fs::read_to_string(path)
        .map_err(|source| RecipeError::Read { path: path.to_owned(), source })
}

fn check_names(path: &Path, user: &Table) -> Result<(), RecipeError> {
    let origin = || path.display().to_string();
    for (section, value) in user {
        if !fields::sections().contains(&section.as_str()) {
            let suggestion = fields::suggest_section(section);
            return Err(RecipeError::Unknown {
                origin: origin(),
                field: section.clone(),
                suggestion,
            });
        }
        let Some(table) = value.as_table() else {
            let message = format!("expected a section [{section}]");
            return Err(RecipeError::Value { origin: origin(), field: section.clone(), message });
        };
        for field in table.keys() {
            check_field(&origin(), section, field)?;
        }
    }
    Ok(())
}

fn check_field(origin: &str, section: &str, field: &str) -> Result<(), RecipeError> {
    if fields::fields(section).contains(&field) {
        return Ok(());
    }
    let suggestion = fields::suggest_field(section, field);
    let field = format!("{section}.{field}");
    Err(RecipeError::Unknown { origin: origin.to_owned(), field, suggestion })
}

fn apply(user: &mut Table, given: &Override) -> Result<(), RecipeError> {
    if !fields::sections().contains(&given.section.as_str()) {
        let suggestion = fields::suggest_section(&given.section);
        let (origin, field) = (given.origin.clone(), given.section.clone());
        return Err(RecipeError::Unknown { origin, field, suggestion });
    }
    check_field(&given.origin, &given.section, &given.field)?;
    let section = subtable(user, &given.section);
    match &given.key {
        None => section.insert(given.field.clone(), given.value.clone()),
        Some(key) => subtable(section, &given.field).insert(key.clone(), given.value.clone()),
    };
    Ok(())
}

fn subtable<'a>(table: &'a mut Table, key: &str) -> &'a mut Table {
    let entry = table.entry(key).or_insert_with(|| Value::Table(Table::new()));
    if !entry.is_table() {
        *entry = Value::Table(Table::new());
    }
    entry.as_table_mut().expect("made one")
}

/// Lays what the user gave over the defaults, field by field.
fn with_defaults(user: Table, origins: &Origins) -> Result<Recipe, RecipeError> {
    let continues = user.get("model").is_some_and(|model| model.get("adapter").is_some());
    if continues && user.contains_key("lora") {
        let message =
            "give either [lora], for a new adapter, or model.adapter, which has its own settings";
        return Err(origins.error("model.adapter", message));
    }
    let lora = (!continues).then(default_lora);
    let mut merged = Table::try_from(Recipe { lora, ..Recipe::default() })
        .expect("a recipe is tables of plain values");
    for (section, value) in user {
        let target = subtable(&mut merged, &section);
        target.extend(value.as_table().expect("names were checked").clone());
    }
    Value::Table(merged).try_into().map_err(|error: toml::de::Error| {
        // The parser knows the field's path, and tells it only in its display form.
        let text = error.to_string();
        let field = text.rsplit_once("in `").and_then(|(_, rest)| rest.split('`').next());
        origins.error(field.unwrap_or("recipe"), error.message())
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Optim, Quantize, Scheduler};
    use super::*;

    const MINIMAL: &str = "[model]\npath = 'm'\n[data]\npath = 'd'\n[output]\ndir = 'o'\n";

    fn read(text: &str, sets: &[&str]) -> Result<Recipe, RecipeError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.toml");
        std::fs::write(&path, text).unwrap();
        let overrides = sets.iter().map(|s| s.parse()).collect::<Result<Vec<_>, _>>()?;
        Recipe::read(&path, &overrides)
    }

    fn message(text: &str, sets: &[&str]) -> String {
        let error = read(text, sets).unwrap_err().to_string();
        // Drops the temporary directory.
        error.rsplit_once("/r.toml").map_or(error.clone(), |(_, rest)| format!("r.toml{rest}"))
    }

    #[test]
    fn defaults_fill_what_is_not_given() {
        let recipe = read(&format!("{MINIMAL}[lora]\nr = 4\n"), &[]).unwrap();
        let lora = recipe.lora.unwrap();
        assert_eq!((lora.r, lora.lora_alpha), (4, 32.0));
        assert_eq!(recipe.train, super::super::TrainSection::default());
    }

    #[test]
    fn overrides_win_and_take_bare_strings() {
        let sets = [
            "train.lr_scheduler=cosine",
            "train.optim=adamw_8bit",
            "train.max_steps=7",
            "model.quantize=none",
            "data.path=/tmp/a b.jsonl",
            "lora.target_modules=[\"q_proj\"]",
            "lora.rank_pattern.layers.1.self_attn.q_proj=4",
        ];
        let recipe = read(MINIMAL, &sets).unwrap();
        assert_eq!(recipe.train.lr_scheduler, Scheduler::Cosine);
        assert_eq!(recipe.train.optim, Optim::AdamW8bit);
        assert_eq!(recipe.train.max_steps, Some(7));
        assert_eq!(recipe.model.quantize, Quantize::None);
        assert_eq!(recipe.data.path, Path::new("/tmp/a b.jsonl"));
        assert_eq!(recipe.lora.unwrap().rank_pattern["layers.1.self_attn.q_proj"], 4);
    }

    #[test]
    fn a_resolved_recipe_reads_back_the_same() {
        let sets = [
            "train.learning_rate=3e-5",
            "train.optim=adamw_8bit",
            "data.eval_rows=5",
            "lora.rank_pattern.q_proj=4",
        ];
        let recipe = read(MINIMAL, &sets).unwrap();
        assert_eq!(read(&recipe.to_toml(), &[]).unwrap(), recipe);
        let continued = read(MINIMAL, &["model.adapter=a"]).unwrap();
        assert_eq!(continued.lora, None);
        assert_eq!(read(&continued.to_toml(), &[]).unwrap(), continued);
    }

    #[test]
    fn errors_name_origin_and_field() {
        let typo = format!("{MINIMAL}[train]\nlearning_rte = 1\n");
        assert_eq!(
            message(&typo, &[]),
            "r.toml: unknown field `train.learning_rte`; did you mean `train.learning_rate`?"
        );
        assert_eq!(
            message(MINIMAL, &["train.epoch=1"]),
            "--set train.epoch=1: unknown field `train.epoch`; did you mean `train.epochs`?"
        );
        let wrong = message(&format!("{MINIMAL}[train]\nbatch_size = 'x'\n"), &[]);
        assert!(wrong.starts_with("r.toml: `train.batch_size`: invalid type"), "{wrong}");
        let wrong = message(MINIMAL, &["train.lr_scheduler=step"]);
        assert!(
            wrong.starts_with("--set train.lr_scheduler=step: `train.lr_scheduler`:"),
            "{wrong}"
        );
        assert!(wrong.contains("`constant`") && wrong.contains("`cosine`"), "{wrong}");
        let wrong = message(MINIMAL, &["train.optim=adam"]);
        assert!(wrong.starts_with("--set train.optim=adam: `train.optim`:"), "{wrong}");
        assert!(wrong.contains("`adamw`") && wrong.contains("`adamw_8bit`"), "{wrong}");
        let both = message(&format!("{MINIMAL}[lora]\nr = 4\n"), &["model.adapter=a"]);
        assert!(both.contains("either [lora]"), "{both}");
    }

    #[test]
    fn command_line_mistakes_are_usage_errors() {
        for bad in ["epochs", "epochs=1", "train.epochs=[1", "train.nope=1", "train.epochs=x"] {
            assert!(read(MINIMAL, &[bad]).unwrap_err().is_usage(), "{bad}");
        }
        let in_file = read(&format!("{MINIMAL}[train]\nnope = 1\n"), &[]).unwrap_err();
        assert!(!in_file.is_usage());
        assert!(message("[model\n", &[]).contains("line 1"));
    }
}
