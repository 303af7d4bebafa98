//! Tasks of this repository: `cargo run -p xtask -- --help`.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::{coverage, diagrams, mutants};

#[derive(Parser)]
#[command(name = "xtask", version, about = "Tasks of this repository")]
struct Options {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Put each bug of the bank into a copy of the tree, and count the seeds until the harness finds it
    Mutants(mutants::Options),
    /// Print which cases of the fault catalogue have a test
    Coverage,
    /// Make the diagrams of the documents again from the traces of golden scripts
    Diagrams,
}

fn main() -> ExitCode {
    let done = match Options::parse().task {
        Task::Mutants(options) => mutants::run(&options),
        Task::Coverage => print_coverage(),
        Task::Diagrams => refresh_diagrams(),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print_coverage() -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    let coverage = coverage::coverage(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))?;
    io::stdout().write_all(coverage.table.as_bytes())?;
    Ok(coverage.unknown.is_empty() && coverage.holes.is_empty())
}

fn refresh_diagrams() -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    for document in diagrams::refresh(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))? {
        println!("{document} has changed");
    }
    Ok(true)
}
