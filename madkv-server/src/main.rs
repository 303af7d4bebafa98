//! One replica of one partition of MadKV.

use std::process::ExitCode;

fn main() -> ExitCode {
    let recover = (madkv_api::recover::WORD, madkv_server::recover);
    madkv_api::process::start_or(madkv_server::options::PROGRAM, recover, madkv_server::run)
}
