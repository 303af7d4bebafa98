//! One replica of MadKV's manager.

use std::process::ExitCode;

fn main() -> ExitCode {
    let recover = (smr_service::recover::WORD, madkv_manager::recover);
    smr_service::process::start_or(madkv_manager::options::PROGRAM, recover, madkv_manager::run)
}
