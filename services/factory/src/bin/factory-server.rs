//! One factory; see `docs/FACTORY.md`.

use std::process::ExitCode;

use factory::server::{Options, PROGRAM, run};
use smr_service::process;

fn main() -> ExitCode {
    process::start(PROGRAM, |options: Options| run(&options))
}
