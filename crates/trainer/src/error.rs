//! How errors reach the user.

use std::fmt::Write as _;

use crate::recipe::RecipeError;
use crate::stop::Stopped;

/// A mistake on the command line that only shows while the command runs; exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Exit code of a failed command: 2 when the command line is at fault, 128 and the signal's number when one ended
/// it, else 1.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if let Some(stopped) = error.downcast_ref::<Stopped>() {
        return stopped.stop.exit_code();
    }
    let usage = error.is::<UsageError>()
        || error.downcast_ref::<RecipeError>().is_some_and(RecipeError::is_usage);
    if usage { 2 } else { 1 }
}

/// Whether the command did what a signal asked for, which is no mistake.
fn is_stopped(error: &anyhow::Error) -> bool {
    error.is::<Stopped>()
}

/// Whether the reader of our output went away, as in `qlora-train inspect model | head`: no failure.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

/// Tells of a command that failed, or of a run that stopped as it was asked to.
pub fn tell(error: &anyhow::Error) {
    let text = describe(error);
    if is_stopped(error) { tracing::info!("{text}") } else { tracing::error!("{text}") }
}

/// The chain of causes on one line. A cause that its parent's message quotes already is not said twice.
pub fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let message = cause.to_string();
        if text.is_empty() {
            text = message;
        } else if !text.contains(&message) {
            write!(text, ": {message}").expect("strings take everything");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use anyhow::Context;

    use super::*;
    use crate::recipe::Recipe;

    #[test]
    fn causes_are_told_once() {
        let io = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let error =
            Err::<(), _>(io()).context("m/config.json").context("cannot start").unwrap_err();
        assert_eq!(describe(&error), "cannot start: m/config.json: entity not found");
        let error = Recipe::read(Path::new("no/such.toml"), &[]).unwrap_err();
        let quoted = error.to_string();
        assert_eq!(describe(&error.into()), quoted);
    }

    #[test]
    fn usage_errors_exit_with_2() {
        assert_eq!(exit_code(&UsageError("x".into()).into()), 2);
        assert_eq!(exit_code(&anyhow::anyhow!("x")), 1);
        let error: anyhow::Error =
            RecipeError::Override { origin: "--set x".into(), message: String::new() }.into();
        assert_eq!(exit_code(&error), 2);
    }
}
