//! What `madkv-sim --library` does: many seeds in parallel, with a summary.
//!
//! Exit codes: 0 if every seed held; 1 with a violation, and the command that replays it; 2 if a run of
//! [`LONG_RUN_SEEDS`] or more held, but proves little.

use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::rare::{Counts, Rare};
use super::run::{Report, run};

/// From this many seeds on a run must have met everything.
pub const LONG_RUN_SEEDS: u64 = 1000;
/// This many of a hundred calls must be answered, over all seeds.
const ANSWERED_PERCENT_MIN: u64 = 60;
/// How often a long run says how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// This many failures end a run.
const FAILURES_MAX: usize = 5;

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seeds, without the end.
    pub seeds: Range<u64>,
    /// Go on beyond the end until this much time has passed.
    pub at_least: Option<Duration>,
    /// How many at a time.
    pub jobs: usize,
    /// Whether each seed's hash is printed.
    pub hashes: bool,
    /// Where the histories of seeds that failed are written to; nowhere if `None`.
    pub histories: Option<PathBuf>,
}

#[derive(Default)]
struct Total {
    seeds: u64,
    virtual_us: u64,
    answered: u64,
    failed: u64,
    counts: Counts,
    failures: usize,
    told_at: Option<Instant>,
}

/// Runs the seeds and prints what became of them.
pub fn run_seeds(plan: &Plan) -> ExitCode {
    let began = Instant::now();
    let next = AtomicU64::new(plan.seeds.start);
    let total = Mutex::new(Total::default());
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    let more = match plan.at_least {
                        None => seed < plan.seeds.end,
                        Some(time) => began.elapsed() < time || seed < plan.seeds.end,
                    };
                    if !more || total.lock().failures >= FAILURES_MAX {
                        return;
                    }
                    let report = run(seed);
                    total.lock().take(plan, &report, began);
                }
            });
        }
    });
    let total = total.into_inner();
    for what in Rare::ALL {
        println!("{:>9}  {what}", total.counts.of(*what));
    }
    println!("{}", total.line(began));
    if total.failures > 0 {
        return ExitCode::from(1);
    }
    let wanting = total.wanting();
    if total.seeds >= LONG_RUN_SEEDS && !wanting.is_empty() {
        println!("no violation, but this run proves little: {}", wanting.join("; "));
        return ExitCode::from(2);
    }
    println!("no violation");
    ExitCode::SUCCESS
}

impl Total {
    fn take(&mut self, plan: &Plan, report: &Report, began: Instant) {
        self.seeds += 1;
        self.virtual_us += report.virtual_us;
        self.answered += report.answered;
        self.failed += report.failed;
        self.counts.add(&report.counts);
        if plan.hashes {
            println!("{} {:016x}", report.seed, report.hash);
        }
        if let Some(why) = &report.violation {
            self.failures += 1;
            println!(
                "seed {}: {why}\nVIOLATION in seed {}; replay it with: {}",
                report.seed,
                report.seed,
                report.replay()
            );
            if let Some(directory) = &plan.histories {
                let path = directory.join(format!("library-{}.history", report.seed));
                let written = std::fs::File::create(&path).and_then(|file| report.history.write(file));
                match written {
                    Ok(()) => println!("its history: {}", path.display()),
                    Err(error) => println!("its history cannot be written to {}: {error}", path.display()),
                }
            }
        }
        if self.told_at.unwrap_or(began).elapsed() >= PROGRESS_INTERVAL {
            self.told_at = Some(Instant::now());
            eprintln!("{}", self.line(began));
        }
    }

    fn line(&self, began: Instant) -> String {
        let (elapsed, virtual_s) = (began.elapsed().as_secs_f64(), self.virtual_us as f64 / 1e6);
        format!(
            "{} seeds, {virtual_s:.0} virtual seconds in {elapsed:.1} s; {} calls answered, {} failed; {} of {} rare \
             situations met",
            self.seeds,
            self.answered,
            self.failed,
            Rare::ALL.len() - self.counts.never().len(),
            Rare::ALL.len(),
        )
    }

    fn wanting(&self) -> Vec<String> {
        let mut wanting: Vec<String> =
            self.counts.never().iter().map(|what| format!("it never happened that {what}")).collect();
        let percent = 100 * self.answered / (self.answered + self.failed).max(1);
        if percent < ANSWERED_PERCENT_MIN {
            wanting.push(format!("only {percent} % of the calls were answered"));
        }
        wanting
    }
}
