//! Seeds through the simulator, one after the other, until one fails:
//! `cargo run --release -p smr-sim --example simulate -- 0..1000`.
//!
//! For a state machine of your own, put `run_with` and a workload of yours in the place of `run` (see `smr_sim`). Exit
//! code 1 with the first seed that violates a property, in the same words as `madkv-sim`; with `--keep-going` all seeds
//! are run. With `--hashes` each seed's trace hash is printed: the same in every build. With `--verbose` the mix and
//! the trace go to stderr. With `--epochs` the groups are under a configuration service: chain, active or passive, as
//! each seed says.

use std::fmt::Debug;
use std::process::ExitCode;

use smr_sim::epochs;
use smr_sim::run::{Failure, Options, Report, run};
use smr_sim::trace::Text;

fn main() -> ExitCode {
    let seeds = std::env::args().nth(1).and_then(|range| {
        let (from, to) = range.split_once("..")?;
        Some(from.parse::<u64>().ok()?..to.parse::<u64>().ok()?)
    });
    let Some(seeds) = seeds else {
        eprintln!("which seeds? For example 0..1000");
        return ExitCode::from(2);
    };
    let asked = |flag: &str| std::env::args().any(|argument| argument == flag);
    let (hashes, keep_going, verbose) = (asked("--hashes"), asked("--keep-going"), asked("--verbose"));
    let text = if verbose { Text::Print } else { Text::None };
    let mut failures = 0;
    for seed in seeds.clone() {
        let Run { hash, failure, mix } = if asked("--epochs") { run_epochs(seed, text) } else { run_raft(seed, text) };
        if verbose {
            eprintln!("{mix}");
        }
        if hashes {
            println!("{seed} {hash:016x}");
        }
        if let Some(failure) = failure {
            println!("seed {seed}: {}: {}", failure.violation.property, failure.violation.why);
            failures += 1;
            if !keep_going {
                return ExitCode::FAILURE;
            }
        }
    }
    if failures > 0 {
        println!("{failures} seeds of {seeds:?} violate a property");
        return ExitCode::FAILURE;
    }
    println!("no violation in seeds {seeds:?}");
    ExitCode::SUCCESS
}

struct Run {
    hash: u64,
    failure: Option<Failure>,
    mix: String,
}

fn run_raft(seed: u64, text: Text) -> Run {
    summed_up(run(seed, &Options { text, ..Options::default() }))
}

fn run_epochs(seed: u64, text: Text) -> Run {
    summed_up(epochs::run::run(seed, &epochs::run::Options { text, ..epochs::run::Options::default() }))
}

fn summed_up<R, C: Debug>(report: Report<R, C>) -> Run {
    Run { hash: report.hash, failure: report.failure, mix: format!("{:#?}", report.config) }
}
