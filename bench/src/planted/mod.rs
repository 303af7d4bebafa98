//! `madkv-planted`: are the bugs that were planted on purpose still found?
//!
//! The bank is the directory `planted/`: one patch each, against production code, with a head that says which rule it breaks, who
//! is to notice, and which harness finds it. For each bug the tree is copied, the patch applied, the harness built and run
//! from its first seed on, until it says that something is wrong. A harness that stops finding one of them is broken, and
//! so is a patch that no longer applies.
//!
//! Before any bug, the same is done without one: a harness that always complains finds nothing.

pub mod harness;
pub mod patch;
pub mod tree;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;

use self::harness::{Harness, Run};
use self::patch::Patch;
use self::tree::Tree;

/// The directory of the patches, from the root of the repository.
pub const BANK: &str = "planted";

/// Plants each bug of the bank in a copy of the tree, and counts the seeds until the harness finds it.
#[derive(Debug, Parser)]
#[command(name = "madkv-planted", version)]
pub struct Options {
    /// The bugs to plant; all of them if none is named
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
    /// Only say what there is, and whether it still applies
    #[arg(long)]
    pub list: bool,
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

/// Plants the bugs. False if one was not found.
///
/// # Errors
/// If the bank or the tree cannot be used, or a harness complains without a bug.
pub fn run(options: &Options) -> Result<bool, Box<dyn Error + Send + Sync>> {
    let root = tree::root()?;
    let bank = chosen(patch::load(&root.join(BANK))?, &options.names)?;
    let tree = Tree::prepare(&root)?;
    if options.list {
        return list(&tree, &bank);
    }
    let limits = Limits { seeds: options.seeds_max, time: Duration::from_secs_f64(options.minutes * 60.0) };
    soundness(&tree, &bank, options, &limits)?;

    let mut lines = Vec::new();
    let mut all_found = true;
    for (number, bug) in bank.iter().enumerate() {
        let began = Instant::now();
        let fate = plant(&tree, bug, &limits).unwrap_or_else(|error| Fate::Broken(error.to_string()));
        let line = row(bug, &fate, began.elapsed());
        println!("{}/{} {line}", number + 1, bank.len());
        all_found &= matches!(fate, Fate::Found { .. });
        lines.push(line);
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

fn row(bug: &Patch, fate: &Fate, took: Duration) -> String {
    let (seeds, said) = match fate {
        Fate::Found { seeds, said } => (seeds.to_string(), said.replace('|', "/")),
        Fate::NotFound { seeds } => (format!("**NOT FOUND** in {seeds}"), String::new()),
        Fate::Broken(why) => ("**BROKEN**".to_owned(), why.replace(['|', '\n'], " ")),
    };
    format!("| {} | {} | {seeds} | {} | {said} |", bug.name, bug.harness, took.as_secs())
}

fn chosen(bank: Vec<Patch>, names: &[String]) -> Result<Vec<Patch>, Box<dyn Error + Send + Sync>> {
    if let Some(unknown) = names.iter().find(|name| bank.iter().all(|bug| bug.name != **name)) {
        return Err(format!("no planted bug is called {unknown}").into());
    }
    Ok(bank.into_iter().filter(|bug| names.is_empty() || names.contains(&bug.name)).collect())
}

fn list(tree: &Tree, bank: &[Patch]) -> Result<bool, Box<dyn Error + Send + Sync>> {
    let mut all_apply = true;
    for bug in bank {
        let applies = tree.check(&bug.path);
        println!("{:<42} {:<16} {}", bug.name, bug.harness.to_string(), bug.breaks);
        if let Err(why) = applies {
            println!("    DOES NOT APPLY: {why}");
            all_apply = false;
        }
    }
    println!("{} bugs", bank.len());
    Ok(all_apply)
}

/// Runs every harness that will be needed on the tree as it is.
fn soundness(
    tree: &Tree,
    bank: &[Patch],
    options: &Options,
    limits: &Limits,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    tree.refresh()?;
    let mut needed: Vec<Harness> = bank.iter().map(|bug| bug.harness).collect();
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

fn plant(tree: &Tree, bug: &Patch, limits: &Limits) -> Result<Fate, Box<dyn Error + Send + Sync>> {
    tree.refresh()?;
    tree.apply(&bug.path)?;
    let built = bug.harness.build(tree)?;
    Ok(match built.run(tree, limits.seeds, limits.time)? {
        Run::Complained { seed, said } => Fate::Found { seeds: seed + 1, said },
        Run::Silent { tried } => Fate::NotFound { seeds: tried },
    })
}

/// Whether each patch of the bank at `root` still applies to the tree there: the names of those that do not, and why.
///
/// # Errors
/// If the bank cannot be read.
pub fn stale(root: &Path) -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
    let bank = patch::load(&root.join(BANK))?;
    let failed = bank.iter().filter_map(|bug| {
        let why = tree::check_in(root, &bug.path).err()?;
        Some(format!("{}: {why}", bug.name))
    });
    Ok(failed.collect())
}
