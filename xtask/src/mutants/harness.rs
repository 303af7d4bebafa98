//! Those who are to find the bugs: seeded, so that "how long did it take" has an answer.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use super::tree::{Tree, TreeError};

/// How often a running harness is looked at.
const POLL: Duration = Duration::from_millis(20);
/// What it said is cut to this many characters in the table.
const SAID_MAX_CHARS: usize = 160;

/// A seeded harness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Harness {
    /// The simulator of whole Raft groups, as `madkv-sim` runs it. Built as an example of `smr-sim`, so that a bug
    /// costs a build of `smr` and that crate alone.
    Sim,
    /// The same for groups under a configuration service, of all their kinds: the same example with `--epochs`.
    SimEpochs,
    /// The same with real clients, listeners and maps: `madkv-sim --library`.
    Library,
    /// The tests of whole groups in `smr/tests/engine_cluster`, one seed at a time.
    EngineCluster,
    /// The tests of the storage layer in `smr/tests/storage`, which try every crash and not seeds.
    Storage,
    /// The golden scripts of the core, `smr/tests/scripts`: one rule each, without seeds.
    Scripts,
    /// The random walks of groups under a configuration service, `smr/tests/configured_random.rs`, one seed at a time.
    Configured,
    /// The golden scripts of that core, `smr/tests/configured_scripts`, without seeds.
    ConfiguredScripts,
    /// What a configuration service decides and grants: the unit tests of `smr`, without seeds.
    EpochService,
    /// What is asked of the disk when a snapshot is put in place, `smr/tests/engine_install.rs`, without seeds.
    EngineInstall,
    /// The duties of a replica's logic towards any core, `smr/tests/engine_duties`, without seeds.
    EngineDuties,
    /// The listener's own tests, in `smr-service/src`, without seeds.
    Listener,
    /// The client library against servers that say what a test wants, `madkv-client/tests` and the unit tests of
    /// `smr-service/src/client`, without seeds.
    Client,
}

/// What a harness came to.
#[derive(Debug)]
pub enum Run {
    /// It found something wrong, at this seed.
    Complained {
        /// The first such seed.
        seed: u64,
        /// Its words, or the first of them.
        said: String,
    },
    /// It found nothing.
    Silent {
        /// What it has tried.
        tried: String,
    },
}

impl Harness {
    const ALL: [Harness; 13] = [
        Harness::Sim,
        Harness::SimEpochs,
        Harness::Library,
        Harness::EngineCluster,
        Harness::Storage,
        Harness::Scripts,
        Harness::Configured,
        Harness::ConfiguredScripts,
        Harness::EpochService,
        Harness::EngineInstall,
        Harness::EngineDuties,
        Harness::Listener,
        Harness::Client,
    ];

    fn name(self) -> &'static str {
        match self {
            Harness::Sim => "sim",
            Harness::SimEpochs => "sim_epochs",
            Harness::Library => "library",
            Harness::EngineCluster => "engine_cluster",
            Harness::Storage => "storage",
            Harness::Scripts => "scripts",
            Harness::Configured => "configured",
            Harness::ConfiguredScripts => "configured_scripts",
            Harness::EpochService => "epoch_service",
            Harness::EngineInstall => "engine_install",
            Harness::EngineDuties => "engine_duties",
            Harness::Listener => "listener",
            Harness::Client => "client",
        }
    }

    /// Builds it in the copy.
    ///
    /// # Errors
    /// If the build fails: then the bug is none that anyone could commit.
    pub fn build(self, tree: &Tree) -> Result<Built, TreeError> {
        let arguments: &[&str] = match self {
            Harness::Sim | Harness::SimEpochs => &["build", "--package", "smr-sim", "--example", "simulate"],
            Harness::Library => &["build", "--package", "madkv-chaos", "--bin", "madkv-sim"],
            Harness::EngineCluster => &["test", "--package", "smr", "--test", "engine_cluster", "--no-run"],
            Harness::Storage => &["test", "--package", "smr", "--test", "storage", "--no-run"],
            Harness::Scripts => &["test", "--package", "smr", "--test", "raft_scripts", "--no-run"],
            Harness::Configured => &["test", "--package", "smr", "--test", "configured_random", "--no-run"],
            Harness::ConfiguredScripts => &["test", "--package", "smr", "--test", "configured_scripts", "--no-run"],
            Harness::EpochService => &["test", "--package", "smr", "--lib", "--no-run"],
            Harness::EngineInstall => &["test", "--package", "smr", "--test", "engine_install", "--no-run"],
            Harness::EngineDuties => &["test", "--package", "smr", "--test", "engine_duties", "--no-run"],
            Harness::Listener => &["test", "--package", "smr-service", "--lib", "--no-run"],
            Harness::Client => &[
                "test",
                "--package",
                "madkv-client",
                "--package",
                "smr-service",
                "--lib",
                "--test",
                "listener",
                "--test",
                "routing",
                "--test",
                "scan",
                "--test",
                "sessions",
                "--test",
                "to_all",
                "--no-run",
            ],
        };
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command
            .args(arguments)
            .current_dir(tree.path())
            .env("CARGO_TARGET_DIR", tree.target())
            // Many seeds are run of what is built once and thrown away.
            .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1")
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .env("CARGO_INCREMENTAL", "1")
            .stdin(Stdio::null());
        let output = command.output().map_err(|error| TreeError::Program(format!("{command:?}: {error}")))?;
        let words = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            let first = words.lines().find(|line| line.starts_with("error")).unwrap_or("no error said");
            return Err(TreeError::Program(format!("does not build: {first}")));
        }
        let programs = match self {
            Harness::Sim | Harness::SimEpochs => vec![tree.target().join("debug").join("examples").join("simulate")],
            Harness::Library => vec![tree.target().join("debug").join("madkv-sim")],
            _ => executables(&words),
        };
        if programs.is_empty() {
            return Err(TreeError::Program("no test executable".to_owned()));
        }
        // Cargo names them from where it was called, and the harness is called from elsewhere.
        Ok(Built { harness: self, programs: programs.into_iter().map(|program| tree.path().join(program)).collect() })
    }
}

/// The paths in cargo's lines `Executable tests/x.rs (path)`.
fn executables(words: &str) -> Vec<PathBuf> {
    let lines = words.lines().filter(|line| line.trim_start().starts_with("Executable"));
    let paths = lines.filter_map(|line| Some(line.rsplit_once('(')?.1.trim_end_matches(')')));
    paths.map(PathBuf::from).collect()
}

impl fmt::Display for Harness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Harness {
    type Err = String;

    fn from_str(name: &str) -> Result<Harness, String> {
        Harness::ALL.into_iter().find(|harness| harness.name() == name).ok_or(format!("{name} is no harness"))
    }
}

/// A harness that is ready to run.
#[derive(Debug)]
pub struct Built {
    harness: Harness,
    /// At least one. Only tests without seeds may be several.
    programs: Vec<PathBuf>,
}

impl Built {
    /// Runs it from seed 0 on, until it complains or the limits are reached.
    ///
    /// # Errors
    /// If it cannot be run, or ends in a way that is neither silence nor a complaint.
    pub fn run(&self, tree: &Tree, seeds: u64, time: Duration) -> Result<Run, TreeError> {
        let deadline = Instant::now() + time;
        let words = tree.target().join("said");
        match self.harness {
            Harness::Sim | Harness::SimEpochs | Harness::Library => {
                let mut command = Command::new(&self.programs[0]);
                let range = format!("0..{seeds}");
                match self.harness {
                    Harness::Library => command.args(["--library", "--seeds", &range]),
                    Harness::SimEpochs => command.args([&range, "--epochs"]),
                    _ => command.arg(&range),
                };
                Ok(match wait(&mut command, tree, &words, deadline)? {
                    (Some(true), _) => Run::Silent { tried: format!("{seeds} seeds") },
                    (Some(false), said) => complaint(&said)?,
                    // Ended while it went on after its first complaint, perhaps.
                    (None, said) => complaint(&said).unwrap_or(Run::Silent { tried: format!("{} s", time.as_secs()) }),
                })
            }
            Harness::EngineCluster | Harness::Configured => {
                for seed in 0..seeds {
                    let mut command = Command::new(&self.programs[0]);
                    // Of the walks, those with a sound service.
                    if self.harness == Harness::Configured {
                        command.arg("walks_keep_every_invariant");
                    }
                    command.arg("--quiet").env("SEEDS", format!("{seed}..{}", seed + 1));
                    match wait(&mut command, tree, &words, deadline)? {
                        (None, _) => return Ok(Run::Silent { tried: format!("{seed} seeds, {} s", time.as_secs()) }),
                        (Some(true), _) => {}
                        (Some(false), said) => return Ok(Run::Complained { seed, said: panic_of(&said) }),
                    }
                }
                Ok(Run::Silent { tried: format!("{seeds} seeds") })
            }
            Harness::Storage
            | Harness::Scripts
            | Harness::ConfiguredScripts
            | Harness::EpochService
            | Harness::EngineInstall
            | Harness::EngineDuties
            | Harness::Listener
            | Harness::Client => {
                for program in &self.programs {
                    let mut command = Command::new(program);
                    command.arg("--quiet");
                    match wait(&mut command, tree, &words, deadline)? {
                        (None, _) => return Ok(Run::Silent { tried: format!("{} s", time.as_secs()) }),
                        (Some(true), _) => {}
                        (Some(false), said) => return Ok(Run::Complained { seed: 0, said: panic_of(&said) }),
                    }
                }
                Ok(Run::Silent { tried: "all tests".to_owned() })
            }
        }
    }
}

/// Runs a program: whether it succeeded (`None` if it was ended at the deadline), and what it said.
fn wait(
    command: &mut Command,
    tree: &Tree,
    words: &Path,
    deadline: Instant,
) -> Result<(Option<bool>, String), TreeError> {
    let failed = |error: std::io::Error| TreeError::Program(error.to_string());
    let file = File::create(words).map_err(failed)?;
    command.current_dir(tree.path()).stdin(Stdio::null());
    command.stdout(file.try_clone().map_err(failed)?).stderr(file);
    let mut child = command.spawn().map_err(|error| TreeError::Program(format!("{command:?}: {error}")))?;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break Some(status.success());
        }
        if Instant::now() >= deadline {
            child.kill().and_then(|()| child.wait()).map_err(failed)?;
            break None;
        }
        std::thread::sleep(POLL);
    };
    let said = fs::read(words).map_err(failed)?;
    Ok((status, String::from_utf8_lossy(&said).into_owned()))
}

/// The first seed that `madkv-sim` complains about (several run at a time), and its words; exit code 2 is no complaint.
fn complaint(said: &str) -> Result<Run, TreeError> {
    let complaints = said.lines().filter_map(|line| {
        let (seed, words) = line.strip_prefix("seed ")?.split_once(": ")?;
        Some((seed.parse::<u64>().ok()?, words))
    });
    match complaints.min() {
        Some((seed, words)) => Ok(Run::Complained { seed, said: shortened(words) }),
        None if said.contains("no violation") => Ok(Run::Silent { tried: "all seeds".to_owned() }),
        None => Err(TreeError::Program(format!("names no seed: {}", shortened(said)))),
    }
}

/// The first words of a test that panicked.
fn panic_of(said: &str) -> String {
    let mut lines = said.lines().skip_while(|line| !line.contains("panicked at"));
    lines.nth(1).map_or_else(|| "failed without a panic".to_owned(), shortened)
}

fn shortened(said: &str) -> String {
    let line = said.trim().replace('\n', " ");
    if line.chars().count() <= SAID_MAX_CHARS {
        return line;
    }
    line.chars().take(SAID_MAX_CHARS).chain("…".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executable_and_panic_are_found_in_what_was_said() {
        let words = "   Compiling smr\n  \
            Executable tests/engine_cluster/main.rs (target/debug/deps/engine_cluster-1)\n  \
            Executable unittests src/lib.rs (target/debug/deps/x-2)\n";
        assert_eq!(
            executables(words),
            ["target/debug/deps/engine_cluster-1", "target/debug/deps/x-2"].map(PathBuf::from)
        );
        let said = "running 3 tests\n\nthread 'x' (7) panicked at smr/src/a.rs:1:2:\nseed 3: lost\nnote: run with\n";
        assert_eq!(panic_of(said), "seed 3: lost");
    }

    #[test]
    fn complaint_of_simulator_names_seed() {
        let words = "seed 18: I1: two\nseed 17: I8: entry 4 is on one disk\nslowest seed 3 with 1.0 s\n";
        let Ok(Run::Complained { seed, said }) = complaint(words) else { panic!("no complaint") };
        assert_eq!((seed, said.as_str()), (17, "I8: entry 4 is on one disk"));
        assert!(matches!(complaint("no violation, but this run proves little"), Ok(Run::Silent { .. })));
        assert!(complaint("something broke").is_err());
    }
}
