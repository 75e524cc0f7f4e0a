//! What the program says while it works: `tracing` events, on stderr.
//!
//! As text an event is its message alone, as JSON it has its time, level and fields. Neither tears a progress bar.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use clap::ValueEnum;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;

use crate::UsageError;
use crate::progress;

/// The variable with a filter, where the command line has none.
const VARIABLE: &str = "QLORA_LOG";

/// Options of every command.
#[derive(Debug, clap::Args)]
pub(crate) struct LogArgs {
    /// What to say: error, warn, info, debug or trace, also by part of the program, as
    /// `info,trainer::sft=debug` [env: `QLORA_LOG`] [default: info].
    #[arg(long, global = true, value_name = "FILTER")]
    log_level: Option<Filter>,
    /// Say more: --log-level debug.
    #[arg(short, long, global = true, conflicts_with_all = ["log_level", "quiet"])]
    verbose: bool,
    /// Say nothing but warnings and errors: --log-level warn.
    #[arg(short, long, global = true, conflicts_with = "log_level")]
    quiet: bool,
    /// How to say it on stderr. As JSON, a line is an object with time, level, message and fields.
    #[arg(long, global = true, value_name = "FORMAT", value_enum, default_value_t)]
    log_format: LogFormat,
}

/// Form of a line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// The message.
    #[default]
    Text,
    /// An object.
    Json,
}

/// Levels by part of the program.
#[derive(Debug, Clone)]
struct Filter(Targets);

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let targets = text.parse().map_err(|_| {
            "expected error, warn, info, debug, trace, or parts as info,trainer::sft=debug"
                .to_owned()
        })?;
        Ok(Self(targets))
    }
}

impl LogArgs {
    /// Says from now on what was asked for.
    pub(crate) fn init(self) -> Result<(), UsageError> {
        let level = |level: LevelFilter| Targets::new().with_default(level);
        // What is wrong with the variable must be said, too.
        let (usual, problem) = match from_environment() {
            Ok(given) => (given.unwrap_or_else(|| level(LevelFilter::INFO)), Ok(())),
            Err(error) => (level(LevelFilter::INFO), Err(error)),
        };
        let filter = match self.log_level {
            Some(Filter(targets)) => targets,
            None if self.verbose => level(LevelFilter::DEBUG),
            None if self.quiet => level(LevelFilter::WARN),
            None => usual,
        };
        let layer = tracing_subscriber::fmt::layer().with_writer(|| Stderr);
        let registry = tracing_subscriber::registry();
        // A second command in one process, as tests have it, goes on with what the first one set.
        let _ = match self.log_format {
            LogFormat::Text => {
                registry.with(layer.event_format(Text).with_filter(filter)).try_init()
            }
            LogFormat::Json => {
                progress::hide_bars();
                registry.with(layer.json().flatten_event(true).with_filter(filter)).try_init()
            }
        };
        problem
    }
}

fn from_environment() -> Result<Option<Targets>, UsageError> {
    match std::env::var(VARIABLE) {
        Ok(text) if !text.is_empty() => {
            let filter = text.parse::<Filter>();
            let filter = filter.map_err(|e| UsageError(format!("{VARIABLE}={text}: {e}")))?;
            Ok(Some(filter.0))
        }
        _ => Ok(None),
    }
}

/// The message, after its level where that is not the usual one.
struct Text;

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        writer.write_str(match *event.metadata().level() {
            Level::ERROR => "error: ",
            Level::WARN => "warning: ",
            Level::INFO => "",
            Level::DEBUG => "debug: ",
            Level::TRACE => "trace: ",
        })?;
        let mut message = Message { writer: writer.by_ref(), result: Ok(()) };
        event.record(&mut message);
        message.result?;
        writer.write_char('\n')
    }
}

/// Writes an event's message; its fields say the same to programs.
struct Message<'w> {
    writer: Writer<'w>,
    result: fmt::Result,
}

impl Visit for Message<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.result = write!(self.writer, "{value:?}");
        }
    }
}

/// Standard error, with a bar out of the way. Losing a line (a closed pipe) must not end a run.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        progress::suspended(|| {
            let _ = io::stderr().write_all(line);
        });
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
