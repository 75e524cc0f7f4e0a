//! The `qlora-train` binary: parses the command line, calls the trainer, maps errors to exit codes.
//!
//! 0 is success, 1 failure, 2 a mistake on the command line, 130 and 143 a run that SIGINT or SIGTERM stopped.

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    match trainer::Cli::from_command_line().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if trainer::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // With stderr closed there is nobody left to tell.
            let prefix = if trainer::is_stopped(&error) { "" } else { "error: " };
            let _ = writeln!(std::io::stderr(), "{prefix}{}", trainer::describe(&error));
            ExitCode::from(trainer::exit_code(&error))
        }
    }
}
