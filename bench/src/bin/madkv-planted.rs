//! Plants known bugs in a copy of the tree, and counts the seeds until the harness finds each.

use std::process::ExitCode;

use clap::Parser;
use madkv_bench::planted::{Options, run};

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("madkv-planted: {error}");
            ExitCode::FAILURE
        }
    }
}
