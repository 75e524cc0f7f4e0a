//! Line charts in SVG.

use std::fmt::Write as _;

/// Points of a curve that a chart shows: more than a screen has.
const MOST_POINTS: usize = 600;

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 230.0;
/// Room for labels: left, right, top, bottom.
const MARGINS: [f64; 4] = [52.0, 10.0, 10.0, 24.0];

/// A curve: its style's name, its name, and its points by step.
pub(super) struct Curve<'a> {
    pub(super) class: &'a str,
    pub(super) name: &'a str,
    pub(super) points: Vec<(f64, f64)>,
    /// Whether each point is marked.
    pub(super) marked: bool,
}

/// A chart of all curves over one axis of steps. Values that are not finite are left out; `None` without any.
pub(super) fn chart(title: &str, curves: &[Curve<'_>]) -> Option<String> {
    let finite = |(x, y): &&(f64, f64)| x.is_finite() && y.is_finite();
    let all = || curves.iter().flat_map(|curve| curve.points.iter().filter(finite));
    let range = |of: fn(&(f64, f64)) -> f64| {
        all().map(of).fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)))
    };
    let (x, y) = (range(|p| p.0), range(|p| p.1));
    if x.0 > x.1 {
        return None;
    }
    let ticks = ticks(y.0, y.1);
    let y = (y.0.min(ticks[0]), y.1.max(*ticks.last().expect("at least two")));
    let place = Place { x: (x.0, x.1.max(x.0 + 1.0)), y };

    let [left, right, _, bottom] = MARGINS;
    let mut svg = format!(
        "<figure><figcaption>{title}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">"
    );
    for tick in ticks {
        let at = place.y(tick);
        let (end, label) = (WIDTH - right, number(tick));
        write!(
            svg,
            "<path class=\"grid\" d=\"M{left} {at:.1}H{end}\"/><text x=\"{:.1}\" y=\"{:.1}\" class=\"y\">{label}</text>",
            left - 6.0,
            at + 4.0
        )
        .expect("strings take everything");
    }
    for (step, class) in [(place.x.0, "start"), (place.x.1, "end")] {
        let (at, below) = (place.x(step), HEIGHT - bottom + 17.0);
        write!(
            svg,
            "<text x=\"{at:.1}\" y=\"{below:.1}\" class=\"{class}\">{}</text>",
            number(step)
        )
        .expect("strings take everything");
    }
    for Curve { class, points, marked, .. } in curves {
        let points: Vec<_> = thinned(points.iter().copied().filter(|p| finite(&p)).collect());
        let line: Vec<String> = points.iter().map(|p| place.text(*p)).collect();
        write!(svg, "<polyline class=\"{class}\" points=\"{}\"/>", line.join(" "))
            .expect("strings take everything");
        if *marked || points.len() == 1 {
            for &(step, value) in &points {
                let (x, y, value) = (place.x(step), place.y(value), number(value));
                write!(
                    svg,
                    "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"><title>step {step}: {value}</title></circle>"
                )
                .expect("strings take everything");
            }
        }
    }
    svg.push_str("</svg>");
    if curves.len() > 1 {
        let names = curves.iter().filter(|curve| !curve.points.is_empty());
        let names = names.map(|c| format!("<span class=\"{}\">{}</span>", c.class, c.name));
        write!(svg, "<p class=\"key\">{}</p>", names.collect::<String>())
            .expect("strings take everything");
    }
    svg.push_str("</figure>");
    Some(svg)
}

struct Place {
    x: (f64, f64),
    y: (f64, f64),
}

impl Place {
    fn x(&self, step: f64) -> f64 {
        let [left, right, ..] = MARGINS;
        left + (step - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - left - right)
    }

    fn y(&self, value: f64) -> f64 {
        let [.., top, bottom] = MARGINS;
        HEIGHT - bottom - (value - self.y.0) / (self.y.1 - self.y.0) * (HEIGHT - top - bottom)
    }

    fn text(&self, (step, value): (f64, f64)) -> String {
        format!("{:.1},{:.1}", self.x(step), self.y(value))
    }
}

/// Four to seven round numbers that cover `least..=most`, rising.
fn ticks(least: f64, most: f64) -> Vec<f64> {
    // Where all values are one, some room around it.
    let spread = if most > least { most - least } else { most.abs().max(1e-9) };
    let raw = spread / 4.0;
    let power = 10f64.powf(raw.log10().floor());
    let step =
        [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= raw * 0.999);
    let step = step.unwrap_or(10.0 * power);
    let first = (least / step).floor();
    let last = (most / step).ceil().max(first + 1.0);
    (0..=(last - first) as usize).map(|i| (first + i as f64) * step).collect()
}

/// A mean of neighbours for each point that is shown.
fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    if points.len() <= MOST_POINTS {
        return points;
    }
    let size = points.len().div_ceil(MOST_POINTS);
    let mean = |chunk: &[(f64, f64)]| {
        let n = chunk.len() as f64;
        (chunk.iter().map(|p| p.0).sum::<f64>() / n, chunk.iter().map(|p| p.1).sum::<f64>() / n)
    };
    points.chunks(size).map(mean).collect()
}

/// A moving mean whose memory is a sixtieth of the curve, from its first value on.
pub(super) fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let keep = 1.0 - 1.0 / (points.len() as f64 / 60.0).max(1.0);
    let mut mean = None;
    let smooth = |&(step, value): &(f64, f64)| {
        let next = mean.map_or(value, |mean: f64| keep * mean + (1.0 - keep) * value);
        mean = Some(next);
        (step, next)
    };
    points.iter().filter(|p| p.1.is_finite()).map(smooth).collect()
}

/// Three significant digits.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if value == 0.0 => "0".to_owned(),
        _ if !(1e-3..1e6).contains(&size) => format!("{value:.1e}"),
        _ if value.fract() == 0.0 || size >= 1000.0 => format!("{value:.0}"),
        _ => {
            let digits = (2 - size.log10().floor() as i32).max(0) as usize;
            let text = format!("{value:.digits$}");
            let text = if text.contains('.') {
                text.trim_end_matches('0').trim_end_matches('.')
            } else {
                &text
            };
            text.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(points: &[(f64, f64)]) -> Curve<'static> {
        Curve { class: "a", name: "n", points: points.to_vec(), marked: false }
    }

    #[test]
    fn ticks_are_round_and_cover_the_values() {
        assert_eq!(ticks(0.0, 4.0), [0.0, 1.0, 2.0, 3.0, 4.0]);
        for (least, most) in
            [(0.1, 0.9), (-3.0, 7.5), (5.0, 5.0), (0.0, 0.0), (1e-7, 2e-4), (9.0, 1e9)]
        {
            let ticks = ticks(least, most);
            assert!((2..=8).contains(&ticks.len()), "{least} {most}: {ticks:?}");
            assert!(ticks[0] <= least && *ticks.last().unwrap() >= most * 0.999_999, "{ticks:?}");
        }
    }

    #[test]
    fn any_values_make_a_chart_of_finite_places() {
        let many: Vec<_> = (0..10_000).map(|i| (f64::from(i), f64::from(i % 7))).collect();
        for points in
            [&[(1.0, 2.0)][..], &[(1.0, f64::NAN), (2.0, f64::INFINITY), (3.0, 1.0)], &many]
        {
            let svg = chart("t", &[curve(points)]).unwrap();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            assert!(svg.len() < 20_000, "{}", svg.len());
        }
        assert!(
            chart("t", &[curve(&[])]).is_none()
                && chart("t", &[curve(&[(1.0, f64::NAN)])]).is_none()
        );
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (1.5, "1.5"),
            (0.0123, "0.0123"),
            (1234.5, "1234"),
            (2e-4, "2.0e-4"),
            (30.0, "30"),
            (0.1 + 0.2, "0.3"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
