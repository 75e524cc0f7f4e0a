use std::time::Instant;

use super::*;

/// A span of the current thread, times in ms.
fn event(begin: Instant, name: &'static str, depth: usize, start: u64, duration: u64) -> Event {
    Event {
        name: name.into(),
        thread: std::thread::current().id(),
        start: begin + Duration::from_millis(start),
        duration: Duration::from_millis(duration),
        depth,
    }
}

/// A step of 100 ms, in order of ends as it is recorded.
fn step(begin: Instant) -> Vec<Event> {
    let event = |name, depth, start, duration| event(begin, name, depth, start, duration);
    vec![
        event("linear", 3, 1, 20),
        event("linear", 3, 21, 10),
        event("layer 0", 2, 1, 34),
        event("linear_cross_entropy", 2, 35, 3),
        event("forward", 1, 0, 40),
        // Recomputed.
        event("linear", 3, 42, 7),
        event("layer 0", 2, 42, 8),
        event("linear_backward", 2, 50, 30),
        event("backward", 1, 40, 50),
        event("squared_norm", 1, 90, 2),
        event("adamw", 2, 92, 5),
        event("optimizer", 1, 92, 6),
        event("step 2", 0, 0, 100),
    ]
}

fn profile(steps: u64) -> Profile {
    let (mut profile, begin) = (Profile::default(), Instant::now());
    for i in 0..steps {
        profile.add(step(begin + Duration::from_millis(100 * i)));
    }
    profile
}

#[test]
fn every_operation_is_counted_in_its_phase() {
    let profile = profile(4);
    let found = |phase, part: Part| {
        let Entry { calls, time } = &profile.entries[&(phase, part)];
        (*calls, time.as_millis())
    };
    let operation = |phase, name: &str| found(phase, Part::Operation(name.to_owned()));
    assert_eq!(operation(Phase::Forward, "linear"), (8, 4 * 30));
    assert_eq!(operation(Phase::Forward, "linear_cross_entropy"), (4, 4 * 3));
    assert_eq!(operation(Phase::Backward, "linear"), (4, 4 * 7));
    assert_eq!(operation(Phase::Backward, "linear_backward"), (4, 4 * 30));
    assert_eq!(operation(Phase::Optimizer, "adamw"), (4, 4 * 5));
    assert_eq!(operation(Phase::Rest, "squared_norm"), (4, 4 * 2));
    // 40 - 34 - 3 of the forward and 34 - 30 of its layer.
    assert_eq!(found(Phase::Forward, Part::Outside).1, 4 * 7);
    assert_eq!(found(Phase::Rest, Part::Outside).1, 4 * 2);
    assert_eq!(profile.entries.len(), 10);
}

#[test]
fn the_numbers_of_the_table_add_up() {
    let table = profile(4).table();
    let (mut phases, mut parts, mut total) = (0.0, 0.0, 0.0);
    for line in table.lines().skip(2) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let ms: f64 = fields[fields.len() - 3].parse().unwrap();
        let share: f64 = fields[fields.len() - 2].parse().unwrap();
        // A step takes 100 ms, so that one is the other.
        assert!((ms - share).abs() < 0.051, "{line}");
        match line.trim_start() {
            text if text.starts_with("step ") => total += ms,
            _ if line.starts_with("    ") => parts += ms,
            _ => phases += ms,
        }
    }
    assert_eq!((phases, parts, total), (100.0, 100.0, 100.0), "{table}");
    let words: Vec<String> =
        table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert!(words.contains(&"linear 2 30.00 30.0 %".to_owned()), "{table}");
}

#[test]
fn the_trace_holds_the_last_steps_and_its_events_nest() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trace.json");
    profile(5).write_trace(&path).unwrap();
    let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    assert_eq!(events.len(), KEPT_STEPS * 13);
    let span = |event: &serde_json::Value| {
        assert_eq!(event["ph"], "X");
        let start = event["ts"].as_f64().unwrap();
        (start, start + event["dur"].as_f64().unwrap())
    };
    assert_eq!(span(&events[0]), (0.0, 100_000.0));
    let spans: Vec<(f64, f64)> = events.iter().map(span).collect();
    for (i, a) in spans.iter().enumerate() {
        for b in &spans[i + 1..] {
            let (apart, inside) = (a.1 <= b.0, a.0 <= b.0 && b.1 <= a.1);
            assert!(apart || inside, "{a:?} {b:?}");
        }
    }
}

#[test]
fn a_step_is_recorded_as_it_runs() {
    use kernels::trace::span;
    let mut profile = Profile::default();
    let result = profile.step(|| {
        let _step = span(|| "step 1");
        let _phase = span(|| "forward");
        drop(span(|| "linear"));
        7
    });
    assert_eq!((result, profile.steps()), (7, 1));
    let linear = (Phase::Forward, Part::Operation("linear".to_owned()));
    assert_eq!(profile.entries[&linear].calls, 1);
}
