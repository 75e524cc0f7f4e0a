//! The JSON inside a quant state, byte for byte as Python's `json.dumps` writes it.

use serde::Deserialize;
use serde_json::Value;

use crate::{Absmax, Error, QuantType, QuantizedTensor, SourceDtype};

/// The part of a quant state that is not a tensor.
#[derive(Deserialize)]
pub(super) struct StateJson {
    pub(super) quant_type: QuantType,
    pub(super) blocksize: usize,
    pub(super) dtype: SourceDtype,
    pub(super) shape: Vec<usize>,
    #[serde(skip)]
    pub(super) nested: Option<Nested>,
}

/// The fields that double quantisation adds.
#[derive(Deserialize)]
pub(super) struct Nested {
    #[serde(rename = "nested_blocksize")]
    pub(super) blocksize: usize,
    #[serde(rename = "nested_dtype")]
    pub(super) dtype: String,
    #[serde(rename = "nested_offset")]
    pub(super) offset: f64,
}

impl StateJson {
    pub(super) fn of(tensor: &QuantizedTensor) -> Self {
        let nested = match tensor.absmax() {
            Absmax::Plain(_) => None,
            Absmax::Nested(nested) => Some(Nested {
                blocksize: nested.blocksize,
                dtype: "float32".to_owned(),
                offset: f64::from(nested.offset),
            }),
        };
        Self {
            quant_type: tensor.quant_type(),
            blocksize: tensor.blocksize(),
            dtype: tensor.source_dtype(),
            shape: tensor.shape().to_vec(),
            nested,
        }
    }

    pub(super) fn parse(key: &str, bytes: &[u8]) -> Result<Self, Error> {
        Self::from_slice(bytes).map_err(|source| Error::StateJson { key: key.to_owned(), source })
    }

    fn from_slice(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let json: serde_json::Map<String, Value> = serde_json::from_slice(bytes)?;
        let is_nested = json.keys().any(|key| key.starts_with("nested_"));
        let json = Value::Object(json);
        let mut state = Self::deserialize(&json)?;
        if is_nested {
            state.nested = Some(Nested::deserialize(&json)?);
        }
        Ok(state)
    }

    pub(super) fn to_json(&self) -> String {
        let nested = self.nested.as_ref().map_or(String::new(), Nested::to_json);
        format!(
            r#"{{"quant_type": "{}", "blocksize": {}, "dtype": "{}", "shape": {:?}{nested}}}"#,
            self.quant_type.as_str(),
            self.blocksize,
            self.dtype.as_str(),
            self.shape,
        )
    }
}

impl Nested {
    fn to_json(&self) -> String {
        format!(
            r#", "nested_blocksize": {}, "nested_dtype": "{}", "nested_offset": {}"#,
            self.blocksize,
            self.dtype,
            python_float(self.offset),
        )
    }
}

/// A finite float as Python's `repr` prints it: the shortest digits that read back, in scientific
/// notation below 1e-4 and from 1e16 on, where the exponent has a sign and at least two digits.
fn python_float(x: f64) -> String {
    let scientific = format!("{x:e}");
    match scientific.split_once('e') {
        Some((digits, exponent)) => match exponent.parse() {
            Ok(exponent @ (..-4 | 16..)) => format!("{digits}e{exponent:+03}"),
            _ => format!("{x:?}"),
        },
        None => scientific,
    }
}

#[cfg(test)]
mod tests {
    use super::python_float;

    #[test]
    fn floats_print_as_in_python() {
        let cases: [(f64, &str); 9] = [
            (0.231_720_879_673_957_82, "0.23172087967395782"),
            (0.0, "0.0"),
            (1.0, "1.0"),
            (0.0001, "0.0001"),
            (1e-5, "1e-05"),
            (1.5e-10, "1.5e-10"),
            (123_456_789.0, "123456789.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
        ];
        for (x, printed) in cases {
            assert_eq!(python_float(x), printed);
        }
    }
}
