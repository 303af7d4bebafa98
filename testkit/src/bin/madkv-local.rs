//! Starts a whole cluster on this machine, and a client on it.

use std::process::ExitCode;

use clap::Parser;
use madkv_testkit::launcher::{Options, run};

fn main() -> ExitCode {
    let code = match run(&Options::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            smr_service::process::say("madkv-local", &error.to_string());
            ExitCode::FAILURE
        }
    };
    smr_service::log_sink::flush();
    code
}
