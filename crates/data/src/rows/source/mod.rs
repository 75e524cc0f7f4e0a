//! Files of rows: what is read, how it is packed and what kind it is.

mod csv;
mod json;
mod lines;
mod open;
mod parquet;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::{Format, Object, Place, Unit, detect, fields};
use crate::error::{Error, Problem, Result};
use open::{Kind, Opened};

/// A file or directory of rows, and how to take them.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// A file, or a directory whose data files are read in the order of their names.
    pub path: PathBuf,
    /// What a row is; told by the first row's fields unless given.
    pub format: Option<Format>,
    /// Names of this source's fields: from the name that the format has to the one that the file has.
    pub fields: BTreeMap<String, String>,
    /// How often a row is learned in one pass over the data. Of a fraction, rows get their share by their content.
    pub weight: f64,
}

/// Takes the place of each row, and its fields with the format of its file.
type OnRow<'a> = &'a mut dyn FnMut(Place, Result<(Object, Format), Problem>);

impl Source {
    /// All rows of `path`, once, in the format of their fields.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), format: None, fields: BTreeMap::new(), weight: 1.0 }
    }

    /// The files, in the order in which they are read.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>> {
        files(&self.path)
    }

    /// Reads all files.
    pub(super) fn read(&self, on_row: OnRow<'_>) -> Result<()> {
        for file in self.files()? {
            self.read_file(&file, on_row)?;
        }
        Ok(())
    }

    fn read_file(&self, path: &Path, on_row: OnRow<'_>) -> Result<()> {
        let file = Arc::new(path.to_owned());
        let mut format = self.format;
        let mut row = |unit: Unit, number: usize, value: Result<Value, Problem>| {
            let row = value.and_then(|value| self.row(value, &mut format));
            on_row(Place::new(&file, unit, number), row);
        };
        let Opened { kind, reader } = match open::open(path)? {
            open::Input::Parquet(file) => return parquet::read(path, file, &mut row),
            open::Input::Text(opened) => opened,
        };
        match kind {
            Kind::Lines => lines::read(path, reader, &mut row),
            Kind::Json => json::read(path, reader, &mut row),
            Kind::Table { delimiter } => csv::read(path, reader, delimiter, &mut row),
        }
    }

    /// One value -> the fields of a row, under the names of its format. Sets `format` when it is not known yet.
    fn row(&self, value: Value, format: &mut Option<Format>) -> Result<(Object, Format), Problem> {
        let Value::Object(mut object) = value else {
            return Err(Problem::Json { message: format!("found {}", fields::kind(&value)) });
        };
        self.rename(&mut object)?;
        let Some(given) = self.format else {
            let found = detect::format_of(&object)?;
            let expected = *format.get_or_insert(found);
            return if found == expected {
                Ok((object, found))
            } else {
                Err(Problem::MixedFormats { expected, found })
            };
        };
        Ok((object, given))
    }

    fn rename(&self, object: &mut Object) -> Result<(), Problem> {
        let mut renamed = Vec::with_capacity(self.fields.len());
        for (name, theirs) in &self.fields {
            let Some(value) = object.remove(theirs) else {
                let message =
                    format!("is missing, which the recipe names as this source's `{name}`");
                return Err(Problem::field(theirs, message));
            };
            renamed.push((name.clone(), value));
        }
        object.extend(renamed);
        Ok(())
    }
}

/// Takes a row's unit, number and value from a reader of one kind of file.
type OnValue<'a> = &'a mut dyn FnMut(Unit, usize, Result<Value, Problem>);

/// The file itself, or the data files of a directory, by name. Other files of a directory (a README) are passed over.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let read_error = |source| Error::Read { path: path.to_owned(), source };
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(read_error)? {
        let file = entry.map_err(read_error)?.path();
        let hidden = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && file.is_file() && open::is_data(&file) {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(Error::NoFiles { path: path.to_owned() });
    }
    Ok(files)
}
