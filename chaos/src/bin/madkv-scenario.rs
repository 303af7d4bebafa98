//! Longer runs that measure a cluster or inject faults into one, with real processes.

use std::process::ExitCode;

use clap::Parser;
use madkv_chaos::scenario::{Options, run};

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("madkv-scenario: {error}");
            ExitCode::FAILURE
        }
    }
}
