//! Requests to end a run before its last step.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Why a run ends before its last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// SIGINT, as from Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// The time given by `--max-time` is over.
    Time,
}

impl Stop {
    /// Exit code of the process, as shells report a signal; a run that used its time up did what it was told.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
            Self::Time => 0,
        }
    }
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
            Self::Time => "--max-time",
        })
    }
}

/// What may ask a run to stop.
#[derive(Debug, Default)]
pub struct Stops {
    /// Number of the signal that came, or 0.
    signal: Arc<AtomicUsize>,
    deadline: Option<Instant>,
}

impl Stops {
    /// Listens for SIGINT and SIGTERM from now on; a second one ends the process at once. `deadline` is when the
    /// run should have stopped by itself.
    pub fn listen(deadline: Option<Instant>) -> Result<Self> {
        let (signal, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        for (number, stop) in [(SIGINT, Stop::Interrupt), (SIGTERM, Stop::Terminate)] {
            let code = stop.exit_code().into();
            // In this order: the first signal must not find what it sets itself.
            flag::register_conditional_shutdown(number, code, Arc::clone(&seen))
                .and_then(|_| flag::register(number, Arc::clone(&seen)))
                .and_then(|_| flag::register_usize(number, Arc::clone(&signal), number as usize))
                .with_context(|| format!("cannot listen for {stop}"))?;
        }
        Ok(Self { signal, deadline })
    }

    /// Why to stop now, if there is a reason; `next` is how long what comes next is expected to take.
    pub fn requested(&self, next: Duration) -> Option<Stop> {
        match self.signal.load(Ordering::Relaxed) as i32 {
            SIGINT => Some(Stop::Interrupt),
            SIGTERM => Some(Stop::Terminate),
            _ => self.deadline.filter(|end| Instant::now() + next > *end).map(|_| Stop::Time),
        }
    }
}

/// A run that was asked to stop, did, and can go on.
#[derive(Debug, thiserror::Error)]
#[error("stopped by {stop} {stood}; go on with:\n  {command}")]
pub struct Stopped {
    /// Why.
    pub stop: Stop,
    /// Where the run stood, e.g. `after step 7 of 20`.
    pub stood: String,
    /// What goes on.
    pub command: String,
}

/// Parses `90m`, `1h30m`, `45 s`.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration =
        text.parse().map_err(|_| "expected a time such as 90m or 1h30m".to_owned())?;
    let time = Duration::try_from(span).ok().filter(|time| !time.is_zero());
    time.ok_or_else(|| "the time must be above 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_people_write_them() {
        for (text, seconds) in [("90m", 5400), ("1h30m", 5400), ("45s", 45), ("1h 1s", 3601)] {
            assert_eq!(parse_time(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "0s", "-5m", "soon", "90"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_step_that_would_end_too_late_is_not_begun() {
        let stops =
            Stops { deadline: Some(Instant::now() + Duration::from_hours(1)), ..Stops::default() };
        assert_eq!(stops.requested(Duration::from_mins(1)), None);
        assert_eq!(stops.requested(Duration::from_mins(61)), Some(Stop::Time));
        stops.signal.store(SIGTERM as usize, Ordering::Relaxed);
        assert_eq!(stops.requested(Duration::ZERO), Some(Stop::Terminate));
        assert_eq!(Stops::default().requested(Duration::from_mins(61)), None);
    }
}
