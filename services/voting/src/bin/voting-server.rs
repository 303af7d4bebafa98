//! One replica of the voting service; see `docs/VOTING.md`.

use std::process::ExitCode;

use smr_service::process;
use voting::server::{Options, PROGRAM, run};

fn main() -> ExitCode {
    process::start(PROGRAM, |options: Options| run(&options))
}
