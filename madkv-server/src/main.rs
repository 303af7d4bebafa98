//! One replica of one partition of MadKV.

use std::process::ExitCode;

fn main() -> ExitCode {
    let recover = (smr_service::recover::WORD, madkv_server::recover);
    smr_service::process::start_or(madkv_server::options::PROGRAM, recover, madkv_server::run)
}
