//! One replica of MadKV's manager.

use std::process::ExitCode;

fn main() -> ExitCode {
    let recover = (madkv_api::recover::WORD, madkv_manager::recover);
    madkv_api::process::start_or(madkv_manager::options::PROGRAM, recover, madkv_manager::run)
}
