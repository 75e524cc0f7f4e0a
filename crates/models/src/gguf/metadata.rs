//! Typed access to the metadata of a GGUF file.

use super::{
    GgufFile,
    parse::Cursor,
    value::{Array, Value, ValueType},
};
use crate::{Error, Result};

/// Getters return `None` for a missing key and [`Error::Field`] for a value of another type.
impl GgufFile {
    /// An integer that is not negative.
    pub(crate) fn uint(&self, key: &str) -> Result<Option<usize>> {
        self.get(key, "a non-negative integer", |value| match *value {
            Value::Uint(n) => usize::try_from(n).ok(),
            Value::Int(n) => usize::try_from(n).ok(),
            _ => None,
        })
    }

    /// A token id.
    pub(crate) fn token_id(&self, key: &str) -> Result<Option<u32>> {
        self.get(key, "a token id", |value| match *value {
            Value::Uint(n) => u32::try_from(n).ok(),
            Value::Int(n) => u32::try_from(n).ok(),
            _ => None,
        })
    }

    /// A finite float or an integer.
    pub(crate) fn float(&self, key: &str) -> Result<Option<f64>> {
        self.get(key, "a finite number", |value| match *value {
            Value::Float(x) => Some(x).filter(|x| x.is_finite()),
            Value::Uint(n) => Some(n as f64),
            Value::Int(n) => Some(n as f64),
            _ => None,
        })
    }

    /// A boolean.
    pub(crate) fn boolean(&self, key: &str) -> Result<Option<bool>> {
        self.get(key, "a boolean", |value| match *value {
            Value::Bool(flag) => Some(flag),
            _ => None,
        })
    }

    /// A string.
    pub(crate) fn string(&self, key: &str) -> Result<Option<&str>> {
        self.get(key, "a string", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// Whether there is a tokenizer.
    pub(crate) fn has_vocabulary(&self) -> bool {
        self.header.metadata.contains_key("tokenizer.ggml.model")
    }

    /// An array of strings, borrowed from the file.
    pub(crate) fn strings(&self, key: &str) -> Result<Option<Vec<&str>>> {
        let Some(array) = self.array(key, "an array of strings", &[ValueType::String])? else {
            return Ok(None);
        };
        let mut cursor = Cursor::new(&self.file[array.range.clone()]);
        let strings = (0..array.len).map(|_| cursor.string(key));
        let strings = strings.collect::<Result<_, _>>();
        strings.map(Some).map_err(|e| Error::field(self.path(), key, e))
    }

    /// An array of floats.
    pub(crate) fn floats(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let types = [ValueType::F32, ValueType::F64];
        self.scalars(key, "an array of floats", &types, |value| match value {
            Value::Float(x) => Some(x),
            _ => None,
        })
    }

    /// An array of integers.
    pub(crate) fn ints(&self, key: &str) -> Result<Option<Vec<i64>>> {
        let types = [
            ValueType::U8,
            ValueType::I8,
            ValueType::U16,
            ValueType::I16,
            ValueType::U32,
            ValueType::I32,
            ValueType::U64,
            ValueType::I64,
        ];
        self.scalars(key, "an array of integers", &types, |value| match value {
            Value::Uint(n) => i64::try_from(n).ok(),
            Value::Int(n) => Some(n),
            _ => None,
        })
    }

    fn scalars<T>(
        &self,
        key: &str,
        wanted: &str,
        types: &[ValueType],
        convert: impl Fn(Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        let Some(array) = self.array(key, wanted, types)? else {
            return Ok(None);
        };
        let mut cursor = Cursor::new(&self.file[array.range.clone()]);
        let values = (0..array.len).map(|_| cursor.scalar(array.element).ok().and_then(&convert));
        let values: Option<Vec<_>> = values.collect();
        values.map(Some).ok_or_else(|| self.mistyped(key, wanted, "something else"))
    }

    fn array(&self, key: &str, wanted: &str, types: &[ValueType]) -> Result<Option<&Array>> {
        self.get(key, wanted, |value| match value {
            Value::Array(array) if types.contains(&array.element) => Some(array),
            _ => None,
        })
    }

    fn get<'a, T>(
        &'a self,
        key: &str,
        wanted: &str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.header.metadata.get(key) else {
            return Ok(None);
        };
        let converted = convert(value);
        converted.map(Some).ok_or_else(|| self.mistyped(key, wanted, value.kind()))
    }

    fn mistyped(&self, key: &str, wanted: &str, found: &str) -> Error {
        Error::field(self.path(), key, format!("expected {wanted}, found {found}"))
    }

    /// The value of a key that must be there.
    pub(crate) fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| Error::field(self.path(), key, "missing from the metadata"))
    }
}
