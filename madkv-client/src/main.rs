//! The command-line client.

use std::process::ExitCode;

use madkv_client::cli::session;
use smr_service::log_sink;

fn main() -> ExitCode {
    let code = session::run(std::env::args_os().collect(), None);
    log_sink::flush();
    ExitCode::from(code)
}
