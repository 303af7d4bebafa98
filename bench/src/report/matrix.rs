//! All runs that the report wants and that are missing, one after the other, each on a cluster of its own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::{Args, Parser};

use crate::report::runs::{self, Bench, Fuzz, Logs, Run};
use crate::ycsb::INTERRUPTED;
use crate::ycsb::command::{self, can_keep};
use madkv_testkit::launcher::Interrupted;
use madkv_testkit::measure::Trouble;
use madkv_testkit::programs::{FUZZER, Programs};

/// What is guessed for a run's time beyond its measured phase, before there is experience: start, load, check.
const AROUND_A_RUN: Duration = Duration::from_secs(15);

/// Which runs to make, and how.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Where the logs are kept: below it in `bench/` and `fuzz/`
    #[arg(long, default_value = runs::LOGS_DEFAULT, value_name = "DIRECTORY")]
    pub logs: PathBuf,
    /// Make those again too whose logs are there
    #[arg(long)]
    pub again: bool,
    /// The longest that a run is measured, in seconds
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// Partitions of each cluster
    #[arg(long, default_value_t = 2)]
    pub partitions: u16,
    /// A further option for each run of the benchmarker, for example --run_option=--clients=library; see `ycsb --help`
    #[arg(long = "run_option", alias = "run-option", value_name = "OPTION", allow_hyphen_values = true)]
    pub run_options: Vec<OsString>,
    /// Say what would be run, and run nothing
    #[arg(long)]
    pub list: bool,
}

/// The options of one run, parsed as from a command line.
#[derive(Parser)]
struct Line {
    #[command(flatten)]
    options: command::Options,
}

/// Makes the runs; whether all passed. One that cannot be carried out does not keep the others from being made.
///
/// # Errors
/// If none can be made, or a signal came.
pub fn run(options: &Options) -> Result<bool, Trouble> {
    let missing = if options.again { Run::wanted() } else { Logs::read(&options.logs).missing() };
    if options.list {
        missing.iter().for_each(|run| println!("{}", run.command()));
        return Ok(true);
    }
    let interrupted = Interrupted::watch()?;
    // Once: what is built meanwhile is not mixed in.
    let programs = Programs::beside_this_one()?;
    if let Some(first) = missing.first() {
        can_keep(&first.log(&options.logs))?;
    }
    let start = Instant::now();
    let mut experience = Experience { longest: Duration::from_secs(options.seconds), took: Vec::new() };
    let mut wrong = Vec::new();
    for (done, &run) in missing.iter().enumerate() {
        let minutes = experience.left(&missing[done..]).as_secs().div_ceil(60);
        println!("[{} of {}] {}; at most {minutes} min left", done + 1, missing.len(), run.command());
        let begun = Instant::now();
        let passed = make(options, run, &programs, &interrupted);
        if interrupted.signal().is_some() {
            return Err(INTERRUPTED.into());
        }
        experience.took.push((run, begun.elapsed()));
        match passed {
            Ok(true) => {}
            Ok(false) => wrong.push(format!("{}: FAILED, see its log", run.command())),
            Err(error) => {
                println!("  {error}");
                wrong.push(format!("{}: {error}", run.command()));
            }
        }
    }
    let made = missing.len() - wrong.len();
    println!(
        "{made} of {} runs made, in {} min; now: just p3::report",
        missing.len(),
        start.elapsed().as_secs().div_ceil(60)
    );
    wrong.iter().for_each(|run| println!("{run}"));
    Ok(wrong.is_empty())
}

/// How long runs took, and so will take.
struct Experience {
    /// The longest that a run is measured.
    longest: Duration,
    took: Vec<(Run, Duration)>,
}

impl Experience {
    /// How long these runs will take: each as long as those with as many replicas took on average, as far as there were
    /// any; or else, because a run may end before its time, at most as long as it may be measured, and what the others
    /// took around that.
    fn left(&self, runs: &[Run]) -> Duration {
        let around =
            self.took.iter().filter_map(|(_, took)| took.checked_sub(self.longest)).max().unwrap_or(AROUND_A_RUN);
        let each = |run: &Run| {
            let alike: Vec<Duration> =
                self.took.iter().filter(|(other, _)| shape(*other) == shape(*run)).map(|(_, took)| *took).collect();
            match u32::try_from(alike.len()) {
                Ok(count) if count > 0 => alike.iter().sum::<Duration>() / count,
                _ => self.longest + around,
            }
        };
        runs.iter().map(each).sum()
    }
}

/// What decides how long a run takes: fuzzed or not, and the number of replicas.
fn shape(run: Run) -> (bool, u16) {
    match run {
        Run::Bench(bench) => (false, bench.server_rf),
        Run::Fuzz(fuzz) => (true, fuzz.server_rf),
    }
}

fn make(options: &Options, run: Run, programs: &Programs, interrupted: &Interrupted) -> Result<bool, Trouble> {
    let log = run.log(&options.logs);
    can_keep(&log)?;
    match run {
        Run::Bench(bench) => make_bench(options, bench, &log, programs, interrupted),
        Run::Fuzz(fuzz) => make_fuzz(options, fuzz, &log, programs),
    }
}

fn line(options: &Options, bench: Bench, log: &Path) -> Vec<OsString> {
    let Bench { clients, workload, server_rf } = bench;
    let fixed = [
        ("--nclis", clients.to_string()),
        ("--workload", workload.to_string()),
        ("--server_rf", server_rf.to_string()),
        ("--partitions", options.partitions.to_string()),
        ("--seconds", options.seconds.to_string()),
    ];
    let mut line: Vec<OsString> = vec!["ycsb".into()];
    line.extend(fixed.into_iter().flat_map(|(name, value)| [name.into(), value.into()]));
    line.extend(["--log".into(), log.into()]);
    line.extend(options.run_options.iter().cloned());
    line
}

fn make_bench(
    options: &Options,
    bench: Bench,
    log: &Path,
    programs: &Programs,
    interrupted: &Interrupted,
) -> Result<bool, Trouble> {
    let options = Line::try_parse_from(line(options, bench, log))?.options;
    let outcome = command::measure(&options, programs, &|| interrupted.signal().is_some())?;
    command::keep(log, &outcome)?;
    if let Some(failure) = outcome.failure {
        return Err(failure.into());
    }
    let all = outcome.all();
    println!("  {:.0} operations per second, mean {:.2} ms, p99 {:.2} ms", outcome.rate, all.mean_ms, all.p99_ms);
    outcome.verification.iter().for_each(|said| println!("  {said}"));
    Ok(outcome.passed)
}

fn make_fuzz(options: &Options, fuzz: Fuzz, log: &Path, programs: &Programs) -> Result<bool, Trouble> {
    let mut command = Command::new(programs.path(FUZZER));
    command.args(["--nclis", "5", "--seconds", &options.seconds.to_string(), "--log"]).arg(log).env_remove("CARGO");
    let mut store = None;
    if fuzz.crashing {
        command.args(["--kill_minority", "--must_retry", "--server_rf", &fuzz.server_rf.to_string()]);
        command.args(["--partitions", &options.partitions.to_string()]);
    } else {
        let line = [
            "ycsb".to_owned(),
            format!("--server_rf={}", fuzz.server_rf),
            format!("--partitions={}", options.partitions),
        ];
        let own = Line::try_parse_from(line)?.options;
        let (store, _) = store.insert(command::start_own(&own, programs)?);
        command.arg("--managers").arg(store.cluster().manager_addresses());
    }
    Ok(command.status()?.success())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ycsb::Workload;

    #[test]
    fn left_is_what_runs_with_as_many_replicas_took_or_else_the_longest() {
        let bench = |server_rf| Run::Bench(Bench { clients: 10, workload: Workload::A, server_rf });
        let fuzz = Run::Fuzz(Fuzz { server_rf: 5, crashing: true });
        let seconds = Duration::from_secs;
        let mut experience = Experience { longest: seconds(30), took: Vec::new() };
        assert_eq!(experience.left(&[bench(1), bench(5)]), 2 * (seconds(30) + AROUND_A_RUN));
        // Runs that ended before their time do not tell.
        experience.took = vec![(bench(1), seconds(12))];
        assert_eq!(experience.left(&[bench(5)]), seconds(30) + AROUND_A_RUN);
        experience.took = vec![(bench(1), seconds(12)), (bench(1), seconds(18)), (bench(3), seconds(36))];
        // RF 1 as before; the others of which nothing is known at most as long as any around its 30 s.
        assert_eq!(experience.left(&[bench(1), bench(5), fuzz]), seconds(15 + 36 + 36));
        assert_eq!(experience.left(&[]), Duration::ZERO);
    }

    #[derive(Parser)]
    struct Matrix {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn line_of_each_wanted_run_is_one_that_the_benchmarker_takes() {
        let given = ["x", "--run_option=--clients", "--run_option=library", "--seconds", "7"];
        let options = Matrix::try_parse_from(given).unwrap().options;
        for run in Run::wanted() {
            let Run::Bench(bench) = run else { continue };
            let parsed = Line::try_parse_from(line(&options, bench, Path::new("/l"))).unwrap().options;
            assert_eq!(
                (parsed.workload, parsed.client_count, parsed.server_rf),
                (bench.workload, bench.clients, bench.server_rf)
            );
            assert_eq!((parsed.clients, parsed.seconds), (command::Clients::Library, Some(7.0)));
        }
        assert_eq!(options.partitions, 2);
        assert_eq!(Workload::ALL.len(), 6);
    }
}
