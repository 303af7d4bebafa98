//! One replica of MadKV's manager.

use std::process::ExitCode;

fn main() -> ExitCode {
    madkv_api::process::start(madkv_manager::options::PROGRAM, madkv_manager::run)
}
