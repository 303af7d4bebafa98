//! What `madkv-sim` does: many seeds through the deterministic simulator ([`smr_sim`]), in parallel, with a summary.
//!
//! Exit codes: 0 if every seed held; 1 with a violation, and the command that replays it; 2 if a run of
//! [`LONG_RUN_SEEDS`] or more held, but proves little: too few operations were answered, or a rare situation was never
//! met that a run of that length should meet ([`summary`]).

mod geography;
mod kinds;
mod speed;
mod summary;

use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use parking_lot::Mutex;
use smr_sim::run::Failure;
use smr_sim::trace::Text;

use self::kinds::SeedReport;
use self::summary::Summary;
use crate::client_sim;

pub use self::kinds::KindOfSeeds;

/// From this many seeds on a run that held is judged by what it has shown.
const LONG_RUN_SEEDS: u64 = 1_000;
/// This many of a hundred operations must be answered, over all seeds. The rest is lost to sessions that are evicted or
/// given up on purpose.
const ACKNOWLEDGED_PERCENT_MIN: u64 = 60;
/// How often a long run says how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// Lines of a failure's trace that are printed.
const TAIL_LINES: usize = 60;
/// Run seeds through the deterministic simulator: production code, virtual time, disks and network.
#[derive(Debug, Parser)]
#[command(name = "madkv-sim")]
pub struct Options {
    /// Seeds to run: A..B, without B; or one seed.
    #[arg(long, value_parser = parse_seeds, default_value = "0..1000")]
    pub seeds: Range<u64>,
    /// Go on with further seeds, beyond B, until this many minutes have passed.
    #[arg(long)]
    pub minutes: Option<f64>,
    /// Seeds to run at a time.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    pub jobs: usize,
    /// Replicas of the group, instead of what the seed says.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub nodes: Option<u16>,
    /// The kind of the groups: raft, chain, active or passive; epochs for the last three, as each seed says; any for
    /// half Raft and half the others.
    #[arg(long, default_value = "raft", conflicts_with_all = ["library", "speed"])]
    pub kind: KindOfSeeds,
    /// Print everything that happens, to stderr. For one seed.
    #[arg(long)]
    pub verbose: bool,
    /// This many failures end a run.
    #[arg(long, default_value_t = 5)]
    pub failures_max: usize,
    /// Print each seed's trace hash.
    #[arg(long)]
    pub hashes: bool,
    /// Simulate the client library as well: real clients, listeners, sessions and maps on simulated groups.
    #[arg(long, conflicts_with_all = ["nodes", "verbose", "speed"])]
    pub library: bool,
    /// With --library: write the histories of seeds that fail into this directory.
    #[arg(long, value_name = "DIRECTORY", requires = "library")]
    pub histories: Option<PathBuf>,
    /// Measure the simulator's speed instead: 5 replicas, 100 requests per virtual second, one core.
    #[arg(long)]
    pub speed: bool,
    /// Say instead how long one client waits whose group is spread over three sites that are this many milliseconds
    /// apart, there and back: for each kind, and by where the client is. In virtual time: the same on each machine.
    #[arg(
        long,
        value_name = "MS",
        num_args = 0..=1,
        default_missing_value = "40",
        value_parser = clap::value_parser!(u64).range(1..=120),
        conflicts_with_all = ["library", "speed"]
    )]
    pub geography: Option<u64>,
}

fn parse_seeds(text: &str) -> Result<Range<u64>, String> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("'{text}' is no seed"));
    let range = match text.split_once("..") {
        Some((from, to)) => number(from)?..number(to)?,
        None => number(text)?..number(text)?.saturating_add(1),
    };
    if range.is_empty() { Err(format!("no seeds in {text}")) } else { Ok(range) }
}

/// Runs the seeds and prints what became of them.
pub fn run(options: &Options) -> ExitCode {
    if options.speed {
        return speed::measure();
    }
    if let Some(apart_ms) = options.geography {
        geography::print(apart_ms);
        return ExitCode::SUCCESS;
    }
    if options.library {
        return client_sim::command::run_seeds(&client_sim::command::Plan {
            seeds: options.seeds.clone(),
            at_least: options.minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0)),
            jobs: options.jobs,
            hashes: options.hashes,
            histories: options.histories.clone(),
        });
    }
    let progress = Progress {
        next: AtomicU64::new(options.seeds.start),
        stop: AtomicBool::new(false),
        began: Instant::now(),
        found: Mutex::new(Found { summary: Summary::default(), failures: Vec::new(), told_at: Instant::now() }),
    };
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| work(options, &progress));
        }
    });
    let found = progress.found.into_inner();
    println!("{}", found.summary.table(progress.began.elapsed()));
    for failure in &found.failures {
        tell(failure);
    }
    if !found.failures.is_empty() {
        return ExitCode::from(1);
    }
    if found.summary.seeds >= LONG_RUN_SEEDS && options.nodes.is_none() {
        let wanting = found.summary.wanting(ACKNOWLEDGED_PERCENT_MIN);
        if !wanting.is_empty() {
            println!("no violation, but this run proves little: {}", wanting.join("; "));
            return ExitCode::from(2);
        }
    }
    println!("no violation");
    ExitCode::SUCCESS
}

struct Progress {
    next: AtomicU64,
    stop: AtomicBool,
    began: Instant,
    found: Mutex<Found>,
}

struct Found {
    summary: Summary,
    failures: Vec<Failure>,
    told_at: Instant,
}

fn work(options: &Options, progress: &Progress) {
    let text = if options.verbose { Text::Print } else { Text::None };
    loop {
        let seed = progress.next.fetch_add(1, Ordering::SeqCst);
        let more = match options.minutes {
            None => seed < options.seeds.end,
            Some(minutes) => progress.began.elapsed().as_secs_f64() < minutes * 60.0,
        };
        if !more || progress.stop.load(Ordering::SeqCst) {
            return;
        }
        let report = kinds::run_seed(seed, options.kind, options.nodes, text);
        if options.hashes {
            println!("{seed} {:016x}", report.hash());
        }
        let mut found = progress.found.lock();
        take(&mut found, report, progress, options.failures_max);
    }
}

fn take(found: &mut Found, report: SeedReport, progress: &Progress, failures_max: usize) {
    found.summary.add(&report);
    if let Some(failure) = report.into_failure() {
        eprintln!("seed {}: {}: {}", failure.seed, failure.violation.property, failure.violation.why);
        found.failures.push(failure);
        if found.failures.len() >= failures_max {
            progress.stop.store(true, Ordering::SeqCst);
        }
    }
    if found.told_at.elapsed() >= PROGRESS_INTERVAL {
        found.told_at = Instant::now();
        eprintln!("{}", found.summary.line(progress.began.elapsed()));
    }
}

fn tell(failure: &Failure) {
    let violation = &failure.violation;
    println!(
        "\nVIOLATION in seed {}, step {}, at {:.3} s: {}\n  {}",
        failure.seed,
        violation.step,
        violation.at.0 as f64 / 1e6,
        violation.property,
        violation.why
    );
    for line in &failure.tail[failure.tail.len().saturating_sub(TAIL_LINES)..] {
        println!("  | {}", line.chars().take(240).collect::<String>());
    }
    println!("replay it with: {}", failure.replay);
}
