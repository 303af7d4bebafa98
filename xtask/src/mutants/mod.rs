//! `xtask mutants`: are the bugs that were made on purpose still found?
//!
//! The bank is the directory `mutants/`: one file each, with a head that says which rule the bug breaks, who is to
//! notice, and which harnesses find it, and with what is to be found and replaced in the production code. For each bug
//! the tree is copied, the bug put in, the harness built and run from its first seed on, until it says that something
//! is wrong. A harness that stops finding one of them is broken, and so is a bug that no longer fits the code.
//!
//! Before any bug, the same is done without one: a harness that always complains finds nothing.

pub mod edit;
pub mod harness;
pub mod mutant;
pub mod source;
pub mod tree;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use self::harness::{Harness, Run};
use self::mutant::Mutant;
use self::tree::{Tree, TreeError};

/// The directory of the bugs, from the root of the repository.
pub const BANK: &str = "mutants";

/// Puts each bug of the bank into a copy of the tree, and counts the seeds until the harness finds it.
#[derive(Debug, Args)]
pub struct Options {
    /// The bugs to put in; all of them if none is named
    pub names: Vec<String>,
    /// How many seeds a harness may try to find a bug
    #[arg(long, default_value_t = 5_000)]
    pub seeds_max: u64,
    /// How many minutes a harness may take to find a bug
    #[arg(long, default_value_t = 10.0)]
    pub minutes: f64,
    /// How many seeds each harness must pass without a bug before it is believed
    #[arg(long, default_value_t = 50)]
    pub sound_seeds: u64,
    /// Only say what there is
    #[arg(long)]
    pub list: bool,
    /// Only say which bugs no longer apply to the code, and why; builds nothing
    #[arg(long)]
    pub check: bool,
    /// Write the table to this file too
    #[arg(long, value_name = "FILE")]
    pub table: Option<PathBuf>,
}

/// What became of one bug.
enum Fate {
    Found { seeds: u64, said: String },
    NotFound { seeds: String },
    Broken(String),
}

/// Puts in the bugs. False if one was not found.
///
/// # Errors
/// If the bank or the tree cannot be used, or a harness complains without a bug.
pub fn run(options: &Options) -> Result<bool, Box<dyn Error + Send + Sync>> {
    let root = tree::root()?;
    let bank = chosen(mutant::load(&root.join(BANK))?, &options.names)?;
    if options.list || options.check {
        return Ok(look(&root, &bank, options));
    }
    let tree = Tree::prepare(&root)?;
    let limits = Limits { seeds: options.seeds_max, time: Duration::from_secs_f64(options.minutes * 60.0) };
    soundness(&tree, &bank, options, &limits)?;

    let mut lines = Vec::new();
    let mut all_found = true;
    for (number, bug) in bank.iter().enumerate() {
        for harness in &bug.harnesses {
            let began = Instant::now();
            let fate = try_out(&tree, bug, *harness, &limits).unwrap_or_else(|error| Fate::Broken(error.to_string()));
            let line = row(bug, *harness, &fate, began.elapsed());
            println!("{}/{} {line}", number + 1, bank.len());
            all_found &= matches!(fate, Fate::Found { .. });
            lines.push(line);
        }
    }
    tree.refresh()?;
    let table = format!("{HEAD}{}\n", lines.join("\n"));
    println!("\n{table}");
    if let Some(file) = &options.table {
        std::fs::write(file, &table)?;
    }
    Ok(all_found)
}

/// What a harness may spend on one bug.
struct Limits {
    seeds: u64,
    time: Duration,
}

const HEAD: &str = "| bug | harness | seeds to find | seconds with the build | said |\n|---|---|---|---|---|\n";

fn row(bug: &Mutant, harness: Harness, fate: &Fate, took: Duration) -> String {
    let (seeds, said) = match fate {
        Fate::Found { seeds, said } => (seeds.to_string(), said.replace('|', "/")),
        Fate::NotFound { seeds } => (format!("**NOT FOUND** in {seeds}"), String::new()),
        Fate::Broken(why) => ("**BROKEN**".to_owned(), why.replace(['|', '\n'], " ")),
    };
    format!("| {} | {} | {seeds} | {} | {said} |", bug.name, harness, took.as_secs())
}

fn chosen(bank: Vec<Mutant>, names: &[String]) -> Result<Vec<Mutant>, Box<dyn Error + Send + Sync>> {
    if let Some(unknown) = names.iter().find(|name| bank.iter().all(|bug| bug.name != **name)) {
        return Err(format!("no mutant is called {unknown}").into());
    }
    Ok(bank.into_iter().filter(|bug| names.is_empty() || names.contains(&bug.name)).collect())
}

/// Says what there is, and what does not fit. False if a bug does not, and that was asked.
fn look(root: &Path, bank: &[Mutant], options: &Options) -> bool {
    if options.list {
        for bug in bank {
            let harnesses: Vec<String> = bug.harnesses.iter().map(Harness::to_string).collect();
            println!("{:<42} {:<16} {}", bug.name, harnesses.join(", "), bug.breaks);
        }
        println!("{} bugs", bank.len());
    }
    if !options.check {
        return true;
    }
    let stale = stale(root, bank);
    for why in &stale {
        println!("{why}");
    }
    println!("{} of {} bugs apply", bank.len() - stale.len(), bank.len());
    stale.is_empty()
}

/// Which bugs no longer fit the tree at `root`: the name of each, and under it why.
pub fn stale(root: &Path, bank: &[Mutant]) -> Vec<String> {
    let failed = bank.iter().filter_map(|bug| {
        let why = bug.applied_to(root).err()?;
        Some(format!("{}:\n    {}", bug.name, why.replace('\n', "\n    ")))
    });
    failed.collect()
}

/// Runs every harness that will be needed on the tree as it is.
fn soundness(
    tree: &Tree,
    bank: &[Mutant],
    options: &Options,
    limits: &Limits,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    tree.refresh()?;
    let mut needed: Vec<Harness> = bank.iter().flat_map(|bug| bug.harnesses.iter().copied()).collect();
    needed.sort_unstable();
    needed.dedup();
    for harness in needed {
        let began = Instant::now();
        let built = harness.build(tree)?;
        match built.run(tree, options.sound_seeds.min(limits.seeds), limits.time)? {
            Run::Silent { .. } => {
                println!("{harness}: silent without a bug, {} s with the build", began.elapsed().as_secs());
            }
            Run::Complained { seed, said } => {
                return Err(format!("{harness} complains without a bug, at seed {seed}: {said}").into());
            }
        }
    }
    Ok(())
}

fn try_out(tree: &Tree, bug: &Mutant, harness: Harness, limits: &Limits) -> Result<Fate, Box<dyn Error + Send + Sync>> {
    tree.refresh()?;
    tree.write(&bug.applied_to(tree.path()).map_err(TreeError::Stale)?)?;
    let built = harness.build(tree)?;
    Ok(match built.run(tree, limits.seeds, limits.time)? {
        Run::Complained { seed, said } => Fate::Found { seeds: seed + 1, said },
        Run::Silent { tried } => Fate::NotFound { seeds: tried },
    })
}
