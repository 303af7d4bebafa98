//! How fast MadKV is, and how fast its peers are.

use std::process::ExitCode;

use clap::Parser;
use madkv_bench::benchmark::{Options, run};

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("madkv-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
