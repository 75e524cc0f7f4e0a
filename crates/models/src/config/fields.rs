//! Typed access to a JSON object that remembers which fields were asked for.

use std::{cell::RefCell, collections::BTreeSet, path::Path};

use serde_json::{Map, Value};

use crate::{Error, Result};

/// Fields of one JSON object of a configuration file. `null` counts as absent everywhere.
pub(super) struct Fields<'a> {
    path: &'a Path,
    prefix: &'static str,
    map: &'a Map<String, Value>,
    taken: RefCell<BTreeSet<String>>,
}

impl<'a> Fields<'a> {
    /// `prefix` is `""` for the top level, `"rope_scaling."` and the like for nested objects.
    pub(super) fn new(path: &'a Path, prefix: &'static str, map: &'a Map<String, Value>) -> Self {
        Self { path, prefix, map, taken: RefCell::default() }
    }

    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    pub(super) fn error(&self, field: &str, message: impl Into<String>) -> Error {
        Error::field(self.path, format!("{}{field}", self.prefix), message)
    }

    /// Whether the field is there, be it `null`.
    pub(super) fn has(&self, field: &str) -> bool {
        self.map.contains_key(field)
    }

    /// The value unless absent or `null`.
    pub(super) fn value(&self, field: &str) -> Option<&'a Value> {
        self.taken.borrow_mut().insert(field.to_owned());
        self.map.get(field).filter(|v| !v.is_null())
    }

    fn typed<T>(
        &self,
        field: &str,
        expected: &str,
        get: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        self.value(field)
            .map(|v| {
                get(v).ok_or_else(|| self.error(field, format!("is {v}; expected {expected}")))
            })
            .transpose()
    }

    pub(super) fn usize(&self, field: &str) -> Result<Option<usize>> {
        self.typed(field, "a whole number of at least 0", |v| usize::try_from(v.as_u64()?).ok())
    }

    pub(super) fn f64(&self, field: &str) -> Result<Option<f64>> {
        self.typed(field, "a number", Value::as_f64)
    }

    pub(super) fn bool(&self, field: &str) -> Result<Option<bool>> {
        self.typed(field, "true or false", Value::as_bool)
    }

    pub(super) fn str(&self, field: &str) -> Result<Option<&'a str>> {
        self.typed(field, "a string", Value::as_str)
    }

    pub(super) fn array(&self, field: &str) -> Result<Option<&'a Vec<Value>>> {
        self.typed(field, "a list", Value::as_array)
    }

    pub(super) fn object(&self, field: &str) -> Result<Option<&'a Map<String, Value>>> {
        self.typed(field, "an object", Value::as_object)
    }

    /// The value, or an error that the field is missing.
    pub(super) fn required<T>(&self, field: &str, value: Result<Option<T>>) -> Result<T> {
        value?.ok_or_else(|| self.error(field, "is missing"))
    }

    /// Present fields that nothing asked for, with their values.
    pub(super) fn rest(&self) -> Vec<(&'a str, &'a Value)> {
        let taken = self.taken.borrow();
        self.map
            .iter()
            .filter(|(k, _)| !taken.contains(k.as_str()))
            .map(|(k, v)| (k.as_str(), v))
            .collect()
    }

    /// The warning for a field that was present but not understood.
    pub(super) fn not_understood(&self, field: &str, value: &Value) -> String {
        let path = self.path.display();
        format!(
            "{path}: field `{}{field}` = {value} is not understood and was ignored",
            self.prefix
        )
    }
}
