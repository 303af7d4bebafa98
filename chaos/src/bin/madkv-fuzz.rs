//! Fuzzes a running service, and checks histories.

use std::process::ExitCode;

use clap::Parser;
use madkv_chaos::campaign::command::{Options, execute};

/// The exit code of what could not be done; clap uses the same for wrong arguments.
const EXIT_COULD_NOT_RUN: u8 = 2;

fn main() -> ExitCode {
    match execute(&Options::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("madkv-fuzz: {error}");
            ExitCode::from(EXIT_COULD_NOT_RUN)
        }
    }
}
