//! How good an answer is, against the one that a row has.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// How good answers are, all together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Share of the answers that are [`exact`].
    pub exact_match: f64,
    /// How many that is.
    pub matches: usize,
    /// Share of the answers that come to the [`same_number`], of the rows that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number_match: Option<f64>,
    /// Mean [`f1`].
    pub f1: f64,
}

impl Scores {
    /// Of pairs of an answer and the expected one; `None` where there are none.
    pub fn of<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Option<Self> {
        let (mut count, mut matches, mut sum) = (0, 0, 0.0);
        let mut numbers = Vec::new();
        for (answer, expected) in pairs {
            count += 1;
            matches += usize::from(exact(answer, expected));
            numbers.extend(same_number(answer, expected));
            sum += f1(answer, expected);
        }
        let right = numbers.iter().filter(|right| **right).count();
        (count > 0).then(|| Self {
            exact_match: matches as f64 / count as f64,
            matches,
            number_match: (!numbers.is_empty()).then(|| right as f64 / numbers.len() as f64),
            f1: sum / count as f64,
        })
    }
}

/// Whether they are the same, spaces at the ends aside.
pub fn exact(answer: &str, expected: &str) -> bool {
    answer.trim() == expected.trim()
}

/// The last number of a text, which is what an answer with a derivation comes to: `72` of `48 + 24 = 72. #### 72.`
///
/// Commas between groups of three digits are no part of it, nor are signs of currency or a full stop after it.
pub fn last_number(text: &str) -> Option<f64> {
    let part = |c: char| c.is_ascii_digit() || matches!(c, '.' | ',' | '-');
    let candidates =
        text.split(|c: char| !part(c)).filter(|word| word.contains(|c: char| c.is_ascii_digit()));
    candidates.filter_map(number).next_back()
}

fn number(word: &str) -> Option<f64> {
    let word = word.trim_end_matches(['.', ',', '-']);
    // A minus stands before a number; between two it is a dash.
    let (before, digits) = word.rsplit_once('-').unwrap_or(("", word));
    let negative = word.contains('-') && before.is_empty();
    let digits: String = digits.chars().filter(|c| *c != ',').collect();
    let value: f64 = digits.parse().ok()?;
    Some(if negative { -value } else { value })
}

/// Whether both come to the same number; `None` where the expected answer has none.
pub fn same_number(answer: &str, expected: &str) -> Option<bool> {
    let expected = last_number(expected)?;
    let close = |found: f64| (found - expected).abs() <= 1e-9 * expected.abs().max(1.0);
    Some(last_number(answer).is_some_and(close))
}

/// F1 of the words that both have, as `SQuAD` counts it: in lower case, without punctuation and articles.
pub fn f1(answer: &str, expected: &str) -> f64 {
    let (answer, expected) = (words(answer), words(expected));
    if answer.is_empty() || expected.is_empty() {
        return f64::from(u8::from(answer == expected));
    }
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in &expected {
        *left.entry(word).or_default() += 1;
    }
    let common = answer.iter().filter(|word| match left.get_mut(word.as_str()) {
        Some(count) if *count > 0 => {
            *count -= 1;
            true
        }
        _ => false,
    });
    2.0 * common.count() as f64 / (answer.len() + expected.len()) as f64
}

fn words(text: &str) -> Vec<String> {
    let kept = text.to_lowercase().replace(|c: char| c.is_ascii_punctuation(), "");
    let words = kept.split_whitespace().filter(|word| !["a", "an", "the"].contains(word));
    words.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_number_counts() {
        for (text, expected) in [
            ("48 + 24 = 72. #### 72.", Some(72.0)),
            ("It costs $1,234.50.", Some(1234.5)),
            ("minus: -3", Some(-3.0)),
            ("from 3-5", Some(5.0)),
            ("7, or so", Some(7.0)),
            ("1.2.3 and then", None),
            ("none", None),
            ("- . ,", None),
        ] {
            assert_eq!(last_number(text), expected, "{text}");
        }
        assert_eq!(same_number("so 72.0", "#### 72"), Some(true));
        assert_eq!(same_number("none", "#### 72"), Some(false));
        assert_eq!(same_number("72", "none"), None);
    }

    #[test]
    fn scores_are_shares_of_the_answers() {
        let pairs = [(" 7", "7"), ("so 7", "7"), ("blue cat", "red cat"), ("7", "blue")];
        let scores = Scores::of(pairs).unwrap();
        assert_eq!((scores.matches, scores.exact_match), (1, 0.25));
        assert_eq!(scores.number_match, Some(1.0), "of the two rows with a number");
        assert_eq!(scores.f1, (1.0 + 2.0 / 3.0 + 0.5) / 4.0);
        assert_eq!(Scores::of([("a", "b")]).unwrap().number_match, None);
        assert_eq!(Scores::of([]), None);
    }

    #[test]
    fn words_are_counted_once_each() {
        assert_eq!(f1("The cat sat.", "a cat SAT"), 1.0);
        assert_eq!(f1("cat cat", "cat dog"), 0.5);
        assert_eq!(f1("bird", "cat"), 0.0);
        assert_eq!((f1("", ""), f1("", "cat"), f1("the", "a")), (1.0, 0.0, 1.0));
        assert!(exact(" a\n", "a") && !exact("A", "a"));
    }
}
