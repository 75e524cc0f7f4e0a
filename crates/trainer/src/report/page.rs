//! The page around the charts.

use super::chart::{Curve, chart, number, smoothed};
use super::preflight::Preflight;
use super::{Contents, escaped, samples};
use crate::metrics::{AnswersRow, EvalRow, Row, SkippedRow, StepRow};

const STYLE: &str = include_str!("style.css");

/// No script and no request, whatever is in the data.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

/// Most lines of a list on the page.
const MOST_LINES: usize = 50;

/// The whole page.
pub(super) fn render(title: &str, contents: &Contents) -> String {
    let Contents { rows, recipe, preflight, samples } = contents;
    let run = Run::of(rows);
    let body = [
        format!("<h1>{}</h1>", escaped(title)),
        run.tiles(),
        run.charts(),
        run.evaluations(),
        run.skipped(),
        samples::section(samples, &run.answers),
        preflight.as_ref().map_or_else(String::new, Preflight::section),
        format!("<h2>Recipe</h2><pre>{}</pre>", escaped(recipe)),
    ];
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <link rel=\"icon\" href=\"data:,\"><title>{}</title><style>{STYLE}</style></head>\
         <body><main>{}</main></body></html>\n",
        escaped(title),
        body.concat()
    )
}

#[derive(Default)]
struct Run<'a> {
    steps: Vec<&'a StepRow>,
    evals: Vec<&'a EvalRow>,
    skipped: Vec<&'a SkippedRow>,
    answers: Vec<&'a AnswersRow>,
}

impl<'a> Run<'a> {
    fn of(rows: &'a [Row]) -> Self {
        let mut run = Self::default();
        for row in rows {
            match row {
                Row::Step(row) => run.steps.push(row),
                Row::Eval(row) => run.evals.push(row),
                Row::Skipped(row) => run.skipped.push(row),
                Row::Answers(row) => run.answers.push(row),
            }
        }
        run
    }

    fn points(&self, of: impl Fn(&StepRow) -> f64) -> Vec<(f64, f64)> {
        self.steps.iter().map(|row| (row.step as f64, of(row))).collect()
    }

    fn tiles(&self) -> String {
        let mut tiles = Vec::new();
        if let (Some(first), Some(last)) = (self.steps.first(), self.steps.last()) {
            tiles.push(("Steps", last.step.to_string(), format!("{} epochs", number(last.epoch))));
            tiles.push(("Loss", number(last.loss), format!("from {}", number(first.loss))));
        }
        let best = self.evals.iter().min_by(|a, b| a.eval_loss.total_cmp(&b.eval_loss));
        if let Some(best) = best {
            let about = format!("perplexity {}, step {}", number(best.perplexity), best.step);
            tiles.push(("Best evaluation", number(best.eval_loss), about));
        }
        if let Some(last) = self.steps.last() {
            let tokens: usize = self.steps.iter().map(|row| row.tokens).sum();
            let seconds: f64 =
                self.steps.iter().map(|row| row.tokens as f64 / row.tokens_per_second).sum();
            tiles.push(("Tokens/s", number(tokens as f64 / seconds), format!("{tokens} tokens")));
            tiles.push(("Time", time(last.elapsed_s), "with evaluations".to_owned()));
            if let Some(bytes) = last.peak_rss_bytes {
                tiles.push((
                    "Peak memory",
                    format!("{:.2} GB", bytes as f64 / 1e9),
                    "of the process".to_owned(),
                ));
            }
        }
        let tile = |(name, value, about): (&str, String, String)| {
            format!("<div><dt>{name}</dt><dd>{value}<small>{about}</small></dd></div>")
        };
        if tiles.is_empty() {
            return "<p>No step was taken yet.</p>".to_owned();
        }
        format!("<dl class=\"tiles\">{}</dl>", tiles.into_iter().map(tile).collect::<String>())
    }

    fn charts(&self) -> String {
        let curve = |class, name, points, marked| Curve { class, name, points, marked };
        let one = |title, points| chart(title, &[curve("train", title, points, false)]);
        let loss = self.points(|row| row.loss);
        let evals = self.evals.iter().map(|row| (row.step as f64, row.eval_loss)).collect();
        let curves = [
            curve("faint", "each step", loss.clone(), false),
            curve("train", "moving mean", smoothed(&loss), false),
            curve("eval", "evaluation", evals, true),
        ];
        let memory =
            self.points(|row| row.peak_rss_bytes.map_or(f64::NAN, |bytes| bytes as f64 / 1e9));
        let charts = [
            chart("Loss", &curves),
            one("Gradient norm", self.points(|row| row.grad_norm)),
            one("Learning rate", self.points(|row| row.lr)),
            one("Tokens/s", self.points(|row| row.tokens_per_second)),
            one("Peak memory, GB", memory),
        ];
        format!("<div class=\"charts\">{}</div>", charts.into_iter().flatten().collect::<String>())
    }

    fn evaluations(&self) -> String {
        if self.evals.is_empty() {
            return String::new();
        }
        let row = |row: &&EvalRow| {
            let EvalRow { step, eval_loss, perplexity, elapsed_s, .. } = row;
            format!(
                "<tr><td>{step}</td><td>{eval_loss:.4}</td><td>{}</td><td>{}</td></tr>",
                number(*perplexity),
                time(*elapsed_s)
            )
        };
        let left_out = self.evals.len().saturating_sub(MOST_LINES);
        let rows: String = self.evals[left_out..].iter().map(row).collect();
        format!(
            "<h2>Evaluations</h2><table><thead><tr><th>Step</th><th>Loss</th><th>Perplexity</th><th>Time</th></tr>\
             </thead><tbody>{rows}</tbody></table>"
        )
    }

    fn skipped(&self) -> String {
        if self.skipped.is_empty() {
            return String::new();
        }
        let line =
            |row: &&SkippedRow| format!("<li>step {}: {}</li>", row.step, escaped(&row.skipped));
        let lines: String = self.skipped.iter().take(MOST_LINES).map(line).collect();
        format!("<h2>{} steps passed over</h2><ul>{lines}</ul>", self.skipped.len())
    }
}

fn time(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, _) => format!("{seconds:.1} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use data::Stats;
    use data::preflight::{Check, Finding, Histogram, Report, SideReport};

    use super::*;
    use crate::sft::Sample;

    fn step(step: usize, loss: f64) -> Row {
        Row::Step(StepRow {
            step,
            epoch: step as f64 / 4.0,
            loss,
            lr: 1e-4,
            grad_norm: 0.5,
            tokens: 100,
            trained_tokens: 40,
            tokens_per_second: 50.0,
            peak_rss_bytes: Some(2_000_000_000),
            elapsed_s: 2.0 * step as f64,
        })
    }

    fn side() -> SideReport {
        SideReport {
            read: 3,
            bad: 0,
            left_out: 0,
            dropped: 0,
            truncated: 0,
            stats: Stats { rows: 3, tokens: 100, trained_tokens: 40, longest: 20 },
            bins: None,
            lengths: Histogram::new([20, 10, 10].into_iter()),
        }
    }

    #[test]
    fn a_page_shows_the_run_and_asks_for_nothing() {
        let skipped = "the loss <script>".to_owned();
        let rows = [
            Row::Eval(EvalRow {
                step: 0,
                eval_loss: 3.0,
                perplexity: 20.1,
                eval_trained_tokens: 9,
                elapsed_s: 0.1,
            }),
            step(1, 2.0),
            Row::Skipped(SkippedRow { step: 2, skipped, lr: 1e-4, elapsed_s: 3.0 }),
            step(3, 1.25),
        ];
        let text = |text: &str| Some(text.to_owned());
        let sample = Sample {
            place: "<b>rows</b>".to_owned(),
            prompt: "</pre><script>alert(1)</script>".to_owned(),
            expected: " yes\n".to_owned(),
            before: text("\"><img src=x onerror=alert(1)>"),
            after: text("yes"),
        };
        let finding = Finding {
            check: Check::Duplicates,
            fatal: false,
            message: "<i>twice</i>".to_owned(),
            places: vec!["a<b, line 1".to_owned()],
            count: 7,
        };
        let report = Report { train: side(), eval: Some(side()), findings: vec![finding] };
        let preflight = serde_json::to_value(report).unwrap();
        let contents = Contents {
            rows: rows.to_vec(),
            recipe: "[train]\nseed = 1\nname = \"a & b\"".to_owned(),
            preflight: serde_json::from_value(preflight).unwrap(),
            samples: vec![sample],
        };
        let page = render("runs/<first>", &contents);
        for expected in [
            "runs/&lt;first&gt;",
            "<dd>3<small>",
            "<dd>1.25<small>from 2",
            "perplexity 20.1",
            "Gradient norm",
            "the loss &lt;script&gt;",
            "a &amp; b",
            "2.00 GB",
            "After (as expected)",
            "<figcaption>Before</figcaption><pre>&quot;&gt;&lt;img",
            "<pre>&lt;/pre&gt;&lt;script&gt;",
            "&lt;b&gt;rows",
            "&lt;i&gt;twice&lt;/i&gt;<small>a&lt;b, line 1, ...</small>",
            "<td>40 (40.0 %)</td><td>40 (40.0 %)</td>",
            "<dt>19 to 20</dt><dd><i style=\"width:50.0%\"></i>1</dd>",
        ] {
            assert!(page.contains(expected), "no {expected:?} in {page}");
        }
        for request in ["http:", "https:", "<script", "<img", "url(", "@import"] {
            assert!(!page.contains(request), "{request}");
        }
    }

    #[test]
    fn a_run_without_steps_has_a_page() {
        assert!(render("r", &Contents::default()).contains("No step was taken yet"));
        assert_eq!(
            (time(0.5), time(61.0), time(7260.0)),
            ("0.5 s".into(), "1 min 1 s".into(), "2 h 1 min".into())
        );
    }
}
