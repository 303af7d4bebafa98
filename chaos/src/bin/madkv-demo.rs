//! Demonstrations with real processes, which check themselves.

use std::process::ExitCode;

use clap::Parser;
use madkv_chaos::demo::{Options, run};

/// Exit code for a command line that makes no sense.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("madkv-demo: {error}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}
