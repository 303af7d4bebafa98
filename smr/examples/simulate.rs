//! Seeds through the simulator, one after the other, until one fails:
//! `cargo run --release -p smr --features sim --example simulate -- 0..1000`.
//!
//! For a state machine of your own, put `run_with` and a workload of yours in the place of `run` (see `smr::sim`). Exit code 1 with the
//! first seed that violates a property, in the same words as `madkv-sim`. With `--hashes` each seed's trace hash is printed: the same in
//! every build.

use std::process::ExitCode;

use smr::sim::run::{Options, run};

fn main() -> ExitCode {
    let seeds = std::env::args().nth(1).and_then(|range| {
        let (from, to) = range.split_once("..")?;
        Some(from.parse::<u64>().ok()?..to.parse::<u64>().ok()?)
    });
    let Some(seeds) = seeds else {
        eprintln!("which seeds? For example 0..1000");
        return ExitCode::from(2);
    };
    let hashes = std::env::args().any(|argument| argument == "--hashes");
    for seed in seeds.clone() {
        let report = run(seed, &Options::default());
        if hashes {
            println!("{seed} {:016x}", report.hash);
        }
        if let Some(failure) = report.failure {
            println!("seed {seed}: {}: {}", failure.violation.property, failure.violation.why);
            return ExitCode::FAILURE;
        }
    }
    println!("no violation in seeds {seeds:?}");
    ExitCode::SUCCESS
}
