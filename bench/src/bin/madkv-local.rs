//! Starts a whole cluster on this machine, and a client on it.

use std::process::ExitCode;

use clap::Parser;
use madkv_bench::launcher::{Options, run};

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("madkv-local: {error}");
            ExitCode::FAILURE
        }
    }
}
