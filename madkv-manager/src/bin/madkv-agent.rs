//! The agent of a host of MadKV.

use std::process::ExitCode;

fn main() -> ExitCode {
    smr_service::process::start(madkv_manager::agent::options::PROGRAM, madkv_manager::agent::run)
}
