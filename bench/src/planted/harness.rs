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
/// What it said is cut to so many characters in the table.
const SAID_MAX_CHARS: usize = 160;

/// A seeded harness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Harness {
    /// The simulator of whole groups: `madkv-sim`.
    Sim,
    /// The tests of whole groups in `smr/tests/engine_cluster`, one seed at a time.
    EngineCluster,
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
    const ALL: [Harness; 2] = [Harness::Sim, Harness::EngineCluster];

    fn name(self) -> &'static str {
        match self {
            Harness::Sim => "sim",
            Harness::EngineCluster => "engine_cluster",
        }
    }

    /// Builds it in the copy.
    ///
    /// # Errors
    /// If the build fails: then the bug is none that anybody could commit.
    pub fn build(self, tree: &Tree) -> Result<Built, TreeError> {
        let arguments: &[&str] = match self {
            Harness::Sim => &["build", "--package", "madkv-bench", "--bin", "madkv-sim"],
            Harness::EngineCluster => &["test", "--package", "smr", "--test", "engine_cluster", "--no-run"],
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
        let program = match self {
            Harness::Sim => tree.target().join("debug").join("madkv-sim"),
            Harness::EngineCluster => executable(&words).ok_or(TreeError::Program("no test executable".to_owned()))?,
        };
        // Cargo names it from where it was called, and the harness is called from elsewhere.
        Ok(Built { harness: self, program: tree.path().join(program) })
    }
}

/// The path in cargo's line `Executable tests/x.rs (path)`.
fn executable(words: &str) -> Option<PathBuf> {
    let line = words.lines().find(|line| line.trim_start().starts_with("Executable"))?;
    let (_, rest) = line.split_once('(')?;
    Some(PathBuf::from(rest.trim_end_matches(')')))
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
    program: PathBuf,
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
            Harness::Sim => {
                let mut command = Command::new(&self.program);
                command.args(["--seeds", &format!("0..{seeds}")]);
                Ok(match wait(&mut command, tree, &words, deadline)? {
                    None => Run::Silent { tried: format!("{} s", time.as_secs()) },
                    Some((true, _)) => Run::Silent { tried: format!("{seeds} seeds") },
                    Some((false, said)) => complaint(&said)?,
                })
            }
            Harness::EngineCluster => {
                for seed in 0..seeds {
                    let mut command = Command::new(&self.program);
                    command.arg("--quiet").env("SEEDS", format!("{seed}..{}", seed + 1));
                    match wait(&mut command, tree, &words, deadline)? {
                        None => return Ok(Run::Silent { tried: format!("{seed} seeds, {} s", time.as_secs()) }),
                        Some((true, _)) => {}
                        Some((false, said)) => return Ok(Run::Complained { seed, said: panic_of(&said) }),
                    }
                }
                Ok(Run::Silent { tried: format!("{seeds} seeds") })
            }
        }
    }
}

/// Runs a program: whether it succeeded, and what it said; `None` if it was ended at the deadline.
fn wait(
    command: &mut Command,
    tree: &Tree,
    words: &Path,
    deadline: Instant,
) -> Result<Option<(bool, String)>, TreeError> {
    let failed = |error: std::io::Error| TreeError::Program(error.to_string());
    let file = File::create(words).map_err(failed)?;
    command.current_dir(tree.path()).stdin(Stdio::null());
    command.stdout(file.try_clone().map_err(failed)?).stderr(file);
    let mut child = command.spawn().map_err(|error| TreeError::Program(format!("{command:?}: {error}")))?;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill().and_then(|()| child.wait()).map_err(failed)?;
            return Ok(None);
        }
        std::thread::sleep(POLL);
    };
    let said = fs::read(words).map_err(failed)?;
    Ok(Some((status.success(), String::from_utf8_lossy(&said).into_owned())))
}

/// The seed and the words of `madkv-sim`.
fn complaint(said: &str) -> Result<Run, TreeError> {
    let line = said.lines().find(|line| line.contains("seed ") && line.contains(':'));
    let seed = line.and_then(|line| line.split_once("seed ")).and_then(|(_, rest)| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    });
    match (line, seed) {
        (Some(line), Some(seed)) => Ok(Run::Complained { seed, said: shortened(line) }),
        _ => Err(TreeError::Program(format!("names no seed: {}", shortened(said)))),
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
        let words =
            "   Compiling smr\n  Executable tests/engine_cluster/main.rs (target/debug/deps/engine_cluster-1)\n";
        assert_eq!(executable(words), Some(PathBuf::from("target/debug/deps/engine_cluster-1")));
        let said = "running 3 tests\n\nthread 'x' (7) panicked at smr/src/a.rs:1:2:\nseed 3: lost\nnote: run with\n";
        assert_eq!(panic_of(said), "seed 3: lost");
    }

    #[test]
    fn complaint_of_simulator_names_seed() {
        let Ok(Run::Complained { seed, said }) = complaint("starting\nseed 17: I8: entry 4 is on one disk\n") else {
            panic!("no complaint")
        };
        assert_eq!((seed, said.as_str()), (17, "seed 17: I8: entry 4 is on one disk"));
        assert!(complaint("something broke").is_err());
    }
}
