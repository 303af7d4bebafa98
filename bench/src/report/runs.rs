//! Which runs the report wants, and the logs of those that there are.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::ycsb::Workload;
use crate::ycsb::outcome::Outcome;

/// Where recipes keep their logs.
pub const LOGS_DEFAULT: &str = "/tmp/madkv-p3";
/// The replication factors at which every workload is run.
pub(super) const ALL_FACTORS: [u16; 3] = [1, 3, 5];
/// How many clients run every workload.
pub(super) const ALL_CLIENTS: u64 = 10;
/// The replication factors at which workload A is run with more and fewer clients.
pub(super) const SCALED_FACTORS: [u16; 2] = [1, 5];
/// With how many.
pub(super) const SCALED_CLIENTS: [u64; 4] = [1, 10, 20, 30];

/// A run of the benchmarker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bench {
    /// Clients.
    pub clients: u64,
    /// What they do.
    pub workload: Workload,
    /// Replicas of each partition.
    pub server_rf: u16,
}

/// A run of the fuzzer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fuzz {
    /// Replicas of each partition.
    pub server_rf: u16,
    /// Whether servers crashed meanwhile.
    pub crashing: bool,
}

/// A run that the report wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Run {
    /// Of the benchmarker.
    Bench(Bench),
    /// Of the fuzzer.
    Fuzz(Fuzz),
}

/// What a log of the fuzzer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fuzzed {
    /// Its last line was PASSED.
    pub passed: bool,
    /// The lines about numbers.
    pub lines: Vec<String>,
}

/// All logs that there are.
#[derive(Debug, Default)]
pub struct Logs {
    /// Of the benchmarker.
    pub bench: BTreeMap<Bench, Outcome>,
    /// Of the fuzzer.
    pub fuzz: BTreeMap<Fuzz, Fuzzed>,
    /// Of the benchmarker, but they do not count; why.
    pub unfit: BTreeMap<Bench, String>,
}

impl Run {
    /// All that the report wants, short ones and those that say most first.
    pub fn wanted() -> Vec<Run> {
        let every = ALL_FACTORS
            .into_iter()
            .flat_map(|server_rf| Workload::ALL.map(|workload| Bench { clients: ALL_CLIENTS, workload, server_rf }));
        let scaled = SCALED_FACTORS
            .into_iter()
            .flat_map(|server_rf| SCALED_CLIENTS.map(|clients| Bench { clients, workload: Workload::A, server_rf }));
        let mut wanted: Vec<Run> = every.map(Run::Bench).collect();
        wanted.extend(scaled.filter(|bench| bench.clients != ALL_CLIENTS).map(Run::Bench));
        wanted.extend([false, true].map(|crashing| Run::Fuzz(Fuzz { server_rf: 5, crashing })));
        wanted
    }

    /// Where its log is, below the directory of logs.
    pub fn log(self, logs: &Path) -> PathBuf {
        match self {
            Run::Bench(Bench { clients, workload, server_rf }) => {
                logs.join(format!("bench/bench-{clients}-{workload}-{server_rf}.log"))
            }
            Run::Fuzz(Fuzz { server_rf, crashing }) => {
                logs.join(format!("fuzz/fuzz-{server_rf}-{}.log", if crashing { "yes" } else { "no" }))
            }
        }
    }

    /// The command that makes it.
    pub fn command(self) -> String {
        match self {
            Run::Bench(Bench { clients, workload, server_rf }) => {
                format!("just p3::bench {clients} {workload} {server_rf}")
            }
            Run::Fuzz(Fuzz { server_rf, crashing }) => {
                format!("just p3::fuzz {server_rf} {}", if crashing { "yes" } else { "no" })
            }
        }
    }
}

impl Logs {
    /// Reads all logs below a directory. What is no log, or one that was torn, is as if it were not there.
    pub fn read(directory: &Path) -> Logs {
        let mut logs = Logs::default();
        for (name, text) in files(&directory.join("bench")) {
            if let (Some(bench), Some(outcome)) = (bench_name(&name), Outcome::parse(&text)) {
                match unfit(bench, &outcome) {
                    Some(why) => drop(logs.unfit.insert(bench, why)),
                    None => drop(logs.bench.insert(bench, outcome)),
                }
            }
        }
        for (name, text) in files(&directory.join("fuzz")) {
            if let (Some(fuzz), Some(fuzzed)) = (fuzz_name(&name), Fuzzed::parse(&text)) {
                logs.fuzz.insert(fuzz, fuzzed);
            }
        }
        logs
    }

    /// The runs that the report wants and that are not there.
    pub fn missing(&self) -> Vec<Run> {
        let is_there = |run: &Run| match run {
            Run::Bench(bench) => self.bench.contains_key(bench),
            Run::Fuzz(fuzz) => self.fuzz.contains_key(fuzz),
        };
        Run::wanted().into_iter().filter(|run| !is_there(run)).collect()
    }
}

fn files(directory: &Path) -> Vec<(String, String)> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let files = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        Some((name.strip_suffix(".log")?.to_owned(), fs::read_to_string(entry.path()).ok()?))
    });
    files.collect()
}

/// Why a run is not the one that its name says, if it is not.
fn unfit(bench: Bench, outcome: &Outcome) -> Option<String> {
    if let Some(failure) = &outcome.failure {
        return Some(failure.clone());
    }
    // "3", or "3 (5 was said)".
    let found: u16 = outcome.header("replication factor")?.split(' ').next()?.parse().ok()?;
    (found != bench.server_rf).then(|| format!("the service had {found} replicas of each partition"))
}

fn bench_name(name: &str) -> Option<Bench> {
    let [clients, workload, server_rf] = name.strip_prefix("bench-")?.split('-').collect::<Vec<_>>()[..] else {
        return None;
    };
    let workload = Workload::ALL.into_iter().find(|known| known.to_string() == workload)?;
    Some(Bench { clients: clients.parse().ok()?, workload, server_rf: server_rf.parse().ok()? })
}

fn fuzz_name(name: &str) -> Option<Fuzz> {
    let (server_rf, crashing) = name.strip_prefix("fuzz-")?.split_once('-')?;
    let crashing = match crashing {
        "yes" => true,
        "no" => false,
        _ => return None,
    };
    Some(Fuzz { server_rf: server_rf.parse().ok()?, crashing })
}

impl Fuzzed {
    fn parse(text: &str) -> Option<Fuzzed> {
        let passed = match text.lines().last()? {
            "PASSED" => true,
            "FAILED" => false,
            _ => return None,
        };
        let telling = ["operations in ", " answered; ", "linearizable: ", "NOT LINEARIZABLE", "failure: ", "UNDECIDED"];
        let lines = text.lines().filter(|line| telling.iter().any(|part| line.contains(part)));
        Some(Fuzzed { passed, lines: lines.map(|line| line.trim().to_owned()).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wanted_runs_are_24_of_the_benchmarker_and_2_of_the_fuzzer_each_once() {
        let mut wanted = Run::wanted();
        assert_eq!(wanted.iter().filter(|run| matches!(run, Run::Bench(_))).count(), 24);
        assert_eq!(wanted.len(), 26);
        wanted.sort();
        wanted.dedup();
        assert_eq!(wanted.len(), 26);
    }

    #[test]
    fn names_of_logs_are_read_back() {
        for run in Run::wanted() {
            let path = run.log(Path::new("/logs"));
            let name = path.file_stem().unwrap().to_str().unwrap();
            let found = bench_name(name).map(Run::Bench).or_else(|| fuzz_name(name).map(Run::Fuzz));
            assert_eq!(found, Some(run));
        }
        for wrong in ["bench-1-g-3", "bench-1-a", "bench-x-a-3", "fuzz-5-maybe", "fuzz-yes", "other"] {
            assert!(bench_name(wrong).is_none() && fuzz_name(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn fuzzed_log_without_a_verdict_is_none() {
        let log = "5 processes on 5 keys\n123 operations in 30.0 s, 4 per second\n\
            linearizable: 5 keys, 9 looked at\nPASSED\n";
        let fuzzed = Fuzzed::parse(log).unwrap();
        assert!(fuzzed.passed);
        assert_eq!(fuzzed.lines.len(), 2);
        assert_eq!(Fuzzed::parse("5 processes on 5 keys\n"), None);
        assert!(!Fuzzed::parse("failure: client 3 hangs\nFAILED\n").unwrap().passed);
    }
}
