//! Runs seeds through the deterministic simulator.

use std::process::ExitCode;

use clap::Parser;
use madkv_chaos::seeds::{Options, run};

fn main() -> ExitCode {
    run(&Options::parse())
}
