//! What a run says while it works: a bar on a terminal, plain lines elsewhere. All on stderr.

use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};

/// Progress of one phase of known length.
#[derive(Debug)]
pub(crate) struct Progress {
    /// `None` where there is no terminal.
    bar: Option<ProgressBar>,
    name: &'static str,
    len: usize,
    /// Plain lines come every so many units.
    line_every: usize,
}

impl Progress {
    /// A phase of `len` units; without a terminal every `line_every`-th unit gets a line, 0 is none.
    pub(crate) fn new(name: &'static str, len: usize, line_every: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg} {eta}")
                .expect("the template is valid");
            ProgressBar::new(len as u64).with_style(style).with_prefix(name)
        });
        Self { bar, name, len, line_every }
    }

    /// Says that `done` units are done.
    pub(crate) fn set(&self, done: usize, message: impl FnOnce() -> String) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(message());
                bar.set_position(done as u64);
            }
            None if self.line_every > 0
                && (done.is_multiple_of(self.line_every) || done == self.len) =>
            {
                say(&format!("{} {done}/{}  {}", self.name, self.len, message()));
            }
            None => {}
        }
    }

    /// Writes a line that stays.
    pub(crate) fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
    }

    /// Ends the phase.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

/// A line on stderr. Losing it (a closed pipe) must not end a run.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
