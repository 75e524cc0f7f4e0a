//! How far a run is: a bar on a terminal, plain lines elsewhere. All on stderr.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressStyle};
use tracing::{Level, enabled, info};

/// The bar on the terminal, which every line goes around.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);
static HIDDEN: AtomicBool = AtomicBool::new(false);

/// Progress of one phase of known length.
#[derive(Debug)]
pub(crate) struct Progress {
    /// `None` where there is no terminal, or nobody wants to know.
    bar: Option<ProgressBar>,
    name: &'static str,
    len: usize,
    /// Plain lines come every so many units.
    line_every: usize,
}

impl Progress {
    /// A phase of `len` units; without a terminal every `line_every`-th unit gets a line, 0 is none.
    pub(crate) fn new(name: &'static str, len: usize, line_every: usize) -> Self {
        let shown = std::io::stderr().is_terminal()
            && enabled!(Level::INFO)
            && !HIDDEN.load(Ordering::Relaxed);
        let bar = shown.then(|| {
            let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg} {eta}")
                .expect("the template is valid");
            ProgressBar::new(len as u64).with_style(style).with_prefix(name)
        });
        if let Some(bar) = &bar {
            show(Some(bar.clone()));
        }
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
                let Self { name, len, .. } = self;
                info!(done, len, "{name} {done}/{len}  {}", message());
            }
            None => {}
        }
    }

    /// Ends the phase.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            show(None);
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

fn show(bar: Option<ProgressBar>) {
    *BAR.lock().unwrap_or_else(PoisonError::into_inner) = bar;
}

/// Shows no bar from now on.
pub(crate) fn hide_bars() {
    HIDDEN.store(true, Ordering::Relaxed);
}

/// Does `work` with the bar off the terminal.
pub(crate) fn suspended(work: impl FnOnce()) {
    // A clone, so that the lock is not held meanwhile.
    let bar = BAR.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match bar {
        Some(bar) => bar.suspend(work),
        None => work(),
    }
}

/// A line for whoever runs the program.
pub(crate) fn say(text: &str) {
    info!("{text}");
}

/// A line about what is not as it should be, and does not stop the program.
pub(crate) fn warn(text: &str) {
    tracing::warn!("{text}");
}
