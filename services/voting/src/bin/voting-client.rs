//! A client that votes on each ballot, and logs each result; see `docs/VOTING.md`.

use std::process::ExitCode;

use smr_service::process;
use voting::client::{Options, PROGRAM, run};

fn main() -> ExitCode {
    process::start(PROGRAM, |options: Options| run(&options))
}
