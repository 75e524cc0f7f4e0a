//! The table on standard output.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Entry, Part, Phase, Profile};

pub(super) fn render(profile: &Profile) -> String {
    let steps = profile.steps;
    let mut table = format!("profile of {steps} steps, means of one\n");
    line(&mut table, "", ["calls", "ms", "share"].map(str::to_owned));
    let figures = |calls: Option<usize>, time: Duration| {
        let ms = 1e3 * time.as_secs_f64() / steps as f64;
        let share = 100.0 * time.as_secs_f64() / profile.total.as_secs_f64();
        // Windows at the end of an epoch may be smaller, so that a mean need not be whole.
        let calls = calls.map(|calls| ((10 * calls) as f64 / steps as f64).round() / 10.0);
        [
            calls.map_or_else(String::new, |x| x.to_string()),
            format!("{ms:.2}"),
            format!("{share:.1} %"),
        ]
    };
    for phase in Phase::ALL {
        let mut entries: Vec<(&Part, &Entry)> = profile
            .entries
            .iter()
            .filter_map(|((of, part), entry)| (*of == phase).then_some((part, entry)))
            .collect();
        if entries.is_empty() {
            continue;
        }
        entries.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.time));
        let whole = entries.iter().map(|(_, entry)| entry.time).sum();
        line(&mut table, phase.name(), figures(None, whole));
        for (part, entry) in entries {
            let (name, calls) = match part {
                Part::Operation(name) => (name.as_str(), Some(entry.calls)),
                Part::Outside => ("outside operations", None),
            };
            line(&mut table, &format!("  {name}"), figures(calls, entry.time));
        }
    }
    line(&mut table, "step", figures(None, profile.total));
    table
}

fn line(table: &mut String, name: &str, [calls, ms, share]: [String; 3]) {
    writeln!(table, "  {name:<26}{calls:>8}{ms:>12}{share:>10}").expect("strings take everything");
}
