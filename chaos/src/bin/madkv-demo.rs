//! Demonstrations with real processes, which check themselves.

use std::process::ExitCode;

use clap::Parser;
use madkv_chaos::demo::{Ended, Options, run};

/// Exit code for a command line that makes no sense.
const EXIT_USAGE: u8 = 2;
/// Exit code if something could not be shown here, and nothing failed.
const EXIT_SKIPPED: u8 = 77;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(Ended::Well) => ExitCode::SUCCESS,
        Ok(Ended::Failed) => ExitCode::FAILURE,
        Ok(Ended::Skipped) => ExitCode::from(EXIT_SKIPPED),
        Err(error) => {
            eprintln!("madkv-demo: {error}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}
