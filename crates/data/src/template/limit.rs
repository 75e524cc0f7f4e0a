//! Work that may never end, in threads that can be given up.
//!
//! Fuel counts the work of a template, but not all of it: lists that are joined again and again cost nothing until they
//! are walked through, which then takes for ever. A thread cannot be stopped, so what a template asks for is done in a
//! thread that nothing else needs. One that takes too long is left to itself; it ends with the program.

use std::cell::RefCell;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use crate::error::TemplateError;

/// Time for one rendering, which takes a millisecond.
const LONGEST: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

thread_local! {
    /// To the thread that works for this one.
    static WORKER: RefCell<Option<Sender<Job>>> = const { RefCell::new(None) };
}

/// What `work` comes to, or [`TemplateError::Endless`] when that takes more than ten seconds.
pub(super) fn limited<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, TemplateError> {
    let (sender, receiver) = channel();
    let job: Job = Box::new(move || {
        // Nobody listens any more once it took too long.
        let _ = sender.send(work());
    });
    WORKER.with_borrow_mut(|worker| {
        // A worker that is gone drops the job, and with it the sender.
        let _ = worker.get_or_insert_with(start).send(job);
        receiver.recv_timeout(LONGEST).map_err(|cause| {
            *worker = None;
            match cause {
                RecvTimeoutError::Timeout => endless(),
                RecvTimeoutError::Disconnected => {
                    let message = "the template engine failed".to_owned();
                    TemplateError::Failed { line: 1, message }
                }
            }
        })
    })
}

/// The error for work that did not end.
pub(super) fn endless() -> TemplateError {
    TemplateError::Endless { seconds: LONGEST.as_secs() }
}

/// Ends when the thread that asks does, or gave it up.
fn start() -> Sender<Job> {
    let (jobs, received) = channel::<Job>();
    thread::spawn(move || received.into_iter().for_each(|job| job()));
    jobs
}
