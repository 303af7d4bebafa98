//! One replica of one partition of MadKV.

use std::process::ExitCode;

fn main() -> ExitCode {
    madkv_api::process::start(madkv_server::options::PROGRAM, madkv_server::run)
}
