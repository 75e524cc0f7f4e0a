//! Numbers as written.

/// A literal without sign.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Literal {
    Integer(u64),
    /// `0f3F800000`
    Float32(u32),
    /// `0d3FF0000000000000`, or decimal: `1.5`, `1e-3`.
    Float64(u64),
}

/// Reads a literal; `None` where it is malformed or does not fit 64 bits.
pub(super) fn literal(written: &str) -> Option<Literal> {
    let (prefix, digits) = written.split_at_checked(2).unwrap_or((written, ""));
    match prefix {
        "0f" | "0F" => (digits.len() == 8)
            .then(|| u32::from_str_radix(digits, 16).ok().map(Literal::Float32))
            .flatten(),
        "0d" | "0D" => (digits.len() == 16)
            .then(|| u64::from_str_radix(digits, 16).ok().map(Literal::Float64))
            .flatten(),
        "0x" | "0X" => integer(written).map(Literal::Integer),
        _ if written.contains(['.', 'e', 'E']) => {
            written.parse::<f64>().ok().map(|value| Literal::Float64(value.to_bits()))
        }
        _ => integer(written).map(Literal::Integer),
    }
}

/// A decimal, hexadecimal, octal or binary integer, with or without the suffix `U`.
pub(super) fn integer(written: &str) -> Option<u64> {
    let written = written.strip_suffix('U').unwrap_or(written);
    let radix = |digits: &str, radix| u64::from_str_radix(digits, radix).ok();
    match written.as_bytes() {
        [b'0', b'x' | b'X', ..] => radix(&written[2..], 16),
        [b'0', b'b' | b'B', ..] => radix(&written[2..], 2),
        [b'0', _, ..] => radix(&written[1..], 8),
        _ => radix(written, 10),
    }
}

/// `value` under a sign, as bits of 64; `None` below the least integer.
pub(super) fn signed(value: u64, negative: bool) -> Option<i64> {
    match (negative, value) {
        (false, _) => Some(value as i64),
        (true, 0..=0x8000_0000_0000_0000) => Some((value as i64).wrapping_neg()),
        (true, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_read_as_written() {
        use Literal::{Float32, Float64, Integer};
        for (written, expected) in [
            ("0", Some(Integer(0))),
            ("12", Some(Integer(12))),
            ("12U", Some(Integer(12))),
            ("0x1fU", Some(Integer(31))),
            ("0X1F", Some(Integer(31))),
            ("017", Some(Integer(15))),
            ("018", None),
            ("0b101", Some(Integer(5))),
            ("0b102", None),
            ("18446744073709551615", Some(Integer(u64::MAX))),
            ("18446744073709551616", None),
            ("0xFFFFFFFFFFFFFFFF", Some(Integer(u64::MAX))),
            ("0f3F800000", Some(Float32(0x3F80_0000))),
            ("0F3f800000", Some(Float32(0x3F80_0000))),
            ("0f3F80000", None),
            ("0d3FF0000000000000", Some(Float64(0x3FF0_0000_0000_0000))),
            ("0d3FF", None),
            ("1.5", Some(Float64(1.5f64.to_bits()))),
            ("1e-3", Some(Float64(1e-3f64.to_bits()))),
            ("2.", Some(Float64(2f64.to_bits()))),
            ("0x1E", Some(Integer(30))),
            ("12abc", None),
            ("0x", None),
        ] {
            assert_eq!(literal(written), expected, "{written}");
        }
    }

    #[test]
    fn signs_reach_the_least_integer() {
        assert_eq!(signed(1 << 63, true), Some(i64::MIN));
        assert_eq!(signed((1 << 63) + 1, true), None);
        assert_eq!(signed(u64::MAX, false), Some(-1));
    }
}
