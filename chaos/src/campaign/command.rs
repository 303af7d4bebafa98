//! `madkv-fuzz`: fuzz a running service, or check a history again.

use std::fs::{self, File};
use std::io::{self, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::fuzz::workload::Weights;
use crate::fuzz::{CouldNotRun, FuzzOptions, report, run, trouble};
use madkv_testkit::history::History;
use madkv_testkit::launcher::Interrupted;
use madkv_testkit::linearize::{self, check};
use madkv_testkit::programs::{CLIENT, Programs};

/// How often to look for signals, in milliseconds.
const LOOK_AGAIN_MS: u64 = 20;
/// The exit code of a run that failed.
const EXIT_FAILED: u8 = 1;

/// Fuzz a running MadKV service and check that what its clients heard is linearizable. It only observes: whoever wants
/// crashes has to crash something meanwhile.
///
/// The last line says PASSED or FAILED; the one before it says so for a course's scripts, or UNFAIR, if a client was
/// left behind. Exit code: 0 passed, 1 failed, 2 could not run.
#[derive(Debug, Parser)]
#[command(name = "madkv-fuzz", version, args_conflicts_with_subcommands = true)]
pub struct Options {
    /// What else than fuzzing.
    #[command(subcommand)]
    pub command: Option<CliCommand>,
    /// How to fuzz.
    #[command(flatten)]
    pub fuzz: Arguments,
    /// Launch a cluster of its own and inject faults into it, by the seed, while the clients ask
    #[arg(long, conflicts_with = "managers")]
    pub chaos: bool,
    /// Launch a cluster of its own and kill as many replicas of a partition as may fail, the leader first, while the
    /// clients ask
    #[arg(long = "kill_minority", alias = "kill-minority", conflicts_with_all = ["managers", "chaos"])]
    pub kill_minority: bool,
    /// That cluster, and those faults.
    #[command(flatten)]
    pub own: super::run::ChaosOptions,
}

/// What else the program does.
#[derive(Debug, Subcommand)]
pub enum CliCommand {
    /// Check a history again; draw what is wrong with it beside it
    Check {
        /// The file
        history: PathBuf,
        /// How many configurations the checker may look at per key; beyond it the check has failed
        #[arg(long, default_value_t = linearize::BUDGET_DEFAULT)]
        budget: u64,
    },
}

/// What kind of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Clients {
    /// The real program, driven through its pipes
    Program,
    /// The library, inside the fuzzer
    Library,
}

/// How to fuzz.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// Managers to ask for the cluster map, as host:port, separated by commas
    #[arg(long, alias = "manager_addrs", default_value = "127.0.0.1:3666,127.0.0.1:3667,127.0.0.1:3668")]
    pub managers: String,
    /// How many clients
    #[arg(
        long = "nclis",
        alias = "client_count",
        default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(1..=1000)
    )]
    pub client_count: u32,
    /// The real program over pipes, or the library
    #[arg(long, value_enum, default_value_t = Clients::Program)]
    pub clients: Clients,
    /// How long the clients ask, in seconds
    #[arg(long, default_value_t = 30)]
    pub seconds: u64,
    /// After how many operations they stop, if before
    #[arg(long = "ops")]
    pub operations: Option<u64>,
    /// Decides what they ask for; drawn and said if not given
    #[arg(long)]
    pub seed: Option<u64>,
    /// How many keys they share
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub keys: u64,
    /// 0: all keys alike; 1: the second half as often as the first, the third a third as often, and so on
    #[arg(long, default_value_t = 0.0)]
    pub skew: f64,
    /// How often which operation, for example put=25,swap=25,get=30,delete=12,scan=8
    #[arg(long)]
    pub weights: Option<Weights>,
    /// Pad values to this size
    #[arg(long = "value_bytes", alias = "value-bytes", default_value_t = 0)]
    pub value_bytes: usize,
    /// What the keys begin with; something fresh if not given
    #[arg(long)]
    pub prefix: Option<String>,
    /// How long a client tries before it gives up on a request, in milliseconds; for ever if not given
    #[arg(long = "timeout_ms", alias = "timeout-ms", value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout_ms: Option<u64>,
    /// After how many seconds without an answer a client counts as hung, which is a failure
    #[arg(long = "patience", default_value_t = 60)]
    pub hang_timeout: u64,
    /// In how many of 1000 cases a client is killed with its request under way
    #[arg(long, default_value_t = 0)]
    pub deaths: u32,
    /// Fail if fewer of 100 operations were answered
    #[arg(long = "answered_min", alias = "answered-min", default_value_t = 0.0)]
    pub answered_min: f64,
    /// Fail if no operation ever had to be tried again
    #[arg(long = "must_retry", alias = "must-retry")]
    pub must_retry: bool,
    /// Where the history goes; a picture of a failure goes beside it [default: beside the log, or in a fresh directory]
    #[arg(long)]
    pub history: Option<PathBuf>,
    /// Write what is written to stdout to this file too
    #[arg(long)]
    pub log: Option<PathBuf>,
    /// How many configurations the checker may look at per key; beyond it the run has failed
    #[arg(long, default_value_t = linearize::BUDGET_DEFAULT)]
    pub budget: u64,
}

/// Writes to stdout and to a log.
struct Out {
    log: Option<(PathBuf, File)>,
}

impl Out {
    fn open(log: Option<&Path>) -> Result<Out, CouldNotRun> {
        let Some(path) = log else { return Ok(Out { log: None }) };
        let named = || trouble(path.display().to_string());
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(named())?;
        }
        Ok(Out { log: Some((path.to_path_buf(), File::create(path).map_err(named())?)) })
    }

    fn say(&mut self, text: &str) -> Result<(), CouldNotRun> {
        // Whoever reads may have gone; the exit code still speaks.
        let _ = io::stdout().write_all(text.as_bytes());
        let _ = io::stdout().flush();
        match &mut self.log {
            Some((path, file)) => file.write_all(text.as_bytes()).map_err(trouble(path.display().to_string())),
            None => Ok(()),
        }
    }

    /// The last two lines. The first of them is what a course's scripts look for.
    fn verdict(&mut self, passed: bool, fair: bool) -> Result<u8, CouldNotRun> {
        self.say(&verdict(passed, fair))?;
        Ok(if passed { 0 } else { EXIT_FAILED })
    }
}

fn verdict(passed: bool, fair: bool) -> String {
    let verdict = if passed { "PASSED" } else { "FAILED" };
    let fairness = if passed && !fair { "UNFAIR" } else { verdict };
    format!("Fuzz testing result: {fairness}\n{verdict}\n")
}

/// Does what the command line says; the result is the exit code.
///
/// # Errors
/// If it could not be done; that is exit code 2.
pub fn execute(options: &Options) -> Result<u8, CouldNotRun> {
    match &options.command {
        Some(CliCommand::Check { history, budget }) => check_again(history, *budget),
        None if options.chaos || options.kill_minority => fuzz_own_cluster(options),
        None => fuzz(&options.fuzz),
    }
}

fn check_again(path: &Path, budget: u64) -> Result<u8, CouldNotRun> {
    let file = File::open(path).map_err(trouble(path.display().to_string()))?;
    let history = History::read(BufReader::new(file))
        .map_err(|error| CouldNotRun::Options(format!("{}: {error}", path.display())))?;
    let verdict = check(&history, &linearize::Options { budget });
    let mut failures = Vec::new();
    let picture = report::draw(&history, &verdict, path, &mut failures);
    let mut text = format!("{} operations\n", history.operations.len());
    let _ = report::describe(&verdict, &mut text); // writing to a string cannot fail
    failures.iter().for_each(|failure| text += &format!("failure: {failure}\n"));
    text += &picture.map_or(String::new(), |picture| format!("picture: {}\n", picture.display()));
    let mut out = Out::open(None)?;
    out.say(&text)?;
    out.verdict(verdict.passed(), true)
}

fn fuzz(arguments: &Arguments) -> Result<u8, CouldNotRun> {
    let mut out = Out::open(arguments.log.as_deref())?;
    let options = options(arguments)?;
    let interrupted = Interrupted::watch().map_err(trouble("cannot watch signals"))?;
    let clients = if options.program.is_some() { "processes" } else { "clients of the library" };
    out.say(&format!(
        "{} {clients} on {} keys for {} s, seed {}, history in {}\n",
        options.clients,
        options.keys,
        options.length.as_secs(),
        options.seed,
        options.history.display()
    ))?;
    let stop = Arc::new(AtomicBool::new(false));
    let over = Arc::new(AtomicBool::new(false));
    let watcher = {
        let (stop, over) = (Arc::clone(&stop), Arc::clone(&over));
        thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if interrupted.signal().is_some() {
                    stop.store(true, Ordering::Relaxed);
                }
                thread::sleep(Duration::from_millis(LOOK_AGAIN_MS));
            }
        })
    };
    let report = run(options, &stop);
    over.store(true, Ordering::Relaxed);
    // It has nothing to say, even if it panicked.
    let _ = watcher.join();
    let report = report?;
    out.say(&report.to_string())?;
    out.verdict(report.passed, report.fair)
}

/// How many of 100 operations must be answered while faults are injected.
const CHAOS_ANSWERED_PERCENT_MIN: f64 = 60.0;
/// How long a client tries, while faults are injected, before it gives up on a request, in milliseconds. Some do.
const CHAOS_TIMEOUT_MS: u64 = 3_000;
/// In how many of 1000 cases a client dies meanwhile.
const CHAOS_DEATHS_PERMILLE: u32 = 1;

fn fuzz_own_cluster(options: &Options) -> Result<u8, CouldNotRun> {
    let mut out = Out::open(options.fuzz.log.as_deref())?;
    let mut how = self::options(&options.fuzz)?;
    if options.chaos {
        how.answered_percent_min = how.answered_percent_min.max(CHAOS_ANSWERED_PERCENT_MIN);
        how.timeout = how.timeout.or(Some(Duration::from_millis(CHAOS_TIMEOUT_MS)));
        how.deaths_permille = how.deaths_permille.max(CHAOS_DEATHS_PERMILLE);
    }
    let interrupted = Interrupted::watch().map_err(trouble("cannot watch signals"))?;
    out.say(&format!(
        "{} clients on {} keys, {} partitions of {} replicas, {} s, seed {}, history in {}\n",
        how.clients,
        how.keys,
        options.own.shape.partitions,
        options.own.shape.server_rf,
        how.length.as_secs(),
        how.seed,
        how.history.display()
    ))?;
    let mut said = Ok(());
    let mut say = |text: &str| said = std::mem::replace(&mut said, Ok(())).and_then(|()| out.say(text));
    let passed = if options.chaos {
        super::run::fuzz(&options.own, how, &interrupted, &mut say)
    } else {
        super::minority::fuzz(&options.own, how, &interrupted, &mut say)
    };
    said?;
    out.verdict(passed.map_err(|failure| CouldNotRun::Service(failure.0))?, true)
}

fn options(arguments: &Arguments) -> Result<FuzzOptions, CouldNotRun> {
    let managers =
        smr_service::args::addresses("--managers", &arguments.managers).map_err(|bad| CouldNotRun::Options(bad.0))?;
    let program = match arguments.clients {
        Clients::Library => None,
        Clients::Program => {
            let programs = Programs::beside_this_one().map_err(|error| CouldNotRun::Options(error.to_string()))?;
            Some(programs.path(CLIENT))
        }
    };
    let history = match (&arguments.history, &arguments.log) {
        (Some(history), _) => history.clone(),
        (None, Some(log)) => log.with_extension("history"),
        (None, None) => {
            let directory = tempfile::Builder::new().prefix("madkv-fuzz-").tempdir();
            directory.map_err(trouble("cannot make a fresh directory"))?.keep().join("history")
        }
    };
    Ok(FuzzOptions {
        clients: arguments.client_count,
        program,
        length: Duration::from_secs(arguments.seconds),
        operations: arguments.operations,
        seed: arguments.seed.unwrap_or_else(|| rand::random_range(0..1_000_000)),
        keys: arguments.keys as usize,
        skew: arguments.skew,
        weights: arguments.weights.unwrap_or_default(),
        value_bytes: arguments.value_bytes,
        prefix: arguments.prefix.clone(),
        timeout: arguments.timeout_ms.map(Duration::from_millis),
        hang_timeout: Duration::from_secs(arguments.hang_timeout),
        deaths_permille: arguments.deaths,
        answered_percent_min: arguments.answered_min,
        must_retry: arguments.must_retry,
        budget: arguments.budget,
        progress: true,
        ..FuzzOptions::new(managers, &history)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_chaos_parse_and_exclude_a_running_service() {
        let line =
            ["madkv-fuzz", "--chaos", "--server_rf", "5", "--seconds", "9", "--seed", "7", "--faults", "kill,net"];
        let run = Options::try_parse_from(line).unwrap();
        assert!(run.chaos && run.own.shape.server_rf == 5 && run.own.faults.len() == 2 && run.fuzz.seed == Some(7));
        assert!(Options::try_parse_from(["madkv-fuzz", "--kill_minority"]).unwrap().kill_minority);
        for wrong in
            [&["--chaos", "--managers", "h:1"][..], &["--chaos", "--kill_minority"], &["--chaos", "--faults", "x"]]
        {
            assert!(Options::try_parse_from([&["madkv-fuzz"], wrong].concat()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn verdict_has_the_line_of_the_course_and_then_ours() {
        assert_eq!(verdict(true, true), "Fuzz testing result: PASSED\nPASSED\n");
        assert_eq!(verdict(true, false), "Fuzz testing result: UNFAIR\nPASSED\n");
        assert_eq!(verdict(false, false), "Fuzz testing result: FAILED\nFAILED\n");
    }

    #[test]
    fn options_of_run_and_check_parse() {
        let run = Options::try_parse_from(["madkv-fuzz", "--managers", "h:1", "--must_retry", "--ops", "5"]).unwrap();
        assert!(run.command.is_none() && run.fuzz.must_retry && run.fuzz.operations == Some(5));
        let run = Options::try_parse_from(["madkv-fuzz", "--weights", "put=1,get=1", "--clients", "library"]).unwrap();
        assert_eq!(run.fuzz.clients, Clients::Library);
        assert!(Options::try_parse_from(["madkv-fuzz", "--weights", "jump=1"]).is_err());
        let check = Options::try_parse_from(["madkv-fuzz", "check", "file"]).unwrap();
        assert!(matches!(check.command, Some(CliCommand::Check { .. })));
    }
}
