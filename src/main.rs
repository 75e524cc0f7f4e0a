//! The `qlora-train` binary: parses the command line, calls the trainer, maps errors to exit codes.
//!
//! 0 is success, 1 failure, 2 a mistake on the command line, 130 and 143 a run that SIGINT or SIGTERM stopped.

use std::process::ExitCode;

fn main() -> ExitCode {
    match trainer::Cli::from_command_line().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if trainer::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            trainer::tell(&error);
            ExitCode::from(trainer::exit_code(&error))
        }
    }
}
