//! Numbers of bytes as people write them.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How much of a device's memory a run may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Budget {
    /// What is free when it starts.
    #[default]
    Auto,
    /// So many bytes.
    Bytes(usize),
}

/// Units, longest first, with their bytes.
const UNITS: [(&str, f64); 8] = [
    ("GiB", (1_u64 << 30) as f64),
    ("MiB", (1_u64 << 20) as f64),
    ("KiB", 1024.0),
    ("GB", 1e9),
    ("MB", 1e6),
    ("kB", 1e3),
    ("G", (1_u64 << 30) as f64),
    ("B", 1.0),
];

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let (number, unit) = UNITS
            .iter()
            .find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)))
            .ok_or_else(|| format!("`{text}` has no unit; write for example 22GiB, or auto"))?;
        let bytes = number.trim().parse::<f64>().map_err(|e| format!("`{text}`: {e}"))? * unit;
        if !(1.0..1e15).contains(&bytes) {
            return Err(format!("`{text}` is no amount of memory"));
        }
        Ok(Self::Bytes(bytes as usize))
    }
}

impl TryFrom<String> for Budget {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Budget> for String {
    fn from(budget: Budget) -> Self {
        budget.to_string()
    }
}

impl std::fmt::Display for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Bytes(bytes) => write!(f, "{bytes}B"),
        }
    }
}

/// In the unit that people measure memory in, to two digits.
pub fn size(bytes: usize) -> String {
    let (unit, power) = if bytes >= 1 << 30 { ("GiB", 30) } else { ("MiB", 20) };
    format!("{:.2} {unit}", bytes as f64 / (1_u64 << power) as f64)
}
