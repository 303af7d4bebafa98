//! Longer runs that measure or torment a cluster of real processes.

use std::process::ExitCode;

use clap::Parser;
use madkv_bench::trial::{Options, run};

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("madkv-trial: {error}");
            ExitCode::FAILURE
        }
    }
}
